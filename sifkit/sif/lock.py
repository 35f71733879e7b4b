"""Who may touch which bytes of an image, by open-file-description locks (fcntl(2), Linux 3.15).

Two kinds, both advisory, both freed by the kernel when their holder dies:

- an editor holds a write lock on header and table, so editors wait for one another;
- a container holds a lock on exactly ``[offset, offset + size)`` of each partition that it uses, read lock
  or write lock. An editor takes a write lock on every object that it moves, changes or deletes, without
  waiting.

Apptainer locks partitions the same way. Locks of the open file description, not POSIX record locks: those
vanish when any descriptor of the file is closed anywhere in the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from sifkit.sif.errors import InUse, LockUnavailable

# fcntl.h of Linux, all 64-bit platforms; the fcntl module has them since Python 3.9 on some builds only.
F_OFD_GETLK = 36
F_OFD_SETLK = 37
F_OFD_SETLKW = 38
_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, len, pid

_REFUSED = (errno.EAGAIN, errno.EACCES)
_UNAVAILABLE = (errno.ENOLCK, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def hold(fd: int, size: int, path: str = "") -> None:
    """Wait for, and take, the editors' lock: a write lock on bytes [0, ``size``).

    Raises `LockUnavailable` where the file system has no locks. Closing ``fd`` frees it.
    """
    # Who waits is never refused because somebody holds it, so that is "no locks" too, as some file systems say it.
    _set(fd, F_OFD_SETLKW, 0, size, path, (*_UNAVAILABLE, *_REFUSED))


def claim(fd: int, offset: int, size: int, path: str = "", what: str = "object") -> None:
    """Take a write lock on [``offset``, ``offset + size``) now. Raises `InUse` when somebody holds any of it."""
    if size <= 0 or offset < 0:
        return  # a length of 0 would mean "to the end of the file"
    try:
        _set(fd, F_OFD_SETLK, offset, size, path)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise InUse(f"{what} is in use by a container", path=path, offset=offset) from error


def in_use(fd: int, offset: int, size: int) -> bool:
    """Whether somebody else holds a lock on any byte of the range. Takes no lock; needs no write permission."""
    if size <= 0 or offset < 0:
        return False
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, offset, size, 0)
    return bool(struct.unpack(_FLOCK, fcntl.fcntl(fd, F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)


def _set(fd: int, command: int, offset: int, size: int, path: str, unavailable: tuple[int, ...] = _UNAVAILABLE) -> None:
    try:
        fcntl.fcntl(fd, command, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, offset, size, 0))
    except OSError as error:
        if error.errno in unavailable:
            text = f"the file system has no locks ({os.strerror(error.errno)}); edit a copy on a local disk"
            raise LockUnavailable(text, path=path) from error
        raise
