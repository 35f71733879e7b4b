"""Open-file-description byte-range locks (fcntl_locking(2)), and whether a file system has them at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

# A byte no image reaches, to learn whether the file system locks at all.
_UNUSED_BYTE: Final = 2**62
_HELD: Final = (errno.EAGAIN, errno.EACCES)


class CannotLock(OSError):
    """The file system of the file cannot lock (ENOLCK, or EACCES for everything): nothing was locked."""


def _flock(kind: int, start: int, length: int) -> bytes:
    """struct flock; its pid must be 0 for F_OFD_*."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def try_lock(fd: int, kind: int, start: int, length: int, name: str) -> bool:
    """Lock ``length`` bytes from ``start``; False when held. Raises CannotLock, with ``name`` in it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(kind, start, length))
        return True
    except OSError as error:
        if error.errno in _HELD and _really_held(fd, kind, start, length):
            return False
        raise CannotLock(error.errno, f"locks do not work here ({error.strerror})", name) from None


def _really_held(fd: int, kind: int, start: int, length: int) -> bool:
    """Whether "try again" means held. Some file systems say it for every lock (reported of PanFS and WekaFS).

    Held: the kernel names a conflicting lock, or a byte that nobody uses can be locked.
    """
    with contextlib.suppress(OSError):
        if conflict(fd, kind, start, length) != fcntl.F_UNLCK:
            return True
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK, _UNUSED_BYTE, 1))
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, _UNUSED_BYTE, 1))
    except OSError:
        return False
    return True


def conflict(fd: int, kind: int, start: int, length: int) -> int:
    """The kind of lock that stands against one of ``kind`` there: F_RDLCK, F_WRLCK, or F_UNLCK for none."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(kind, start, length))
    found: int = struct.unpack("hhqqi4x", answer)[0]
    return found
