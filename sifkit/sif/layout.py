"""The bytes of a SIF file, as construct definitions, and the records they become.

::

     0        header, 128 bytes                      4096    table of descriptors (usually here)
     ├ 32  launch script, NUL-padded                 ├ 585 bytes  slot 0, object 1
     ├ 10  "SIF_MAGIC\\0"                             ├ 585 bytes  slot 1, object 2
     ├  3  "01\\0" version                            ┊            total × 585
     ├  3  "02\\0" architecture of the primary        data offset
     ├ 16  UUID, big-endian                          ├ object, padding, object, ...
     ├  8  created    ├ 8 modified                   end of data
     ├  8  free slots ├ 8 total slots
     ├  8  table's offset ├ 8 and size               descriptor, 585 bytes
     └  8  data's offset  └ 8 and size               ├ 4 type ├ 1 used ├ 4 ID ├ 4 group ├ 4 link
                                                     ├ 8 offset ├ 8 size ├ 8 size with padding
     all integers little-endian, packed;             ├ 8 created ├ 8 modified ├ 8 uid ├ 8 gid
     times in Unix seconds, offsets in bytes         ├ 128 name, NUL-padded
     from the start of the file                      └ 384 extra, by type

Plain integers and a `Switch` keyed by integers: an Enum would make the compiled builder take the wrong
branch, silently (construct 2.10.70). Every byte that no field explains is kept in ``rest``, so that
parse → build is the identity on any input.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

from sifkit.sif.deferral import deferred
from sifkit.sif.records import (
    HEADER_SIZE,
    SLOT_SIZE,
    CryptoExtra,
    Descriptor,
    Header,
    PartitionExtra,
    SbomExtra,
    SignatureExtra,
)

with deferred("pdb", "hashlib", "pickle", "traceback"):  # construct imports them and parsing does not use them: 8 ms
    from construct import Bytes, ConstructError, Int8ub, Int32sl, Int32ul, Int64sl, Struct, Switch, this  # type: ignore[import-untyped]

HEADER = Struct(
    "launch" / Bytes(32),
    "magic" / Bytes(10),
    "version" / Bytes(3),
    "arch" / Bytes(3),
    "uuid" / Bytes(16),
    "created" / Int64sl,
    "modified" / Int64sl,
    "free" / Int64sl,
    "total" / Int64sl,
    "table_offset" / Int64sl,
    "table_size" / Int64sl,
    "data_offset" / Int64sl,
    "data_size" / Int64sl,
)

PARTITION = Struct("fs" / Int32sl, "part" / Int32sl, "arch" / Bytes(3), "rest" / Bytes(373))
SIGNATURE = Struct("hash_type" / Int32sl, "entity" / Bytes(256), "rest" / Bytes(124))
CRYPTO = Struct("format" / Int32sl, "message" / Int32sl, "rest" / Bytes(376))
SBOM = Struct("format" / Int32sl, "rest" / Bytes(380))

DESCRIPTOR = Struct(
    "data_type" / Int32sl,
    "used" / Int8ub,  # not Flag, which would turn 2 into 1
    "id" / Int32ul,
    "group" / Int32ul,
    "link" / Int32ul,
    "offset" / Int64sl,
    "size" / Int64sl,
    "padded_size" / Int64sl,
    "created" / Int64sl,
    "modified" / Int64sl,
    "uid" / Int64sl,
    "gid" / Int64sl,
    "name" / Bytes(128),
    "extra"
    / Switch(
        this.data_type,
        {0x4004: PARTITION, 0x4005: SIGNATURE, 0x4008: CRYPTO, 0x4009: SBOM},
        default=Bytes(384),
    ),
)


_EXTRAS: dict[int, type[PartitionExtra | SignatureExtra | CryptoExtra | SbomExtra]] = {
    0x4004: PartitionExtra,
    0x4005: SignatureExtra,
    0x4008: CryptoExtra,
    0x4009: SbomExtra,
}
_FIELDS = operator.itemgetter(*Descriptor._fields[1:])


def parse_header(data: bytes) -> Header:
    """128 bytes → `Header`. Raises ``ValueError`` when there are not 128."""
    _exactly(data, HEADER_SIZE)
    fields = HEADER.parse(data)
    return Header(*(fields[name] for name in Header._fields))


def build_header(header: Header) -> bytes:
    """`Header` → its 128 bytes. Raises ``ValueError`` when a field has another length than on disk."""
    return _build(HEADER, header._asdict(), HEADER_SIZE)


def parse_descriptor(data: bytes, slot: int = 0) -> Descriptor:
    """585 bytes → `Descriptor`. Raises ``ValueError`` when there are not 585."""
    return parse_descriptors([(slot, data)])[0]


def parse_descriptors(slots: Iterable[tuple[int, bytes]]) -> list[Descriptor]:
    """Pairs of slot index and 585 bytes → descriptors, in the same order.

    Compiling the definition costs as much as 80 interpreted slots and parses five times as fast.
    """
    raw = list(slots)
    parse = _compiled() if len(raw) > 32 else DESCRIPTOR.parse
    found = []
    for index, data in raw:
        _exactly(data, SLOT_SIZE)
        found.append(_descriptor(index, *_FIELDS(parse(data))))
    return found


def _descriptor(slot: int, data_type: int, *fields: Any) -> Descriptor:
    *plain, extra = fields
    record: Any = _EXTRAS.get(data_type)
    if record is not None:
        extra = record(*(extra[name] for name in record._fields))
    return Descriptor._make((slot, data_type, *plain, extra))


def build_descriptor(descriptor: Descriptor) -> bytes:
    """`Descriptor` → its 585 bytes. Raises ``ValueError`` when a field has another length than on disk."""
    fields = descriptor._asdict()
    if isinstance(descriptor.extra, tuple):
        fields["extra"] = descriptor.extra._asdict()
    return _build(DESCRIPTOR, fields, SLOT_SIZE)


def build_extra(descriptor: Descriptor) -> bytes:
    """The 384 bytes of the extra field as they are on disk."""
    return build_descriptor(descriptor)[201:]


@functools.cache
def _compiled() -> Callable[[bytes], Any]:
    parse: Callable[[bytes], Any] = DESCRIPTOR.compile().parse
    return parse


def _build(definition: Any, fields: dict[str, Any], size: int) -> bytes:
    try:
        data: bytes = definition.build(fields)
    except ConstructError as error:
        raise ValueError(str(error)) from error
    _exactly(data, size)
    return data


def _exactly(data: bytes, size: int) -> None:
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes where {size} are needed")
