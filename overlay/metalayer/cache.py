"""The cache of layers: `$XDG_CACHE_HOME/sifkit/metadata/`, a directory each.

    NAME/record         what it is made of (`overlay.metalayer.record`); locked by who uses the layer
    NAME/tree/          the layer
    NAME.lock           held by who makes or replaces it
    new-NAME-RANDOM/    being made; renamed to NAME when complete
    old-RANDOM/         replaced, and still in use

Everything is the caller's and closed to others, else it is not believed: who could write here would decide what
programs a container shows. Nothing in it leads out of the base (see decision 30).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import zlib

from overlay import deep
from overlay.metalayer import record as metalayer_record
from overlay.metalayer.record import BadRecord, Record
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class Untrusted(OSError):
    """The cache, or a layer in it, is not the caller's alone."""


class Stored(NamedTuple):
    """A layer in the cache. ``lock``: the open file that keeps it from being removed, -1 if it is not held."""

    name: str
    path: str
    record: Record
    used: float
    lock: int = -1

    @property
    def tree(self) -> str:
        return f"{self.path}/tree"

    def release(self) -> None:
        """Let go of it, so that it may be removed."""
        if self.lock >= 0:
            os.close(self.lock)


def place() -> str:
    """Where the cache is."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "sifkit", "metadata")


def name_of(kind: str, key: bytes, base: str) -> str:
    """The name of the layer that ``key`` identifies, with something of ``base`` for the eye."""
    name = os.path.basename(base.rstrip("/"))
    seen = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)[:40]
    # Two keys with one sum would take turns, for the record tells them apart.
    return f"{kind}-{seen}-{zlib.crc32(key):08x}{zlib.crc32(key + b'again'):08x}"


def trust(path: str) -> None:
    """`Untrusted` unless the directory ``path`` is the caller's, no link, and closed to writing by others."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise Untrusted(errno.ENOTDIR, "it is no directory", path)
    if found.st_uid != os.geteuid():
        raise Untrusted(errno.EACCES, "it belongs to somebody else", path)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Untrusted(errno.EACCES, "others may write in it", path)


def prepare() -> str:
    """The cache, made if it was missing."""
    top = place()
    os.makedirs(top, mode=0o700, exist_ok=True)
    trust(top)
    return top


def load(name: str, lock: bool) -> Stored | None:
    """The layer ``name``; None when there is none. Raises BadRecord, `Untrusted`, OSError when it is of no use.

    ``lock``: keep it from being removed while the open file lives.
    """
    top = place()
    path = f"{top}/{name}"
    try:
        trust(top)
        trust(path)
        descriptor = os.open(f"{path}/record", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
            raise Untrusted(errno.EACCES, "it belongs to somebody else", f"{path}/record")
        if lock:
            _lock(descriptor, fcntl.LOCK_SH)
        with open(descriptor, "rb", closefd=False) as file:
            record = metalayer_record.decode(file.read())
        if not os.path.isdir(f"{path}/tree"):
            raise BadRecord("its tree is missing")
    except BaseException:
        os.close(descriptor)
        raise
    if not lock:
        os.close(descriptor)
    return Stored(name, path, record, found.st_mtime, descriptor if lock else -1)


def _lock(descriptor: int, how: int) -> bool:
    """Whether it could be had; where nothing can be locked it counts as had."""
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


@contextlib.contextmanager
def making(name: str, wait: bool) -> Iterator[bool]:
    """The right to make the layer ``name``, for the block; False when somebody else has it and ``wait`` is not set."""
    path = f"{prepare()}/{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        had = _lock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if had:
            _sweep(f"new-{name}-")
        yield had
    finally:
        os.close(descriptor)


def _sweep(prefix: str) -> None:
    """Remove what builders that were killed left behind."""
    top = place()
    for entry in os.listdir(top):
        if entry.startswith(prefix):
            deep.remove(f"{top}/{entry}")


def fresh(name: str) -> str:
    """A new directory for the layer ``name``, to be filled and handed to `publish`, or removed."""
    path = f"{place()}/new-{name}-{os.urandom(6).hex()}"
    os.mkdir(path, 0o700)
    os.mkdir(f"{path}/tree", 0o700)
    return path


def publish(path: str, name: str, record: Record) -> None:
    """Make the complete layer in ``path`` the one called ``name``; one that was there steps aside."""
    descriptor = os.open(f"{path}/record", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(metalayer_record.encode(record))
    retire(name)
    os.rename(path, f"{place()}/{name}")


def retire(name: str) -> None:
    """Take the layer ``name`` out of use; who uses it keeps it, and it is removed when nobody does."""
    aside = f"{place()}/old-{os.urandom(6).hex()}"
    try:
        os.rename(f"{place()}/{name}", aside)
    except FileNotFoundError:
        return
    _remove_unused(aside)


def _remove_unused(path: str) -> bool:
    """Remove a layer unless it is in use; whether it is gone."""
    try:
        descriptor = os.open(f"{path}/record", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # half of one: nobody uses it
        deep.remove(path)
        return True
    try:
        if not _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
        if not os.path.basename(path).startswith("old-"):  # from now on nobody finds it
            aside = f"{os.path.dirname(path)}/old-{os.urandom(6).hex()}"
            os.rename(path, aside)
            path = aside
        deep.remove(path)
        return True
    finally:
        os.close(descriptor)


def touch(stored: Stored) -> None:
    """Remember that the layer was used now."""
    with contextlib.suppress(OSError):  # of a cache that is full or read-only
        os.utime(f"{stored.path}/record")


def stored() -> list[Stored]:
    """Every layer, the one used last first; what cannot be read is left out."""
    try:
        names = os.listdir(place())
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if name.startswith(("new-", "old-")) or name.endswith(".lock"):
            continue
        with contextlib.suppress(OSError, BadRecord):
            one = load(name, lock=False)
            if one is not None:
                found.append(one)
    return sorted(found, key=lambda one: -one.used)


def in_use(name: str) -> bool:
    """Whether a run uses the layer ``name`` now."""
    try:
        descriptor = os.open(f"{place()}/{name}/record", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def trim(most: int, keep: str = "") -> list[Stored]:
    """Remove layers, the one not used for longest first, until all take at most ``most`` bytes; those removed.

    ``keep`` and what is in use stay.
    """
    found = stored()
    total = sum(one.record.space for one in found)
    gone = []
    for one in reversed(found):
        if total <= most:
            break
        if one.name != keep and _remove_unused(one.path):
            total -= one.record.space
            gone.append(one)
    return gone


def clean() -> tuple[list[Stored], list[Stored]]:
    """Remove everything that is not in use: the layers removed, and those that stay. Half-built ones go too."""
    gone: list[Stored] = []
    stay: list[Stored] = []
    for one in stored():
        (gone if _remove_unused(one.path) else stay).append(one)
    kept = {one.name for one in stay}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(place()):
            path = f"{place()}/{entry}"
            if entry.startswith("new-") and _unmade(entry):
                deep.remove(path)
            elif entry.startswith("old-") or (os.path.isdir(path) and entry not in kept and entry[:4] != "new-"):
                _remove_unused(path)
    return gone, stay


def _unmade(entry: str) -> bool:
    """Whether nobody is making ``entry`` any more."""
    name = entry.removeprefix("new-").rpartition("-")[0]
    with making(name, wait=False) as had:
        return had
