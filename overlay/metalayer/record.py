"""What is known of a layer, in one file beside it, and whether layer and base are still as they were made.

The file holds fields, each a line ``NAME LENGTH`` and so many bytes, and at the end a checksum: a file that a power
failure cut or a hand changed is not believed.
"""

from __future__ import annotations

import os
import zlib

from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

    from overlay.metalayer.node import Node

MAGIC: Final = b"sifkit layer of a base 1\n"
_LONGEST_PATH: Final = 3800  # with the layer's own path in front of it, what stat(2) takes


class BadRecord(ValueError):
    """The file is no record, cut, or changed."""


class Record(NamedTuple):
    """``kind``: metadata or directory. ``key``: what makes the base what it is. ``base``: its path.

    ``entries``: in the layer; ``base_entries``: in the base. ``space``: bytes on disk. ``last``: newest ctime in the
    layer, ns. ``directories``: path and ctime of each of its directories. ``fingerprint``: of a base that nothing
    else identifies. ``unreadable``, ``left_out``: paths.
    """

    kind: str
    key: bytes
    base: bytes
    entries: int
    base_entries: int
    space: int
    last: int
    directories: bytes
    fingerprint: bytes
    unreadable: tuple[bytes, ...]
    left_out: tuple[bytes, ...]


def encode(record: Record) -> bytes:
    """``record`` as the bytes of its file."""
    fields = {
        b"kind": record.kind.encode(), b"key": record.key, b"base": record.base,
        b"entries": b"%d" % record.entries, b"base_entries": b"%d" % record.base_entries,
        b"space": b"%d" % record.space, b"last": b"%d" % record.last,
        b"directories": record.directories, b"fingerprint": record.fingerprint,
        b"unreadable": b"\0".join(record.unreadable), b"left_out": b"\0".join(record.left_out),
    }  # fmt: skip
    body = MAGIC + b"".join(b"%s %d\n%s\n" % (name, len(value), value) for name, value in fields.items())
    return body + b"crc32 %08x\n" % zlib.crc32(body)


def decode(data: bytes) -> Record:
    """The record in ``data``. Raises `BadRecord`."""
    body, end = data[:-15], data[-15:]
    if not body.startswith(MAGIC) or end != b"crc32 %08x\n" % zlib.crc32(body):
        raise BadRecord("it is cut or damaged")
    fields = {}
    at = len(MAGIC)
    try:
        while at < len(body):
            line = body.index(b"\n", at)
            name, length = body[at:line].split(b" ")
            fields[name] = body[line + 1 : line + 1 + int(length)]
            at = line + 2 + int(length)
        return Record(
            fields[b"kind"].decode(), fields[b"key"], fields[b"base"], int(fields[b"entries"]),
            int(fields[b"base_entries"]), int(fields[b"space"]), int(fields[b"last"]), fields[b"directories"],
            fields[b"fingerprint"], _paths(fields[b"unreadable"]), _paths(fields[b"left_out"]),
        )  # fmt: skip
    except (KeyError, ValueError) as error:
        raise BadRecord(str(error)) from None


def _paths(value: bytes) -> tuple[bytes, ...]:
    return tuple(value.split(b"\0")) if value else ()


# -- the base, where nothing else says that it is the same ---------------------------------------------------


def print_of(nodes: Iterable[Node], files: bool) -> Iterator[tuple[bytes, bytes]]:
    """Each node with what changes when it does; of a directory layer, directories alone (``files`` false)."""
    for node in nodes:
        if files or node.is_directory:
            yield node.path, b"%o %d %d %d" % (node.mode, node.size, node.mtime_ns, node.ctime_ns)


def fingerprint(printed: Iterable[tuple[bytes, bytes]]) -> bytes:
    """`print_of` as one text, the same in whatever order the nodes came."""
    return b"\0".join(b"\0".join(pair) for pair in sorted(printed))


def first_difference(old: bytes, new: bytes) -> bytes:
    """A path at which two fingerprints differ; the top is ``b"."``."""
    pairs = []
    for text in (old, new):
        parts = text.split(b"\0")
        pairs.append(set(zip(parts[::2], parts[1::2], strict=False)))
    # A file that changed, rather than its directory that has changed with it.
    return max(pairs[0] ^ pairs[1], default=(b".", b""))[0] or b"."


def known_directories(old: bytes, base: str) -> Iterator[tuple[bytes, bytes]]:
    """`print_of` of the directories that the fingerprint ``old`` names, as they are now, without a walk.

    Enough for a directory layer: nothing appears or goes without its directory's times changing.
    """
    top = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in old.split(b"\0")[::2]:
            try:
                found = _stat(top, path)
            except OSError:  # gone, which is a difference
                continue
            yield path, b"%o %d %d %d" % (found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    finally:
        os.close(top)


def _stat(top: int, path: bytes) -> os.stat_result:
    if len(path) < _LONGEST_PATH:
        return os.stat(path or b".", dir_fd=top, follow_symlinks=False)
    from overlay import deep

    place, name = deep.split(path)
    here = deep.open_below(top, place)
    try:
        return os.stat(name, dir_fd=here, follow_symlinks=False)
    finally:
        os.close(here)


# -- the layer: was anything changed, added or removed from outside? ------------------------------------------


def directories(changed: Iterable[tuple[bytes, int]]) -> bytes:
    """Paths and ctimes of directories as one text."""
    return b"\0".join(b"%d\0%s" % (ctime, path) for path, ctime in sorted(changed))


def damage(record: Record, tree: str, thorough: bool) -> bytes | None:
    """A path at which the layer in ``tree`` is no longer as it was made; None when it is whole.

    The ctime of each directory tells of what was made, removed or renamed in it; no program can set it.
    ``thorough``: those of all else tell of changes of the files themselves; that takes a look at each.
    """
    lead = os.fsencode(tree) + b"/"
    parts = record.directories.split(b"\0")
    for ctime, path in zip(parts[::2], parts[1::2], strict=True):
        if len(path) > _LONGEST_PATH:
            continue
        try:
            found = os.lstat(lead + path)
        except OSError:
            return path or b"."
        if b"%d" % found.st_ctime_ns != ctime:
            return path or b"."
    return _changed_file(record, tree) if thorough else None


def _changed_file(record: Record, tree: str) -> bytes | None:
    lead = os.fsencode(tree) + b"/"
    parts = record.directories.split(b"\0")
    for path in parts[1::2]:
        if len(path) > _LONGEST_PATH:
            continue
        with os.scandir(lead + path) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_ctime_ns > record.last:
                    return path + b"/" + entry.name if path else entry.name
    return None
