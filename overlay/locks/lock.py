"""Many readers or one writer: open-file-description byte-range locks (fcntl_locking(2), F_OFD_SETLK).

An image is locked on exactly [offset, offset + size), as Apptainer locks it, so both respect each other; a
directory overlay through the file ``.sifkit.lock`` in it. The lock belongs to the open file: forked children
share it through the inherited descriptor, and it ends with the last of them, however they die. The
descriptor is O_CLOEXEC, so no program started later keeps an image locked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from types import TracebackType

from overlay.locks import holder as holders_
from overlay.locks import ofd
from overlay.locks.holder import Holder, Key
from overlay.locks.ofd import CannotLock as CannotLock
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.section import Section

if TYPE_CHECKING:
    from typing import Final, Self

LOCK_FILE: Final = ".sifkit.lock"
_ATTRIBUTE: Final = "user.sifkit.lock."

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2  # seconds between tries while waiting

Target = Section | str


class InUse(Exception):
    """The lock is held. ``holders``: by whom, as far as it is known; ``wanted_exclusive``: for what."""

    def __init__(self, path: str, wanted_exclusive: bool, holders: list[Holder]) -> None:
        super().__init__(path, wanted_exclusive, holders)
        self.path = path
        self.wanted_exclusive = wanted_exclusive
        self.holders = holders

    def __str__(self) -> str:
        written = not self.wanted_exclusive or any(h.exclusive for h in self.holders)
        how = "in use for writing" if written else "in use"
        if not self.holders:
            return f"{self.path} is {how}, by another user's process or on another host"
        who = "; ".join(h.describe() + (" (gone, but it left the lock held)" if h.alive is False else "")
                        for h in self.holders)  # fmt: skip
        return f"{self.path} is {how} by {who}"


class _Place(NamedTuple):
    """The file to lock and the range in it; ``file`` may not exist yet for a directory overlay."""

    path: str  # what the user named
    file: str
    start: int
    length: int
    is_directory: bool


class Lock:
    """A held lock: ``fd`` is the locked open file. Use it as a context manager or `release` it."""

    def __init__(self, fd: int, place: _Place, exclusive: bool) -> None:
        self.fd = fd
        self.path = place.path
        self.exclusive = exclusive
        self._place = place
        self._owner = os.getpid()
        self._record: str | None = None

    def release(self) -> None:
        """Close this process's share. The lock ends when forked children that share it have ended too."""
        if self.fd < 0:
            return
        if os.getpid() == self._owner:
            self._erase()
        os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def write_record(self) -> None:
        """Say who holds it where others look (see `overlay.locks.holder`); failing there is no failure."""
        me = holders_.myself(self.path, self.exclusive)
        public = self.exclusive and self._publish(holders_.encode(me))
        key = _key(self.fd, self._place)
        self._record = holders_.write_record(key, me, for_other_hosts=self.exclusive and not public)

    def _publish(self, record: bytes) -> bool:
        """Put the record where everybody who may read the overlay finds it; False where that cannot be."""
        with contextlib.suppress(OSError):
            if self._place.is_directory:
                os.ftruncate(self.fd, 0)
                os.pwrite(self.fd, record + b"\n", 0)
            else:
                os.setxattr(self.fd, f"{_ATTRIBUTE}{self._place.start}", record)
            return True
        return False

    def _erase(self) -> None:
        with contextlib.suppress(OSError):
            if self._record is not None:
                os.unlink(self._record)
        with contextlib.suppress(OSError):
            if self.exclusive and self._place.is_directory:
                os.ftruncate(self.fd, 0)
            elif self.exclusive:
                os.removexattr(self.fd, f"{_ATTRIBUTE}{self._place.start}")


def acquire(target: Target, *, exclusive: bool, wait: float = 0.0) -> Lock:
    """Lock an image's section, or a directory overlay by its path, waiting at most ``wait`` seconds.

    Raises InUse when it is held (by this process too), CannotLock when the file system cannot lock, OSError
    when the file cannot be opened: for writing if ``exclusive``, else for reading.
    """
    place = _place(target)
    deadline = time.monotonic() + wait
    pause = _FIRST_PAUSE
    while True:
        lock = _try(place, exclusive)
        if lock is not None:
            lock.write_record()
            return lock
        left = deadline - time.monotonic()
        if left <= 0:
            raise InUse(place.path, exclusive, holders(target))
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)


def holders(target: Target) -> list[Holder]:
    """Who holds a lock on ``target``; processes of this host first. Empty when free or unknown."""
    place = _place(target)
    try:
        fd = os.open(place.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        if ofd.conflict(fd, fcntl.F_WRLCK, place.start, place.length) == fcntl.F_UNLCK:
            return []
        return _known(fd, place)
    finally:
        os.close(fd)


def holder(target: Target) -> Holder | None:
    """The first of `holders`, a writer if there is one."""
    known = sorted(holders(target), key=lambda h: not h.exclusive)
    return known[0] if known else None


def in_use(target: Target) -> str:
    """``write``, ``read``, or nothing when free: what the kernel says. OSError if unreadable."""
    place = _place(target)
    try:
        fd = os.open(place.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        if place.is_directory:
            return ""
        raise
    try:
        kind = ofd.conflict(fd, fcntl.F_WRLCK, place.start, place.length)
    except OSError:
        return ""  # no locks here at all
    finally:
        os.close(fd)
    return {fcntl.F_WRLCK: "write", fcntl.F_RDLCK: "read"}.get(kind, "")


def _place(target: Target) -> _Place:
    if isinstance(target, Section):
        return _Place(target.path, target.path, target.offset, target.size, False)
    return _Place(target, os.path.join(target, LOCK_FILE), 0, 1, True)


def _key(fd: int, place: _Place) -> Key:
    found = os.fstat(fd)
    return Key(found.st_dev, found.st_ino, place.start)


def _open(place: _Place, exclusive: bool) -> int:
    flags = (os.O_RDWR if exclusive else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    if not place.is_directory:
        return os.open(place.file, flags)
    flags |= os.O_NOFOLLOW
    try:
        fd = os.open(place.file, flags | os.O_CREAT, 0o666)
        if os.geteuid() == 0:
            give_to_owner(fd, place.path)
        return fd
    except OSError as error:
        # Who may not write into the directory may still read it. An existing lock file opens without O_CREAT;
        # without one there is no writer, and the directory itself stands in, unlocked.
        if exclusive or error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise
    try:
        return os.open(place.file, flags)
    except FileNotFoundError:
        return os.open(place.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def give_to_owner(fd: int, directory: str) -> None:
    """What root makes beside upper/, the lock file first of all, would keep the directory's owner out for good."""
    theirs, found = os.stat(directory), os.fstat(fd)
    if found.st_uid != theirs.st_uid:
        with contextlib.suppress(OSError):  # NFS: root may not
            os.fchown(fd, theirs.st_uid, theirs.st_gid)


def _try(place: _Place, exclusive: bool) -> Lock | None:
    """The lock, or None when it is held."""
    while True:
        fd = _open(place, exclusive)
        try:
            found = os.fstat(fd)
            if stat.S_ISDIR(found.st_mode):
                return Lock(fd, place, exclusive)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", place.file)
            kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
            if not ofd.try_lock(fd, kind, place.start, place.length, place.path):
                os.close(fd)
                return None
            if _still_there(found, place):
                return Lock(fd, place, exclusive)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _still_there(locked: os.stat_result, place: _Place) -> bool:
    """Whether the name still leads to the locked file: it may have been replaced while we opened it."""
    try:
        return os.path.samestat(os.stat(place.file), locked)
    except FileNotFoundError:
        return False


def _known(fd: int, place: _Place) -> list[Holder]:
    """Everybody who is seen or recorded, each run once, with what its record adds."""
    recorded = [*holders_.records(_key(fd, place), os.path.abspath(place.path)), *_public_record(fd, place)]
    seen = {found.pid: found._replace(path=place.path) for found in holders_.processes(os.fstat(fd), place.start)}
    known: dict[tuple[str, int], Holder] = {}
    for pid, found in seen.items():
        above = seen.get(holders_.parent(pid))
        if above is None or above.command != found.command:  # else forked from it, with all that it had open
            known[found.host, pid] = found
    for record in recorded:
        there = known.get((record.host, record.pid))
        if there is None and known and record.alive is False:
            continue  # who really holds it is known already
        if there is None or there.started == record.started:
            known[record.host, record.pid] = record
    return list(known.values())


def _public_record(fd: int, place: _Place) -> list[Holder]:
    with contextlib.suppress(OSError):
        attribute = f"{_ATTRIBUTE}{place.start}"
        data = os.pread(fd, 4096, 0) if place.is_directory else os.getxattr(fd, attribute)
        record = holders_.decode(data)
        return [record] if record is not None else []
    return []
