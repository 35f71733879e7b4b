"""Extended attributes of ext2/3/4: in the inode, in a block of their own, or in an inode (ea_inode).

Layout: the kernel's Documentation/filesystems/ext4/attributes.rst. Access control lists are stored in a
spelling of their own and are given here as setxattr(2) wants them (linux/posix_acl_xattr.h).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from overlay.records import TYPE_CHECKING
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from typing import Final

_MAGIC: Final = 0xEA020000
_PREFIXES: Final = {
    0: b"", 1: b"user.", 2: b"system.posix_acl_access", 3: b"system.posix_acl_default", 4: b"trusted.",
    6: b"security.", 7: b"system.", 8: b"system.richacl",
}  # fmt: skip
_ACLS: Final = (2, 3)
_LARGEST_VALUE: Final = 65536  # XATTR_SIZE_MAX

# (inode number, bytes) -> the value kept in an inode of its own
ReadValue = Callable[[int, int], bytes]


def in_inode(number: int, room: bytes, read_value: ReadValue) -> Iterator[tuple[bytes, bytes]]:
    """Attributes in ``room``, the bytes behind an inode's extra fields."""
    if len(room) >= 4 and int.from_bytes(room[:4], "little") == _MAGIC:
        yield from _entries(number, room, 4, 4, read_value)


def in_block(number: int, block: bytes, read_value: ReadValue) -> Iterator[tuple[bytes, bytes]]:
    """Attributes in the block that i_file_acl names."""
    magic, _, count = struct.unpack_from("<3I", block)
    if magic != _MAGIC or count != 1:
        raise ExtError(f"inode {number}: damaged block of extended attributes")
    yield from _entries(number, block, 32, 0, read_value)


def _entries(number: int, data: bytes, at: int, base: int, read_value: ReadValue) -> Iterator[tuple[bytes, bytes]]:
    """The entries of ``data`` from ``at`` on; offsets of values count from ``base``."""
    while at + 4 <= len(data) and data[at : at + 4] != b"\0\0\0\0":
        if at + 16 > len(data):
            raise ExtError(f"inode {number}: damaged extended attributes")
        length, index, offset, inode, size = struct.unpack_from("<BBHII", data, at)
        name = data[at + 16 : at + 16 + length]
        where = base + offset
        if len(name) != length or size > _LARGEST_VALUE or (not inode and where + size > len(data)):
            raise ExtError(f"inode {number}: damaged extended attributes")
        value = read_value(inode, size) if inode else data[where : where + size]
        if index in _ACLS:
            value = _acl(number, value)
        yield _PREFIXES.get(index, b"unknown%d." % index) + name, value
        at += 16 + (length + 3 & ~3)


def _acl(number: int, value: bytes) -> bytes:
    """ext4's list (version 1, ids only where they mean something) as the kernel's interface has it (version 2)."""
    out = [struct.pack("<I", 2)]
    at = 4
    while at + 4 <= len(value):
        tag, permissions = struct.unpack_from("<HH", value, at)
        at += 4
        identity = 0xFFFFFFFF
        if tag in (0x02, 0x08):  # ACL_USER, ACL_GROUP
            if at + 4 > len(value):
                raise ExtError(f"inode {number}: damaged access control list")
            (identity,) = struct.unpack_from("<I", value, at)
            at += 4
        out.append(struct.pack("<HHI", tag, permissions, identity))
    return b"".join(out)
