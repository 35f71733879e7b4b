"""Layers over a base that belongs to somebody else: found in the cache, or made.

A metadata layer has everything of the base but the content of its files; a directory layer has its directories
alone. Both belong to the caller. ``lowerdir=METADATA::BASE`` and ``lowerdir=DIRECTORY:BASE`` are what the kernel
mounts (`overlay.stack.mount.Parts`).
"""

from __future__ import annotations

import os

from overlay import revision
from overlay.metalayer import cache as metalayer_cache
from overlay.metalayer import record as metalayer_record
from overlay.metalayer.cache import Stored, Untrusted
from overlay.metalayer.record import BadRecord, Record
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.revision import Revision

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Final, Literal, Protocol

    from overlay.metalayer.node import Node, Nodes
    from overlay.metalayer.walk import Walk

    class Says(Protocol):
        """What is told while a layer is found or made."""

        def warning(self, text: str) -> None: ...
        def info(self, text: str) -> None: ...
        def task(self, text: str) -> AbstractContextManager[Callable[[int], None]]: ...

    Kind = Literal["metadata", "directory"]


# A base that nothing identifies is walked before each run; past so many entries that takes too long.
MOST_WALKED: Final = 50_000
# Of a layer that is identified without a walk, only directories are looked at past so many entries.
MOST_LOOKED_AT: Final = 2_000

# Where ducc puts an image's tree: below the digest of its configuration, so it never changes.
_FLAT: Final = r"/\.flat/[0-9a-f]{2}/([0-9a-f]{32,128})(/.*)?$"


class Unavailable(Exception):
    """There is no such layer and none can be made; the text says why."""


class Base(NamedTuple):
    """A base and what makes it the base it is. ``key``: empty when only a walk can tell if it changed."""

    path: str
    key: bytes
    revision: Revision | None
    by_name: bool = False

    @property
    def known(self) -> bool:
        """Whether it is identified without a walk."""
        return bool(self.key)


class TooMany(Exception):
    """There is more in the base than would be looked at before each run."""


class Asked(NamedTuple):
    """``owners``: files keep theirs, which takes root. ``most_bytes``: of the whole cache.

    ``explicit``: this kind was asked for, so a walk of any length is meant.
    """

    kind: Kind
    owners: bool = False
    most_bytes: int = 2 << 30
    explicit: bool = False


def base_of(path: str, known: Revision | None = None) -> Base:
    """The base in the directory ``path``, and what identifies it now; ``known``: the repository it was found in."""
    path = os.path.realpath(path)
    found = revision.at(known.point) if known else revision.of(path)
    if found is None:
        return Base(path, b"", None)
    import re  # of no use to a base on a disk

    inside = path.removeprefix(found.point)
    if match := re.search(_FLAT, inside):
        key = f"digest\0{found.name}\0{match[1]}\0{match[2] or ''}"
        return Base(path, os.fsencode(key), found, by_name=True)
    return Base(path, os.fsencode(f"revision\0{found.name}\0{found.root_hash}\0{inside}"), found)


def find(base: Base, asked: Asked, says: Says) -> Stored | None:
    """The layer of ``base`` in the cache, locked and looked at; None when there is none that can be used.

    Raises OSError when the cache itself cannot be read or is not to be trusted.
    """
    found = _load(base, asked, says)
    if found is None:
        return None
    thorough = not base.known or found.record.entries <= MOST_LOOKED_AT
    place = metalayer_record.damage(found.record, found.tree, thorough)
    if place is not None:
        says.warning(f"the cached layer of {base.path} was changed from outside ({_shown(place)}): it is not used")
    elif not base.known:
        place = _changed(base, asked, found.record)
        if place is not None:
            says.warning(f"{base.path} has changed ({_shown(place)}): its cached layer is not used")
    if place is not None:
        found.release()
        metalayer_cache.retire(found.name)
        return None
    metalayer_cache.touch(found)
    return found


def is_cached(base: Base, asked: Asked) -> bool:
    """Whether there is a layer of ``base`` in the cache, which `find` may still find unfit."""
    try:
        return metalayer_cache.load(_name(base, asked), lock=False) is not None
    except (OSError, BadRecord):
        return False


def _load(base: Base, asked: Asked, says: Says) -> Stored | None:
    name = _name(base, asked)
    try:
        found = metalayer_cache.load(name, lock=True)
    except (Untrusted, BadRecord) as error:
        if isinstance(error, Untrusted) and error.filename == metalayer_cache.place():
            raise
        says.warning(f"the cached layer of {base.path} is not used: {_why(error)}")
        metalayer_cache.retire(name)
        return None
    if found is not None and found.record.key != _key(base, asked):
        found.release()
        return None
    return found


def _changed(base: Base, asked: Asked, record: Record) -> bytes | None:
    """Where the base is no longer as it was when the layer was made."""
    if asked.kind == "directory":
        printed = metalayer_record.known_directories(record.fingerprint, base.path)
    else:
        printed = metalayer_record.print_of(_walk(base.path, details=False), files=True)
    now = metalayer_record.fingerprint(printed)
    return None if now == record.fingerprint else metalayer_record.first_difference(record.fingerprint, now)


def obtain(base: Base, asked: Asked, says: Says, trial: Callable[[str], None], *, wait: bool = True) -> Stored:
    """The layer of ``base``, made now unless it was before. Raises `Unavailable`.

    ``trial`` mounts a new layer and raises OSError if it cannot be used. ``wait``: for another who is making it.
    """
    try:
        if found := find(base, asked, says):
            return found
        if not asked.explicit and asked.kind == "metadata" and _known_to_be_large(base):
            raise TooMany
        name = _name(base, asked)
        metalayer_cache.prepare()
        with metalayer_cache.making(name, wait=False) as had:
            if had:
                return _make(base, asked, says, trial)
        if not wait:
            raise Unavailable("somebody else is making it")
        says.info(f"another run is making the layer of {base.path}: waiting for it")
        with metalayer_cache.making(name, wait=True):
            return find(base, asked, says) or _make(base, asked, says, trial)
    except TooMany:
        raise Unavailable(f"it has more than {MOST_WALKED} entries, which would be looked at before each run") from None
    except OSError as error:
        raise Unavailable(_why(error)) from None


def _known_to_be_large(base: Base) -> bool:
    """Whether a directory layer, made when this was found out, says so."""
    if base.known:
        return False
    try:
        found = metalayer_cache.load(_name(base, Asked("directory")), lock=False)
    except (OSError, BadRecord):
        return False
    return found is not None and found.record.base_entries > MOST_WALKED


def _make(base: Base, asked: Asked, says: Says, trial: Callable[[str], None]) -> Stored:
    limit = MOST_WALKED if asked.kind == "metadata" and not base.known and not asked.explicit else 0
    walk = _walk(base.path, most=limit)
    with says.task(f"Making a {asked.kind} layer of {base.path}") as step:
        made = build(base, asked, walk, step, trial, fingerprint=not base.known, unreadable=walk.unreadable)
    if base.revision is not None and not base.by_name and revision.at(base.revision.point) != base.revision:
        metalayer_cache.retire(made.name)
        raise Unavailable(f"{base.revision.name} has moved on meanwhile: run it again")
    if made.record.left_out:
        says.info(f"not in the layer: {_list(made.record.left_out)}, devices that no ordinary user may make")
    return made


def build(
    base: Base, asked: Asked, nodes: Nodes, step: Callable[[int], None], trial: Callable[[str], None],
    *, fingerprint: bool, unreadable: list[bytes],
) -> Stored:  # fmt: skip
    """Make the layer of ``nodes``, from wherever they come, and put it into the cache. The caller is `making` it.

    Raises OSError; then nothing is left. ``unreadable`` is looked at when ``nodes`` have ended.
    """
    from overlay import deep
    from overlay.metalayer import write as metalayer_write

    name, files = _name(base, asked), asked.kind == "metadata"
    listed = _collect(nodes, step, metalayer_write.STEP)
    path = metalayer_cache.fresh(name)
    try:
        top = os.open(f"{path}/tree", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        source = os.open(base.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            written = metalayer_write.write(listed, top, source, files=files, owners=asked.owners, step=step)
        finally:
            os.close(source)
            os.close(top)
        trial(f"{path}/tree")
        printed = metalayer_record.fingerprint(metalayer_record.print_of(listed, files)) if fingerprint else b""
        record = Record(
            asked.kind, _key(base, asked), os.fsencode(base.path), written.entries, len(listed), written.space,
            written.last, metalayer_record.directories(written.directories), printed,
            tuple(sorted(unreadable)), tuple(sorted(written.left_out)),
        )  # fmt: skip
        metalayer_cache.publish(path, name, record)
    except BaseException:
        deep.remove(path)
        raise
    metalayer_cache.trim(asked.most_bytes, keep=name)
    made = metalayer_cache.load(name, lock=True)
    if made is None:
        raise FileNotFoundError(f"{name} was removed at once")
    return made


def _collect(nodes: Nodes, step: Callable[[int], None], often: int) -> list[Node]:
    """All of ``nodes``: of a tree behind a network this is what takes the time."""
    listed = []
    for number, node in enumerate(nodes):
        listed.append(node)
        if number % often == 0:
            step(number)
    return listed


def _name(base: Base, asked: Asked) -> str:
    return metalayer_cache.name_of(asked.kind, _key(base, asked), base.path)


def _key(base: Base, asked: Asked) -> bytes:
    """What a layer depends on: the base, and whose it is made."""
    whose = "owners" if asked.owners else f"{os.geteuid()}:{os.getegid()}"
    return f"{asked.kind}\0{whose}\0".encode() + (base.key or b"tree\0" + os.fsencode(base.path))


def _walk(path: str, most: int = 0, details: bool = True) -> Walk:
    from overlay import mountinfo
    from overlay.metalayer import walk as metalayer_walk

    threads = metalayer_walk.THREADS if metalayer_walk.is_remote(mountinfo.fstype(path)) else 1
    return metalayer_walk.Walk(path, threads, most, details, TooMany)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        shown = os.fsdecode(name) if isinstance(name, str | bytes) else ""
        return f"{shown}: {error.strerror}" if shown else error.strerror
    return str(error)


def _shown(path: bytes) -> str:
    return "/" + os.fsdecode(path) if path != b"." else "its top directory"


def _list(paths: tuple[bytes, ...], most: int = 5) -> str:
    names = ", ".join(_shown(path) for path in paths[:most])
    return names + (f" and {len(paths) - most} more" if len(paths) > most else "")


def unreadable(layer: Stored) -> str:
    """What of the base the caller may not read, as one sentence; "" when that is nothing."""
    paths = layer.record.unreadable
    if not paths:
        return ""
    base = os.fsdecode(layer.record.base)
    return f"you may not read all of {base}; empty or refused in the container: {_list(paths)}"
