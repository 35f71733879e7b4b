"""System calls on files that Python's os module lacks, three lines each.

Constants are those of <linux/fs.h> and <linux/falloc.h>. Every function raises OSError with the file's name.
"""

from __future__ import annotations

import ctypes
import os

FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, name: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def fallocate(fd: int, mode: int, offset: int, length: int, name: str) -> None:
    """fallocate(2). Not posix_fallocate(3), which writes to every block where this cannot be done."""
    _check(_libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)), name)


def rename_new(old: str, new: str, directory: int) -> None:
    """renameat2(2) RENAME_NOREPLACE within the directory open at ``directory``: EEXIST if ``new`` exists."""
    names = os.fsencode(old), os.fsencode(new)
    _check(_libc.renameat2(directory, names[0], directory, names[1], ctypes.c_uint(_RENAME_NOREPLACE)), new)


def exchange(one: bytes, one_directory: int, other: bytes, other_directory: int) -> None:
    """renameat2(2) RENAME_EXCHANGE: two names, each in its directory, change places."""
    done = _libc.renameat2(one_directory, one, other_directory, other, ctypes.c_uint(_RENAME_EXCHANGE))
    _check(done, os.fsdecode(other))
