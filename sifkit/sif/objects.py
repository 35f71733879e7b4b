"""What is to be put into an image, before it has a place there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from sifkit.sif import enums
from sifkit.sif.arch import NO_ARCH, arch_code
from sifkit.sif.enums import DataType, PartType
from sifkit.sif.errors import BadValue
from sifkit.sif.layout import build_descriptor
from sifkit.sif.records import (
    GROUP_MASK,
    ID_MASK,
    CryptoExtra,
    Descriptor,
    Extra,
    PartitionExtra,
    SbomExtra,
    SignatureExtra,
)

PARTITION_ALIGNMENT = 4096


class Fill(NamedTuple):
    """An object of ``size`` bytes that is made in place.

    ``write(path, offset)`` is called once the file has room for it, a hole, at ``offset`` bytes; it may run
    any tool on the file by its path. When it raises, the image is as before.
    """

    size: int
    write: Callable[[str, int], object]


# A path, the bytes themselves, an open descriptor read to its end, or something made in place.
Source = str | os.PathLike[str] | bytes | int | Fill


class NewObject(NamedTuple):
    """An object to add.

    ``group``: 0 is none. ``link``: ID of an object; ``link_group``: a group; at most one of them.
    ``alignment`` in bytes, None for the current library's rule: partitions 4096, others none.
    ``created``: Unix seconds, None for the time of the change. ``extra``: record of the data type, or up to
    384 bytes for types that have none.
    """

    data_type: int
    source: Source
    name: str | bytes = b""
    group: int = 1
    link: int = 0
    link_group: int = 0
    alignment: int | None = None
    created: int | None = None
    extra: Extra = b""


def partition(source: Source, fs: int, part: int, arch: str | bytes, *, name: str | bytes = b"",
              group: int = 1, link: int = 0, alignment: int | None = None) -> NewObject:  # fmt: skip
    """A partition. ``arch``: Go's name ("amd64") or the three bytes. Raises `BadValue`."""
    extra = PartitionExtra(fs, part, architecture(arch))
    return NewObject(DataType.PARTITION, source, name, group, link, 0, alignment, None, extra)


def signature(source: Source, hash_type: int, fingerprint: bytes = b"", *, link: int = 0, link_group: int = 0,
              name: str | bytes = b"") -> NewObject:  # fmt: skip
    """A signature, in no group, of the object or group that it links to. ``fingerprint``: 20 bytes or none."""
    extra = SignatureExtra(hash_type, fingerprint.ljust(256, b"\0"))
    return NewObject(DataType.SIGNATURE, source, name, 0, link, link_group, None, None, extra)


def architecture(arch: str | bytes) -> bytes:
    """The three bytes on disk. Raises `BadValue` for a name that is not in `arch.ARCHITECTURES`."""
    if isinstance(arch, bytes):
        return arch
    try:
        return arch_code(arch)
    except KeyError:
        raise BadValue(f"unknown architecture {arch!r}") from None


def name_field(name: str | bytes) -> bytes:
    """``name`` as its 128 bytes. Raises `BadValue` when it is longer or has a NUL."""
    raw = os.fsencode(name) if isinstance(name, str) else name
    if len(raw) > 128:
        raise BadValue(f"a name of {len(raw)} bytes, 128 have room")
    if b"\0" in raw.rstrip(b"\0"):
        raise BadValue("a name with a NUL byte")
    return raw.ljust(128, b"\0")


def group_field(group: int) -> int:
    """Raw group ID; 0 is none. Raises `BadValue`."""
    if not 0 <= group <= ID_MASK:
        raise BadValue(f"group {group} is not in 0 to {ID_MASK}")
    return GROUP_MASK | group


def link_field(link: int = 0, link_group: int = 0) -> int:
    """Raw linked ID of an object or a group. Raises `BadValue`."""
    if link and link_group:
        raise BadValue("an object links to an object or to a group, not to both")
    if link_group:
        return group_field(link_group)
    if not 0 <= link <= ID_MASK:
        raise BadValue(f"link {link} is not in 0 to {ID_MASK}")
    return link


def extra_field(data_type: int, extra: Extra) -> Extra:
    """``extra`` as the record that the type has on disk. Raises `BadValue`."""
    records: dict[int, type] = {
        0x4004: PartitionExtra,
        0x4005: SignatureExtra,
        0x4008: CryptoExtra,
        0x4009: SbomExtra,
    }
    wanted = records.get(data_type)
    if wanted is CryptoExtra and extra == b"":
        return CryptoExtra(0, 0)  # siftool adds them so
    if wanted is not None and not isinstance(extra, wanted):
        raise BadValue(f"an object of type {enums.data_type_text(data_type)} needs a {wanted.__name__}")
    if wanted is None:
        if not isinstance(extra, bytes) or len(extra) > 384:
            raise BadValue(f"extra of type {enums.data_type_text(data_type)} is up to 384 bytes")
        return extra.ljust(384, b"\0")
    return extra


def alignment_of(new: NewObject) -> int:
    """Alignment in bytes; 0 and 1 are none. Raises `BadValue`."""
    if new.alignment is None:
        return PARTITION_ALIGNMENT if new.data_type == DataType.PARTITION else 0
    if new.alignment > 1 << 30:
        raise BadValue(f"alignment {new.alignment} is more than 1 GiB")
    return new.alignment


def descriptor_of(new: NewObject, slot: int, now: int) -> Descriptor:
    """The descriptor of ``new`` in ``slot``, without place and size. Raises `BadValue`."""
    created = now if new.created is None else new.created
    group, link = group_field(new.group), link_field(new.link, new.link_group)
    name, extra = name_field(new.name), extra_field(new.data_type, new.extra)
    descriptor = Descriptor(slot, new.data_type, 1, slot + 1, group, link, 0, 0, 0, created, created, 0, 0, name, extra)
    try:
        build_descriptor(descriptor)
    except ValueError as error:
        raise BadValue(str(error)) from error
    return descriptor


def next_aligned(offset: int, alignment: int) -> int:
    """``offset`` rounded up to a multiple of ``alignment``; 0, 1 and less are none."""
    return offset if alignment <= 1 else -(-offset // alignment) * alignment


def header_arch(extra: Extra) -> bytes:
    """The header's architecture while this is its primary partition."""
    primary = isinstance(extra, PartitionExtra) and extra.part == PartType.PRIMARY
    return extra.arch if primary and isinstance(extra, PartitionExtra) else NO_ARCH
