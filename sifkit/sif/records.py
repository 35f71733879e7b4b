"""The records of the format: a header and descriptors, field by field, and the constants that go with them.

`sifkit.sif.layout` draws the bytes and turns them into these records and back.
"""

from __future__ import annotations

from typing import NamedTuple

from sifkit.sif.arch import NO_ARCH
from sifkit.sif.enums import DataType

MAGIC = b"SIF_MAGIC\0"
VERSION = b"01\0"
HEADER_SIZE = 128
SLOT_SIZE = 585
TABLE_OFFSET = 4096
CAPACITY = 48
LARGEST_GAP = 65536  # the largest alignment in the wild: so far behind the file's end the data may seem to begin or end
ZERO_TIME = -62135596800  # Go's time.Time{}, 0001-01-01: "no time", in deterministic images
GROUP_MASK = 0xF0000000
ID_MASK = 0x0FFFFFFF


class PartitionExtra(NamedTuple):
    """Extra of a partition: `enums.FsType`, `enums.PartType`, three bytes of architecture."""

    fs: int
    part: int
    arch: bytes = NO_ARCH
    rest: bytes = bytes(373)


class SignatureExtra(NamedTuple):
    """Extra of a signature: `enums.HashType`; the first 20 bytes of ``entity`` are a PGP fingerprint."""

    hash_type: int
    entity: bytes = bytes(256)
    rest: bytes = bytes(124)

    @property
    def fingerprint(self) -> bytes:
        """20 bytes, or none when the signature was not made with PGP."""
        return self.entity[:20] if any(self.entity[:20]) else b""


class CryptoExtra(NamedTuple):
    """Extra of a cryptographic message: `enums.CryptoFormat`, `enums.CryptoMessage`."""

    format: int
    message: int
    rest: bytes = bytes(376)


class SbomExtra(NamedTuple):
    """Extra of a software bill of materials: `enums.SbomFormat`."""

    format: int
    rest: bytes = bytes(380)


Extra = PartitionExtra | SignatureExtra | CryptoExtra | SbomExtra | bytes


class Header(NamedTuple):
    """The 128 bytes at offset 0, field by field; nothing checked but the length."""

    launch: bytes
    magic: bytes
    version: bytes
    arch: bytes
    uuid: bytes
    created: int
    modified: int
    free: int
    total: int
    table_offset: int
    table_size: int
    data_offset: int
    data_size: int

    @property
    def deterministic(self) -> bool:
        """No UUID and no times: edits then write no time either (sylabs/sif v2.11)."""
        return not any(self.uuid) and self.created == self.modified == ZERO_TIME

    @property
    def launch_text(self) -> str:
        return _text(self.launch)

    @property
    def table_end(self) -> int:
        """First byte after the last slot."""
        return self.table_offset + self.total * SLOT_SIZE


class Descriptor(NamedTuple):
    """One slot of the table, field by field; nothing checked but the length.

    ``slot``: its index in the table (not on disk). ``group`` and ``link`` are raw: see `group_id`,
    `link_id`, `link_group`. Sizes and offsets in bytes, times in Unix seconds.
    """

    slot: int
    data_type: int
    used: int
    id: int
    group: int
    link: int
    offset: int
    size: int
    padded_size: int
    created: int
    modified: int
    uid: int
    gid: int
    name: bytes
    extra: Extra

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def group_id(self) -> int:
        """Number of the group, 0 for none."""
        return self.group & ID_MASK

    @property
    def link_id(self) -> int:
        """ID of the object linked to, 0 for none or when a group is linked."""
        return 0 if self.links_group else self.link & ID_MASK

    @property
    def link_group(self) -> int:
        """Number of the group linked to, 0 for none or when an object is linked."""
        return self.link & ID_MASK if self.links_group else 0

    @property
    def links_group(self) -> bool:
        return self.link & GROUP_MASK == GROUP_MASK

    @property
    def name_text(self) -> str:
        """The name without its padding; bytes that are not UTF-8 as surrogates (``os.fsencode`` undoes it)."""
        return _text(self.name)

    @property
    def partition(self) -> PartitionExtra | None:
        return self.extra if isinstance(self.extra, PartitionExtra) else None

    @property
    def is_primary(self) -> bool:
        return isinstance(self.extra, PartitionExtra) and self.extra.part == 2

    @property
    def digest(self) -> str:
        """``sha256:...`` of an OCI object, "" for others and for early files that lack it."""
        if self.data_type not in (DataType.OCI_ROOT_INDEX, DataType.OCI_BLOB):
            return ""
        assert isinstance(self.extra, bytes)
        return self.extra.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode("utf-8", "surrogateescape")
