"""Inodes of ext2/3 as they are written: the counterpart of `overlay.extread.inode`."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

_BASE: Final = struct.Struct("<HHIIIIIHHIII60sIIIIHHHHHH")
_LARGE: Final = struct.Struct("<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII")
_EXTRA_SIZE: Final = 32  # what the kernel wants at least since 2.6.23: to and with i_projid
_OLD_SIZE: Final = 128
SECOND: Final = 10**9
_FIRST_SECOND, _LAST_SECOND = -(2**31), 2**31 - 1
_LAST_EPOCH: Final = 3 * 2**32 + _LAST_SECOND
_NONE: Final[Mapping[bytes, bytes]] = {}

FLAG_INDEX: Final = 0x1000


class Attributes(NamedTuple):
    """What an inode says besides its contents: ``mode`` with the file type, times in nanoseconds since 1970."""

    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    xattrs: Mapping[bytes, bytes] = _NONE


class Body(NamedTuple):
    """What an inode says about its contents: ``size`` in bytes, ``sectors`` of 512 bytes, i_block."""

    size: int
    sectors: int
    block: bytes


NOTHING: Final = Body(0, 0, bytes(60))


def room(inode_size: int) -> int:
    """Bytes for extended attributes inside an inode."""
    return max(inode_size - _OLD_SIZE - _EXTRA_SIZE, 0)


def pack(
    block: bytearray, at: int, inode_size: int, attributes: Attributes, body: Body, *,
    links: int, flags: int, acl_block: int, inside: bytes, created: int,
) -> None:  # fmt: skip
    """Write all bytes of the inode at ``at``: ``inside`` its extended attributes, ``created`` seconds since 1970.

    Times that the inode cannot hold become the nearest that it can, as in the kernel. An inode of 128 bytes has
    no fractions of seconds and ends in 2038.
    """
    mode, uid, gid, atime_ns, mtime_ns, ctime_ns, _ = attributes
    size, sectors, pointers = body
    large = inode_size >= _OLD_SIZE + _EXTRA_SIZE
    atime, atime_more = _time(atime_ns, large)
    mtime, mtime_more = _time(mtime_ns, large)
    ctime, ctime_more = (mtime, mtime_more) if ctime_ns == mtime_ns else _time(ctime_ns, large)
    if not large:
        _BASE.pack_into(
            block, at, mode, uid & 0xFFFF, size & 0xFFFFFFFF, atime, ctime, mtime, 0, gid & 0xFFFF, links, sectors,
            flags, 0, pointers, created, acl_block, size >> 32, 0, 0, 0, uid >> 16, gid >> 16, 0, 0,
        )  # fmt: skip
        block[at + _OLD_SIZE : at + inode_size] = bytes(inode_size - _OLD_SIZE)
        return
    _LARGE.pack_into(
        block, at, mode, uid & 0xFFFF, size & 0xFFFFFFFF, atime, ctime, mtime, 0, gid & 0xFFFF, links, sectors,
        flags, 0, pointers, created, acl_block, size >> 32, 0, 0, 0, uid >> 16, gid >> 16, 0, 0,
        _EXTRA_SIZE, 0, ctime_more, mtime_more, atime_more, created, 0, 0, 0,
    )  # fmt: skip
    first = at + _OLD_SIZE + _EXTRA_SIZE
    block[first : at + inode_size] = inside or bytes(at + inode_size - first)


def _time(nanoseconds: int, large: bool) -> tuple[int, int]:
    """The 32 bits of seconds, and the word with two more bits of them and the fraction."""
    seconds, fraction = divmod(nanoseconds, SECOND)
    if 0 <= seconds <= _LAST_SECOND:
        return seconds, fraction << 2
    last = _LAST_EPOCH if large else _LAST_SECOND
    if not _FIRST_SECOND <= seconds <= last:
        seconds, fraction = (_FIRST_SECOND, 0) if seconds < 0 else (last, SECOND - 1)
    # Seconds are a signed number of 32 bits plus epoch times 2 ** 32.
    epoch = seconds + 2**31 >> 32 & 3
    return seconds & 0xFFFFFFFF, fraction << 2 | epoch


def set_links(view: memoryview, links: int) -> None:
    """Change i_links_count."""
    struct.pack_into("<H", view, 26, links)


def set_ctime(view: memoryview, seconds: int) -> None:
    """Change the time of the last change, to whole seconds since 1970 (before 2106)."""
    struct.pack_into("<I", view, 12, seconds & 0xFFFFFFFF)
    if len(view) >= _OLD_SIZE + _EXTRA_SIZE and int.from_bytes(view[128:130], "little") >= 8:
        struct.pack_into("<I", view, 132, seconds + 2**31 >> 32 & 3)


def set_body(view: memoryview, body: Body, flags: int) -> None:
    """Change size, blocks and flags."""
    struct.pack_into("<I", view, 4, body.size & 0xFFFFFFFF)
    struct.pack_into("<II", view, 28, body.sectors, flags)
    view[40:100] = body.block
    struct.pack_into("<I", view, 108, body.size >> 32)


def bury(view: memoryview, now: int) -> None:
    """Make it an unused inode: no links, a time of deletion."""
    generation = bytes(view[100:104])
    view[:] = bytes(len(view))
    view[100:104] = generation
    struct.pack_into("<I", view, 20, now)


def device(number: int) -> bytes:
    """i_block of a device: the old 8:8 spelling where it fits, else the new one (old_encode_dev, new_encode_dev)."""
    major, minor = os.major(number), os.minor(number)
    if major < 256 and minor < 256:
        return struct.pack("<I", major << 8 | minor).ljust(60, b"\0")
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12).ljust(60, b"\0")
