"""What a FUSE server of ours and the kernel say to each other: the numbers and records of <linux/fuse.h>.

Only what a read-only file system needs. Protocol 7.31 (Linux 5.4); a kernel that speaks a later one goes back to it.
"""

from __future__ import annotations

import stat
import struct

from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from overlay.extread.reader import Inode

LOOKUP, FORGET, GETATTR, READLINK, READ, STATFS = 1, 2, 3, 5, 15, 17
GETXATTR, LISTXATTR, INIT, INTERRUPT, DESTROY, BATCH_FORGET, READDIRPLUS = 22, 23, 26, 36, 38, 42, 44
UNANSWERED: Final = frozenset((FORGET, INTERRUPT, DESTROY, BATCH_FORGET))

ROOT: Final = 1  # the node that is mounted
BUFFER: Final = 8192 + 4096  # no request is longer, as nothing is written: FUSE_MIN_READ_BUFFER, and what INIT says

_MAJOR, _MINOR = 7, 31
_ASYNC_READ, _DO_READDIRPLUS, _PARALLEL_DIROPS, _MAX_PAGES, _CACHE_SYMLINKS = 1, 1 << 13, 1 << 18, 1 << 22, 1 << 23
# Always READDIRPLUS: where the kernel may choose, it asks so for the first names of a directory only, until others are
# looked up; overlayfs reads all of a directory before it looks up anything.
_WANTED: Final = _ASYNC_READ | _DO_READDIRPLUS | _PARALLEL_DIROPS | _MAX_PAGES | _CACHE_SYMLINKS
_BACKGROUND, _CONGESTED, _MOST_WRITTEN, _NANOSECOND, _PAGES = 16, 12, 4096, 1, 256

REQUEST: Final = struct.Struct("=IIQQ16x")  # length, opcode, unique, node; who asks does not matter here
_REPLY: Final = struct.Struct("=IiQ")
_INIT_IN: Final = struct.Struct("=4I")
_READ_IN: Final = struct.Struct("=QQI")
_SIZE: Final = struct.Struct("=I4x")
_INIT_OUT: Final = struct.Struct("=4IHHIIH30x")
_STATFS_OUT: Final = struct.Struct("=5Q3I28x")
_ATTRIBUTES: Final = "6Q10I"
_ATTR_OUT: Final = struct.Struct("=Q8x" + _ATTRIBUTES)
_ENTRY_OUT: Final = struct.Struct("=4Q8x" + _ATTRIBUTES)
_DIRENT: Final = struct.Struct("=QQII")

_FOREVER: Final = 86400  # seconds for which the kernel may keep what it was told
_SECOND: Final = 10**9
_U64: Final = (1 << 64) - 1

NO_ENTRY: Final = _ENTRY_OUT.pack(0, 0, _FOREVER, *(0 for _ in range(17)))  # and that may be kept as well
NOT_LOOKED_UP: Final = bytes(_ENTRY_OUT.size)


def header(unique: int, error: int, length: int) -> bytes:
    """What comes before an answer of ``length`` bytes; ``error``: an errno, 0 for none."""
    return _REPLY.pack(_REPLY.size + length, -error, unique)


def init(body: memoryview) -> bytes:
    """The answer to INIT."""
    _, minor, readahead, flags = _INIT_IN.unpack_from(body)
    about = _MAJOR, min(minor, _MINOR), readahead, flags & _WANTED
    return _INIT_OUT.pack(*about, _BACKGROUND, _CONGESTED, _MOST_WRITTEN, _NANOSECOND, _PAGES)


def span(body: memoryview) -> tuple[int, int]:
    """Offset and size of a READ or READDIRPLUS."""
    _, offset, size = _READ_IN.unpack_from(body)
    return offset, size


def name(body: memoryview) -> bytes:
    """What a LOOKUP asks for."""
    return bytes(body[:-1])


def attribute(body: memoryview) -> tuple[int, bytes]:
    """The room for the answer to a GETXATTR or LISTXATTR, 0 when only its length is asked for, and the name."""
    return _SIZE.unpack_from(body)[0], bytes(body[_SIZE.size : -1])


def length(value: bytes) -> bytes:
    """The answer to a GETXATTR or LISTXATTR that asks for a length only."""
    return _SIZE.pack(len(value))


def _attributes(inode: Inode, block_size: int) -> tuple[int, ...]:
    """struct fuse_attr."""
    atime, atime_ns = divmod(inode.atime_ns, _SECOND)
    mtime, mtime_ns = divmod(inode.mtime_ns, _SECOND)
    ctime, ctime_ns = divmod(inode.ctime_ns, _SECOND)
    device = 0
    if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        major, minor = inode.device
        device = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    return (
        inode.number, inode.size, inode.sectors, atime & _U64, mtime & _U64, ctime & _U64, atime_ns, mtime_ns, ctime_ns,
        inode.mode, inode.links, inode.uid, inode.gid, device, block_size, 0,
    )  # fmt: skip


def attributes(inode: Inode, block_size: int) -> bytes:
    """The answer to GETATTR."""
    return _ATTR_OUT.pack(_FOREVER, *_attributes(inode, block_size))


def entry(inode: Inode, block_size: int) -> bytes:
    """The answer to LOOKUP. The number of a node is that of its inode."""
    return _ENTRY_OUT.pack(inode.number, inode.generation, _FOREVER, _FOREVER, *_attributes(inode, block_size))


def dirent(looked_up: bytes, number: int, following: int, mode: int, name: bytes) -> bytes:
    """One name in the answer to READDIRPLUS. ``looked_up``: as by `entry`; ``following``: the offset of the next."""
    record = looked_up + _DIRENT.pack(number, following, len(name), mode >> 12) + name
    return record + bytes(-len(record) % 8)


def statfs(blocks: int, free: int, inodes: int, free_inodes: int, block_size: int) -> bytes:
    """The answer to STATFS."""
    return _STATFS_OUT.pack(blocks, free, free, inodes, free_inodes, block_size, 255, block_size)
