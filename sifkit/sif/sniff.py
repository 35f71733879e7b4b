"""What is at the start of some bytes: cheap tests on magic numbers, without construct.

Sources: SIF header (magic at 32), ``fs/squashfs/squashfs_fs.h`` (superblock at 0),
``Documentation/filesystems/ext4`` (superblock at 1024), LUKS2 On-Disk Format (magic at 0). Integers
little-endian.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

HEAD = 2048  # bytes that are enough for `identify`, `squashfs` and `ext`

_COMPATIBLE = 0x0004  # has_journal
_INCOMPATIBLE = {0x0002: "filetype", 0x0004: "recover", 0x0010: "meta_bg"}
_READ_ONLY = {0x0001: "sparse_super", 0x0002: "large_file", 0x0004: "btree_dir"}
_LATER = {0x0040: "extents", 0x0080: "64bit", 0x0200: "flex_bg", 0x8000: "inline_data", 0x10000: "encrypt"}
_LATER_READ_ONLY = {0x0008: "huge_file", 0x0010: "gdt_csum", 0x0020: "dir_nlink", 0x0040: "extra_isize",
                    0x0200: "bigalloc", 0x0400: "metadata_csum"}  # fmt: skip


class Squash(NamedTuple):
    """``used``: length of the file system in bytes; ``compression``: 1 gzip, 3 lzo, 4 xz, 5 lz4, 6 zstd."""

    used: int
    compression: int
    block_size: int
    major: int


class Ext(NamedTuple):
    """``size``: of the file system in bytes; ``odd``: features that Apptainer's ext3 test refuses."""

    size: int
    block_size: int
    odd: tuple[str, ...]


def is_sif(path: str | os.PathLike[str]) -> bool:
    """Whether the file starts like a SIF image. Raises ``OSError`` when it cannot be read."""
    with open(path, "rb", buffering=0) as file:
        return has_sif_magic(file.read(48))


def has_sif_magic(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (at least 42 bytes) is a SIF image."""
    return head[32:42] == b"SIF_MAGIC\0"


def identify(head: bytes) -> int:
    """`enums.FsType` of a file system by its first `HEAD` bytes, 0 when it is none of them.

    Raw, archive and gocryptfs have no magic of their own (gocryptfs is a squashfs on the outside).
    """
    if head[:6] == b"LUKS\xba\xbe":
        return 5
    if squashfs(head) is not None:
        return 1
    return 2 if ext(head) is not None else 0


def squashfs(head: bytes) -> Squash | None:
    """The superblock of a squashfs, None when there is none."""
    if len(head) < 96 or head[:4] != b"hsqs":
        return None
    block_size, _, compression, _, _, _, major = struct.unpack_from("<IIHHHHH", head, 12)
    return Squash(struct.unpack_from("<Q", head, 40)[0], compression, block_size, major)


def ext(head: bytes) -> Ext | None:
    """The superblock of an ext2, ext3 or ext4 file system, None when there is none."""
    if len(head) < HEAD or head[1080:1082] != b"\x53\xef":
        return None
    blocks, log_size = struct.unpack_from("<I", head, 1028)[0], struct.unpack_from("<I", head, 1048)[0]
    if log_size > 6:  # 64 KiB is the largest block there is
        return None
    compatible, incompatible, read_only = struct.unpack_from("<III", head, 1116)
    odd: tuple[str, ...] = () if compatible & _COMPATIBLE else ("no journal",)
    odd += _names(incompatible, _INCOMPATIBLE, _LATER) + _names(read_only, _READ_ONLY, _LATER_READ_ONLY)
    return Ext(blocks * (1024 << log_size), 1024 << log_size, odd)


def _names(bits: int, known: dict[int, str], later: dict[int, str]) -> tuple[str, ...]:
    rest = [1 << n for n in range(32) if bits & 1 << n and 1 << n not in known]
    return tuple(later.get(bit, f"feature {bit:#x}") for bit in rest)
