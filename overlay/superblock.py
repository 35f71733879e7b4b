"""The ext2/3/4 superblock: 1024 bytes, little endian, 1024 bytes into the file system.

Offsets are those of the kernel's Documentation/filesystems/ext4/super.rst. Every count is checked before
anybody divides by it, allocates by it or seeks to it: a damaged image raises `ExtError`, nothing else.
"""

from __future__ import annotations

import struct

from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK_SIZE: Final = 1024
MAGIC: Final = 0xEF53

_STATE_VALID, _STATE_ERRORS = 1, 2
_REVISION_0_INODE_SIZE, _REVISION_0_FIRST_INODE = 128, 11

COMPAT: Final = {
    0x1: "dir_prealloc", 0x2: "imagic_inodes", 0x4: "has_journal", 0x8: "ext_attr", 0x10: "resize_inode",
    0x20: "dir_index", 0x200: "sparse_super2", 0x400: "fast_commit", 0x800: "stable_inodes",
    0x1000: "orphan_file",
}  # fmt: skip
INCOMPAT: Final = {
    0x1: "compression", 0x2: "filetype", 0x4: "needs_recovery", 0x8: "journal_dev", 0x10: "meta_bg",
    0x40: "extent", 0x80: "64bit", 0x100: "mmp", 0x200: "flex_bg", 0x400: "ea_inode", 0x1000: "dirdata",
    0x2000: "metadata_csum_seed", 0x4000: "large_dir", 0x8000: "inline_data", 0x10000: "encrypt",
    0x20000: "casefold",
}  # fmt: skip
RO_COMPAT: Final = {
    0x1: "sparse_super", 0x2: "large_file", 0x4: "btree_dir", 0x8: "huge_file", 0x10: "uninit_bg",
    0x20: "dir_nlink", 0x40: "extra_isize", 0x100: "quota", 0x200: "bigalloc", 0x400: "metadata_csum",
    0x800: "replica", 0x1000: "read-only", 0x2000: "project", 0x8000: "verity",
    0x10000: "orphan_present",
}  # fmt: skip

# What Apptainer's ext3 loader accepts besides a journal (pkg/image/ext3.go); any compat feature passes.
_APPTAINER_INCOMPAT: Final = 0x2 | 0x4 | 0x10
_APPTAINER_RO_COMPAT: Final = 0x1 | 0x2 | 0x4
_EXT3_INCOMPAT: Final = 0x2 | 0x4 | 0x8 | 0x10
_HAS_JOURNAL, _NEEDS_RECOVERY, _64BIT = 0x4, 0x4, 0x80


class ExtError(ValueError):
    """The bytes are not a file system this code can trust; the text says where and why."""


class Superblock(NamedTuple):
    """The fields we use. Counts are of blocks and inodes, ``block_size`` and ``inode_size`` are bytes."""

    inodes: int
    blocks: int
    reserved_blocks: int
    free_blocks: int
    free_inodes: int
    first_data_block: int
    block_size: int
    blocks_per_group: int
    inodes_per_group: int
    written: int  # seconds since 1970
    mounts: int
    state: int
    first_inode: int
    inode_size: int
    compat: int
    incompat: int
    ro_compat: int
    uuid: bytes
    label: bytes
    reserved_gdt_blocks: int
    journal_inode: int
    last_orphan: int
    descriptor_size: int
    first_meta_bg: int
    error_count: int

    @property
    def size(self) -> int:
        """Bytes the file system says it fills."""
        return self.blocks * self.block_size

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_data_block) // self.blocks_per_group)

    @property
    def has_journal(self) -> bool:
        return bool(self.compat & _HAS_JOURNAL)

    @property
    def needs_recovery(self) -> bool:
        """Its journal holds writes that are not in place yet: replay it before trusting what is read."""
        return bool(self.incompat & _NEEDS_RECOVERY)

    @property
    def clean(self) -> bool:
        """It was left properly: marked valid, nothing in the journal, no errors recorded, no orphans."""
        valid = bool(self.state & _STATE_VALID) and not self.state & _STATE_ERRORS
        return valid and not self.needs_recovery and not self.last_orphan

    @property
    def has_errors(self) -> bool:
        return bool(self.state & _STATE_ERRORS)

    @property
    def version(self) -> int:
        """2, 3 or 4: the driver name that fits the features."""
        if self.incompat & ~_EXT3_INCOMPAT or self.ro_compat & ~_APPTAINER_RO_COMPAT:
            return 4
        return 3 if self.has_journal else 2

    @property
    def features(self) -> tuple[str, ...]:
        """Names as dumpe2fs prints them; a bit without a name is FEATURE_I6 and the like."""
        sets = (("C", self.compat, COMPAT), ("I", self.incompat, INCOMPAT), ("R", self.ro_compat, RO_COMPAT))
        return tuple(name for letter, bits, table in sets for name in _names(letter, bits, table))

    @property
    def refused_by_apptainer(self) -> tuple[str, ...]:
        """What stops Apptainer from taking it as an overlay; empty when it takes it."""
        missing = () if self.has_journal else ("no has_journal",)
        return (
            missing
            + tuple(_names("I", self.incompat & ~_APPTAINER_INCOMPAT, INCOMPAT))
            + tuple(_names("R", self.ro_compat & ~_APPTAINER_RO_COMPAT, RO_COMPAT))
        )


def _names(letter: str, bits: int, table: dict[int, str]) -> list[str]:
    names = []
    for shift in range(32):
        bit = 1 << shift
        if bits & bit:
            names.append(table.get(bit, f"FEATURE_{letter}{shift}"))
    return names


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def has_magic(data: bytes) -> bool:
    """Whether the 1024 superblock bytes ``data`` claim to be ext2, 3 or 4."""
    return len(data) >= 58 and _u16(data, 56) == MAGIC


def parse(data: bytes) -> Superblock:
    """The superblock in ``data``, its 1024 bytes. Raises ExtError when it cannot be one."""
    if len(data) < SUPERBLOCK_SIZE or not has_magic(data):
        raise ExtError("no ext2/3/4 superblock")
    incompat = _u32(data, 96)
    log_block_size = _u32(data, 24)
    if log_block_size > 6:
        raise ExtError(f"superblock: block size 2^{10 + log_block_size} is impossible")
    old = _u32(data, 76) == 0
    descriptor_size = _u16(data, 254) if incompat & _64BIT else 32
    high = 1 if incompat & _64BIT else 0
    parsed = Superblock(
        inodes=_u32(data, 0),
        blocks=_u32(data, 4) | high * _u32(data, 336) << 32,
        reserved_blocks=_u32(data, 8) | high * _u32(data, 340) << 32,
        free_blocks=_u32(data, 12) | high * _u32(data, 344) << 32,
        free_inodes=_u32(data, 16),
        first_data_block=_u32(data, 20),
        block_size=1024 << log_block_size,
        blocks_per_group=_u32(data, 32),
        inodes_per_group=_u32(data, 40),
        written=_u32(data, 48),
        mounts=_u16(data, 52),
        state=_u16(data, 58),
        first_inode=_REVISION_0_FIRST_INODE if old else _u32(data, 84),
        inode_size=_REVISION_0_INODE_SIZE if old else _u16(data, 88),
        compat=_u32(data, 92),
        incompat=incompat,
        ro_compat=_u32(data, 100),
        uuid=data[104:120],
        label=data[120:136].split(b"\0", 1)[0],
        reserved_gdt_blocks=_u16(data, 206),
        journal_inode=_u32(data, 224),
        last_orphan=_u32(data, 232),
        descriptor_size=descriptor_size,
        first_meta_bg=_u32(data, 260),
        error_count=_u32(data, 404),
    )
    _check(parsed)
    return parsed


def _check(sb: Superblock) -> None:
    """Refuse numbers that contradict each other. Limits: a bitmap is one block, so 8 * block size bits."""
    bits = 8 * sb.block_size
    if not 0 < sb.inodes_per_group <= bits or sb.blocks_per_group < 8:
        raise ExtError("superblock: impossible number of blocks or inodes per group")
    # With bigalloc a bitmap bit is a cluster of many blocks.
    if sb.blocks_per_group > bits and not sb.ro_compat & 0x200:
        raise ExtError("superblock: more blocks per group than its bitmap holds")
    if sb.inode_size < 128 or sb.inode_size > sb.block_size or sb.inode_size & (sb.inode_size - 1):
        raise ExtError(f"superblock: inode size {sb.inode_size} is impossible")
    if sb.first_data_block >= sb.blocks or sb.first_data_block > 1:
        raise ExtError("superblock: the first data block lies outside the file system")
    if not 32 <= sb.descriptor_size <= sb.block_size or sb.descriptor_size % 8:
        raise ExtError(f"superblock: group descriptor size {sb.descriptor_size} is impossible")
    if not sb.first_inode <= sb.inodes <= sb.groups * sb.inodes_per_group:
        raise ExtError(f"superblock: {sb.inodes} inodes do not fit {sb.groups} groups")
    if sb.free_blocks > sb.blocks or sb.free_inodes > sb.inodes:
        raise ExtError("superblock: more free than there is")
    if sb.size > 2**63 - 1:
        raise ExtError("superblock: larger than any file can be")


def read(fd: int, offset: int = 0) -> Superblock:
    """The superblock of the file system that starts ``offset`` bytes into the file open at ``fd``."""
    import os

    return parse(os.pread(fd, SUPERBLOCK_SIZE, offset + SUPERBLOCK_OFFSET))


class Squash(NamedTuple):
    """The squashfs 4.0 superblock's facts (kernel: fs/squashfs/squashfs_fs.h); sizes in bytes."""

    inodes: int
    block_size: int
    compression: str
    version: tuple[int, int]
    bytes_used: int


SQUASH_MAGIC: Final = b"hsqs"
_COMPRESSIONS: Final = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}


def parse_squash(data: bytes) -> Squash:
    """The squashfs superblock at the start of ``data`` (96 bytes). Raises ValueError when it is none."""
    if len(data) < 96 or data[:4] != SQUASH_MAGIC:
        raise ValueError("no squashfs superblock")
    inodes, _, block_size, _, compression, block_log, _, _, major, minor = struct.unpack_from("<4I6H", data, 4)
    (bytes_used,) = struct.unpack_from("<Q", data, 40)
    if (major, minor) != (4, 0):
        raise ValueError(f"squashfs version {major}.{minor}; only 4.0 is known")
    if not 12 <= block_log <= 20 or block_size != 1 << block_log or bytes_used < 96:
        raise ValueError("squashfs superblock: block size or length are impossible")
    name = _COMPRESSIONS.get(compression, f"unknown ({compression})")
    return Squash(inodes, block_size, name, (major, minor), bytes_used)
