"""Extended attributes as ext2/3/4 stores them: the counterpart of `overlay.extread.xattr`.

Layout and hashes: the kernel's Documentation/filesystems/ext4/attributes.rst and fs/ext4/xattr.c. In an inode
entries may stand in any order and without hashes; in a block they are sorted and hashed. Written here and not by
ext2fs_xattrs_write, which frees and takes blocks as it goes: what a commit frees it must not use again.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping

from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_MAGIC: Final = 0xEA020000
_ENTRY: Final = struct.Struct("<BBHIII")
_BLOCK_HEAD: Final = 32
_PREFIXES: Final = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))
_ACLS: Final = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_WITH_ID: Final = (0x02, 0x08)  # ACL_USER, ACL_GROUP

# (index of the prefix, rest of the name, value)
_Attribute = tuple[int, bytes, bytes]


def encode(xattrs: Mapping[bytes, bytes], room: int, block_size: int) -> tuple[bytes, bytes]:
    """What goes into the ``room`` bytes behind an inode's fields, and into a block of its own (or b"").

    Raises OSError: ENOTSUP for a name that ext3 has no place for, ENOSPC when they are too large.
    """
    if not xattrs:
        return b"", b""
    found = [_attribute(name, value) for name, value in xattrs.items()]
    found.sort(key=lambda each: (each[0] not in (2, 3), _cost(each)))
    inside: list[_Attribute] = []
    left = room - 8  # magic, end of the list
    for each in found:
        if _cost(each) > left:
            break
        inside.append(each)
        left -= _cost(each)
    outside = found[len(inside) :]
    if sum(map(_cost, outside)) > block_size - _BLOCK_HEAD - 4:
        raise OSError(errno.ENOSPC, f"extended attributes that do not fit into a block of {block_size} bytes")
    return _in_inode(inside, room) if inside else b"", _in_block(outside, block_size) if outside else b""


def _attribute(name: bytes, value: bytes) -> _Attribute:
    if name in _ACLS:
        return _ACLS[name], b"", _acl(value)
    for prefix, index in _PREFIXES:
        if name.startswith(prefix) and len(name) > len(prefix):
            return index, name[len(prefix) :], value
    raise OSError(errno.ENOTSUP, f"the extended attribute {os.fsdecode(name)!r}, which ext3 cannot hold")


def _acl(value: bytes) -> bytes:
    """An access control list of setxattr(2) (version 2) as ext4 stores it (version 1)."""
    if len(value) < 4 or (len(value) - 4) % 8 or value[:4] != b"\2\0\0\0":
        raise OSError(errno.ENOTSUP, "an access control list of an unknown kind")
    out = [struct.pack("<I", 1)]
    for tag, permissions, identity in struct.iter_unpack("<HHI", value[4:]):
        out.append(struct.pack("<HH", tag, permissions))
        if tag in _WITH_ID:
            out.append(struct.pack("<I", identity))
    return b"".join(out)


def _padded(length: int) -> int:
    return length + 3 & ~3


def _cost(attribute: _Attribute) -> int:
    return _ENTRY.size + _padded(len(attribute[1])) + _padded(len(attribute[2]))


def _in_inode(attributes: list[_Attribute], room: int) -> bytes:
    """Values are counted from the first entry, behind the magic."""
    entries, values = _lay_out(attributes, room - 4, hashed=False)
    used = entries + bytes(4)
    return struct.pack("<I", _MAGIC) + used + bytes(room - 4 - len(used) - len(values)) + values


def _in_block(attributes: list[_Attribute], block_size: int) -> bytes:
    attributes = sorted(attributes, key=lambda each: (each[0], len(each[1]), each[1]))
    entries, values = _lay_out(attributes, block_size, hashed=True)
    total = 0
    for index, name, value in attributes:
        total = (total << 16 & 0xFFFFFFFF) ^ total >> 16 ^ _hash(index, name, value)
    head = struct.pack("<IIII", _MAGIC, 1, 1, total).ljust(_BLOCK_HEAD, b"\0")
    return head + entries + bytes(block_size - len(head) - len(entries) - len(values)) + values


def _lay_out(attributes: list[_Attribute], end: int, *, hashed: bool) -> tuple[bytes, bytes]:
    """Entries forwards, values backwards from ``end``."""
    entries, values = [], []
    for index, name, value in attributes:
        size = _padded(len(value))
        end -= size
        digest = _hash(index, name, value) if hashed else 0
        place = end if value else 0
        head = _ENTRY.pack(len(name), index, place, 0, len(value), digest)
        entries.append(head + name.ljust(_padded(len(name)), b"\0"))
        values.append(value.ljust(size, b"\0"))
    return b"".join(entries), b"".join(reversed(values))


def _hash(_index: int, name: bytes, value: bytes) -> int:
    """ext4_xattr_hash_entry(), bytes of the name unsigned; readers of either kind take it."""
    digest = 0
    for byte in name:
        digest = (digest << 5 & 0xFFFFFFFF) ^ digest >> 27 ^ byte
    for (word,) in struct.iter_unpack("<I", value.ljust(_padded(len(value)), b"\0")):
        digest = (digest << 16 & 0xFFFFFFFF) ^ digest >> 16 ^ word
    return digest
