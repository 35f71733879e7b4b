"""What is odd about an overlay though its file system is sound, and mending it: marks for deleted names that not
every driver reads, what killed runs left in work/, and entries that their owner cannot read.

In an image everything is done by debugfs, as nothing may be mounted; the caller has it checked before and after.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from overlay import e2fsprogs, whiteout
from overlay.extread.reader import ExtReader
from overlay.section import Section
from overlay.whiteout import KERNEL_MARK

WHITEOUT, LEFT_OVER, CLOSED = "whiteout", "left over", "closed"

# What kernel overlayfs keeps in work/ while nobody uses it.
_OWN: Final = (b"work", b"index")


class Oddity(NamedTuple):
    """``path`` begins in the overlay (``upper/...``, ``work/...``); ``kind`` is one of the three above."""

    kind: str
    path: bytes
    text: str


def of_image(section: Section) -> list[Oddity]:
    """What is odd in the image. Raises OSError, ExtError."""
    found = []
    with ExtReader(section) as reader:
        marks = whiteout.scan_image(reader)
        found += [_marker(b"upper/" + path) for path in sorted(marks.markers)]
        for path, kinds in sorted(marks.opaque.items()):
            if kinds and KERNEL_MARK not in kinds:
                found.append(_half_opaque(_join(b"upper", path)))
        for path, inode in reader.walk(b"/upper"):
            found += _closed(_join(b"upper", path), inode.mode)
        found += [_left_over(_join(b"work", path)) for path, _ in reader.walk(b"/work") if _is_left_over(path)]
    return found


def of_directory(overlay: str) -> list[Oddity]:
    """What is odd in the directory overlay; directories that cannot be listed are ``closed``. Raises OSError."""
    top = os.fsencode(overlay)
    found = []
    for path, mode, names in _walk(top, b"upper"):
        found += _closed(path, mode)
        if stat.S_ISDIR(mode):
            found += [
                _marker(_join(path, name))
                for name, is_directory in names.items()
                if not is_directory and (whiteout.deleted_name(name) or name in whiteout.OPAQUE_NAMES)
            ]
            if _is_half_opaque(os.path.join(top, path)):
                found.append(_half_opaque(path))
    for path, _, _ in _walk(top, b"work"):
        if _is_left_over(path.removeprefix(b"work").lstrip(b"/")):
            found.append(_left_over(path))
    return found


def _walk(top: bytes, start: bytes) -> Iterator[tuple[bytes, int, dict[bytes, bool]]]:
    """Path, mode and, of a directory that can be listed, its names and which of them are directories."""
    waiting = [start] if os.path.lexists(os.path.join(top, start)) else []
    while waiting:
        path = waiting.pop()
        mode = os.lstat(os.path.join(top, path)).st_mode
        names: dict[bytes, bool] = {}
        if stat.S_ISDIR(mode):
            try:
                with os.scandir(os.path.join(top, path)) as entries:
                    names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
            except PermissionError:  # `_closed` says so, and --fix opens it
                names = {}
        yield path, mode, names
        waiting += [_join(path, name) for name in sorted(names, reverse=True)]


def _is_half_opaque(directory: bytes) -> bool:
    try:
        present = os.listxattr(directory, follow_symlinks=False)
    except OSError:  # no attributes there, or closed to us: then there is nothing to be said of them
        return False
    return KERNEL_MARK not in present and any(mark in present for mark in whiteout.OPAQUE_MARKS)


def _marker(path: bytes) -> Oddity:
    return Oddity(WHITEOUT, path, "marks something as deleted in a spelling that the kernel shows as a file")


def _half_opaque(path: bytes) -> Oddity:
    return Oddity(WHITEOUT, path, "replaces a directory in a spelling that the kernel does not read")


def _left_over(path: bytes) -> Oddity:
    return Oddity(LEFT_OVER, path, "left by a run that was killed")


def _is_left_over(path: bytes) -> bool:
    return bool(path) and path not in _OWN


def _closed(path: bytes, mode: int) -> list[Oddity]:
    needed = {stat.S_IFDIR: 0o500, stat.S_IFREG: 0o400}.get(stat.S_IFMT(mode), 0)
    if mode & needed == needed:
        return []
    return [Oddity(CLOSED, path, f"cannot be read by its owner (mode {stat.S_IMODE(mode):04o})")]


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if name else parent


def _opened(mode: int) -> int:
    return mode | (0o700 if stat.S_ISDIR(mode) else 0o400)


def mend_directory(overlay: str, found: list[Oddity]) -> None:
    """Mend what was found, and what shows when a closed directory is open. Raises OSError where one may not."""
    top = os.fsencode(overlay)
    while closed := [oddity for oddity in found if oddity.kind == CLOSED]:
        for oddity in closed:
            path = os.path.join(top, oddity.path)
            os.chmod(path, stat.S_IMODE(_opened(os.lstat(path).st_mode)))
        found = of_directory(overlay)
    if any(oddity.kind == WHITEOUT for oddity in found):
        whiteout.normalise_directory(os.path.join(overlay, "upper"))
    for name in _OWN:  # mode 000 in the kernel's hands
        path = os.path.join(top, b"work", name)
        if os.path.isdir(path):
            os.chmod(path, 0o700)
    for oddity in of_directory(overlay):
        if oddity.kind == LEFT_OVER and oddity.path.count(b"/") <= 2:
            _remove(os.path.join(top, oddity.path))


def _remove(path: bytes) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:  # with the directory it was in
        return
    if not stat.S_ISDIR(mode):
        os.unlink(path)
        return
    os.chmod(path, 0o700)
    for name in os.listdir(path):
        _remove(os.path.join(path, name))
    os.rmdir(path)


def mend_image(section: Section, found: list[Oddity]) -> None:
    """Mend what was found, as far as debugfs can name it (no newlines). Raises ToolError, OSError, ExtError."""
    with ExtReader(section) as reader:
        commands = [command for oddity in found for command in _commands(reader, oddity) if _can_be_named(command)]
        work = [path for path, inode in reader.walk(b"/work") if _is_left_over(path)]
        for path in sorted(work, key=lambda path: path.count(b"/"), reverse=True):  # what is in them first
            inode = reader.lookup(_join(b"work", path))
            command = [b"rmdir" if inode and inode.is_directory else b"rm", _join(b"/work", path)]
            commands += [command] if _can_be_named(command) else []
    if commands:
        e2fsprogs.debugfs(section, commands, write=True)


def _can_be_named(command: list[bytes]) -> bool:
    return not any(b"\n" in word for word in command)


def _commands(reader: ExtReader, oddity: Oddity) -> Iterator[list[bytes]]:
    path = b"/" + oddity.path
    if oddity.kind == CLOSED:
        inode = reader.lookup(path)
        if inode is not None:
            yield [b"set_inode_field", path, b"mode", b"0%o" % _opened(inode.mode)]
    elif oddity.kind == WHITEOUT:
        directory, _, name = path.rpartition(b"/")
        marked = whiteout.deleted_name(name)
        if name in whiteout.OPAQUE_NAMES:
            yield _mark(directory)
        elif marked is None:
            yield _mark(path)
            return
        else:
            yield from _spell(reader, directory, marked)
        yield [b"rm", path]


def _spell(reader: ExtReader, directory: bytes, marked: bytes) -> Iterator[list[bytes]]:
    """Say that ``marked`` is deleted, or was made again in place of all it held, so that the kernel reads it."""
    again, parent = reader.lookup(directory + b"/" + marked), reader.lookup(directory)
    if again is not None and again.is_directory:
        yield _mark(directory + b"/" + marked)
    elif again is None and parent is not None and b"\n" not in directory + marked:
        yield [b"cd", directory]
        yield [b"mknod", marked, b"c", b"0", b"0"]
        for field, value in ((b"uid", parent.uid), (b"gid", parent.gid)):
            yield [b"set_inode_field", directory + b"/" + marked, field, b"%d" % value]


def _mark(directory: bytes) -> list[bytes]:
    return [b"ea_set", directory, KERNEL_MARK.encode(), b"y"]
