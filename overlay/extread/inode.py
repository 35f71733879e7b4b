"""One inode of ext2/3/4: its 128 bytes, and the extra fields behind them.

Offsets and the encoding of times are those of the kernel's Documentation/filesystems/ext4/inodes.rst.
"""

from __future__ import annotations

import stat
import struct

from overlay.records import TYPE_CHECKING, QuickTuple
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from typing import Final

ROOT: Final = 2

FLAG_ENCRYPTED: Final = 0x800
FLAG_EXTENTS: Final = 0x80000
FLAG_INLINE: Final = 0x10000000

_BASE: Final = struct.Struct("<HHIIIIIHHIII60sIIIIHHHHHH")
_EXTRA_TIMES: Final = struct.Struct("<3I")  # ctime, mtime, atime
_EXTRA_TIMES_AT: Final = 132
_OLD_SIZE: Final = 128
_NS_BITS, _EPOCH_BITS = 30, 2
_SECOND: Final = 10**9


class Inode(QuickTuple):
    """Sizes are bytes, times nanoseconds since 1970, ``sectors`` 512 bytes each. ``block`` is i_block."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    links: int
    sectors: int
    flags: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    block: bytes
    generation: int
    acl_block: int
    deleted: int  # when, in seconds; 0 while it lives
    extra: bytes  # what follows the extra fields in the inode: room for extended attributes

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def device(self) -> tuple[int, int]:
        """(major, minor) of a device node: the old 8:8 spelling in the first word, else the new in the second."""
        old, new = struct.unpack_from("<II", self.block)
        if old:
            return (old >> 8 & 0xFF, old & 0xFF)
        return (new >> 8 & 0xFFF, (new & 0xFF) | (new >> 12 & 0xFFF00))


def parse(number: int, data: bytes) -> Inode:
    """Inode ``number`` from ``data``, all of its bytes. Raises ExtError."""
    (
        mode, uid, size, atime, ctime, mtime, deleted, gid, links, sectors, flags, _, block, generation, acl,
        size_high, _, sectors_high, acl_high, uid_high, gid_high, _, _,
    ) = _BASE.unpack_from(data)  # fmt: skip
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        size |= size_high << 32  # elsewhere that word was i_dir_acl once
    if size >= 2**63:
        raise ExtError(f"inode {number}: impossible size")
    extra_size = int.from_bytes(data[128:130], "little") if len(data) > _OLD_SIZE else 0
    if extra_size > len(data) - _OLD_SIZE or extra_size % 4:
        raise ExtError(f"inode {number}: impossible extra size {extra_size}")
    more = _EXTRA_TIMES.unpack_from(data, _EXTRA_TIMES_AT) if extra_size >= 16 else _more_times(data, extra_size)
    return Inode(
        number, mode, uid | uid_high << 16, gid | gid_high << 16, size, links, sectors | sectors_high << 32, flags,
        _time(atime, more[2]), _time(mtime, more[1]), _time(ctime, more[0]),
        block, generation, acl | acl_high << 32, deleted,
        data[_OLD_SIZE + extra_size :] if extra_size else b"",
    )  # fmt: skip


def _more_times(data: bytes, extra_size: int) -> list[int]:
    """The words behind the seconds of ctime, mtime and atime; 0 for those that this inode has no room for."""
    return [
        int.from_bytes(data[at : at + 4], "little") if extra_size >= at + 4 - _OLD_SIZE else 0
        for at in range(_EXTRA_TIMES_AT, _EXTRA_TIMES_AT + _EXTRA_TIMES.size, 4)
    ]


def _time(seconds: int, word: int) -> int:
    """Nanoseconds: signed seconds, and in ``word`` two more bits of epoch and 30 bits of fraction."""
    if seconds >= 1 << 31:
        seconds -= 1 << 32
    if not word:
        return seconds * _SECOND
    # Writers that ignore the field leave rubbish there; a fraction of a second or more is none.
    fraction = word >> _EPOCH_BITS
    return (seconds + ((word & 3) << 32)) * _SECOND + (fraction if fraction < _SECOND else 0)
