"""Everything wrong with an image, as a list. What `reader.open` refuses is a finding too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sifkit.sif import enums, integrity, reader, records, sniff
from sifkit.sif.arch import NO_ARCH, arch_text
from sifkit.sif.enums import DataType, FsType, HashType, PartType
from sifkit.sif.errors import SifError
from sifkit.sif.infer import disagreement
from sifkit.sif.reader import Image, Path
from sifkit.sif.records import (
    GROUP_MASK,
    HEADER_SIZE,
    LARGEST_GAP,
    SLOT_SIZE,
    Descriptor,
    PartitionExtra,
)

_YEAR_10000 = 253402300800


class Finding(NamedTuple):
    """One thing that is wrong: byte offset of the field, ID of the object (0: the header or table), one
    sentence."""

    offset: int
    object_id: int
    text: str


def check(path: Path, *, data: bool = True) -> list[Finding]:
    """All that is wrong with the image, in the order of the file; none means it is sound.

    ``data``: also read objects (starts of partitions, everything that is signed). Raises ``OSError`` only.
    """
    try:
        image = reader.open(path)
    except SifError as error:
        return [Finding(error.offset or 0, 0, error.text)]
    with image:
        found = [*_header(image), *_objects(image), *_ids(image), *_overlaps(image), *_links(image)]
        if data:
            found += [*_contents(image), *_signatures(image)]
    return sorted(set(found))


def _header(image: Image) -> Iterator[Finding]:
    header = image.header
    if b"\0" not in header.launch:
        yield Finding(0, 0, "the launch script has no end")
    yield from _arch(image)
    for at, name, seconds in ((64, "created", header.created), (72, "modified", header.modified)):
        yield from _time(at, 0, name, seconds)
    free = header.total - len(image.objects)
    if header.free != free:
        yield Finding(80, 0, f"{header.free} descriptors are said to be free, {free} are")
    if header.table_size != header.total * SLOT_SIZE:
        text = f"the table has {header.table_size} bytes, its descriptors {header.total * SLOT_SIZE}"
        yield Finding(104, 0, text)
    if header.total and header.table_offset < HEADER_SIZE:
        yield Finding(96, 0, f"the table starts at byte {header.table_offset}, inside of the header")
    yield from _data(image)


def _arch(image: Image) -> Iterator[Finding]:
    header, primaries = image.header, [d for d in image.objects if d.is_primary]
    if header.arch != NO_ARCH and arch_text(header.arch) == "unknown":
        yield Finding(45, 0, f"the header's architecture {header.arch!r} is unknown")
    if len(primaries) > 1:
        ids = ", ".join(str(d.id) for d in primaries)
        yield Finding(image.offset_of(primaries[1]), primaries[1].id, f"more than one primary partition (IDs {ids})")
    wanted = primaries[0].partition.arch if primaries and primaries[0].partition else NO_ARCH
    if len(primaries) < 2 and header.arch != wanted:
        text = f"the header says {arch_text(header.arch)}, the primary partition {arch_text(wanted)}"
        yield Finding(45, 0, text if primaries else "the header names an architecture, and no primary partition has it")


def _data(image: Image) -> Iterator[Finding]:
    header, length = image.header, image.length
    end = header.data_offset + header.data_size
    last = max((d.end for d in image.objects if d.size), default=0)
    if header.data_offset < max(header.table_end if header.total else 0, HEADER_SIZE):
        yield Finding(112, 0, f"the data start at byte {header.data_offset}, inside of header or table")
    elif header.data_offset > max(length, header.table_end + LARGEST_GAP):
        yield Finding(112, 0, f"the data start at byte {header.data_offset}, the file ends at byte {length}")
    if header.data_size < 0:
        yield Finding(120, 0, f"the data have {header.data_size} bytes")
    elif header.data_size and end > length and not any(d.size == 0 and d.end == end for d in image.objects):
        yield Finding(120, 0, f"the data end at byte {end}, the file at byte {length}")
    elif end < last <= length:
        yield Finding(120, 0, f"the data are said to end at byte {end}, the last object ends at byte {last}")


def _objects(image: Image) -> Iterator[Finding]:
    for d in image.objects:
        at = image.offset_of(d)
        if d.offset < 0 or d.size < 0:
            yield Finding(at + 17, d.id, f"offset {d.offset} and size {d.size} are impossible")
        elif d.size and d.end > image.length:
            yield Finding(at + 17, d.id, f"ends at byte {d.end}, the file ends at byte {image.length}")
        if d.size >= 0 and d.padded_size < d.size:
            yield Finding(at + 33, d.id, f"has {d.size} bytes, with padding {d.padded_size}")
        if d.used != 1:
            yield Finding(at + 4, d.id, f"its used byte is {d.used}")
        if d.group & GROUP_MASK != GROUP_MASK:
            yield Finding(at + 9, d.id, f"its group {d.group:#x} is not marked as a group")
        yield from _time(at + 41, d.id, "created", d.created)
        yield from _time(at + 49, d.id, "modified", d.modified)
        yield from _name(at + 73, d)
        yield from _type(at, d)


def _time(at: int, number: int, name: str, seconds: int) -> Iterator[Finding]:
    if not records.ZERO_TIME <= seconds < _YEAR_10000:
        yield Finding(at, number, f"{name} at {seconds} s, outside of the years 1 to 9999")


def _name(at: int, d: Descriptor) -> Iterator[Finding]:
    """A name may fill its field, without a NUL: the Go tools write and read all 128 bytes."""
    name = d.name.rstrip(b"\0")
    if b"\0" in name:
        yield Finding(at, d.id, "bytes follow the end of its name")
    text = d.name_text
    if not text.isprintable():
        yield Finding(at, d.id, "its name has control characters or bytes that are not UTF-8")
    if text.startswith("/") or ".." in text.split("/"):
        yield Finding(at, d.id, "its name is a path out of the directory")


def _type(at: int, d: Descriptor) -> Iterator[Finding]:
    extra = d.extra
    if d.data_type not in tuple(DataType):
        yield Finding(at, d.id, f"its type {d.data_type:#x} is unknown")
    if isinstance(extra, PartitionExtra):
        if extra.fs not in tuple(FsType):
            yield Finding(at + 201, d.id, f"its file system type {extra.fs} is unknown")
        if extra.part not in tuple(PartType):
            yield Finding(at + 205, d.id, f"its partition type {extra.part} is unknown")
        if arch_text(extra.arch) == "unknown":
            yield Finding(at + 209, d.id, f"its architecture {extra.arch!r} is unknown")
    if isinstance(extra, records.SignatureExtra) and extra.hash_type not in tuple(HashType):
        yield Finding(at + 201, d.id, f"its hash type {extra.hash_type} is unknown")
    if isinstance(extra, records.SbomExtra) and enums.sbom_text(extra.format) == "unknown":
        yield Finding(at + 201, d.id, f"its format {extra.format} is unknown")


def _ids(image: Image) -> Iterator[Finding]:
    seen: set[int] = set()
    for d in image.objects:
        at = image.offset_of(d) + 5
        if d.id == 0:
            yield Finding(at, 0, f"the object in slot {d.slot} has ID 0")
        elif d.id in seen:
            yield Finding(at, d.id, "another object has the same ID")
        seen.add(d.id)


def _overlaps(image: Image) -> Iterator[Finding]:
    header = image.header
    taken = [(0, HEADER_SIZE, 0, 96, "the header")]
    if header.total:
        taken.append((header.table_offset, header.table_end, 0, 96, "the table"))
    for d in image.objects:
        if d.size > 0 and d.offset >= 0 and d.end <= image.length:
            taken.append((d.offset, d.end, d.id, image.offset_of(d) + 17, f"object {d.id}"))
    taken.sort()
    widest = taken[0]
    for region in taken[1:]:
        if region[0] < widest[1]:
            yield Finding(region[3], region[2], f"{region[4]} overlaps {widest[4]}")
        widest = max(widest, region, key=lambda r: r[1])


def _links(image: Image) -> Iterator[Finding]:
    ids = {d.id for d in image.objects}
    groups = {d.group_id for d in image.objects}
    for d in image.objects:
        at = image.offset_of(d) + 13
        if d.link_id and d.link_id not in ids:
            yield Finding(at, d.id, f"links to object {d.link_id}, which does not exist")
        if d.links_group and d.link_group not in groups:
            yield Finding(at, d.id, f"links to group {d.link_group}, which is empty")


def _contents(image: Image) -> Iterator[Finding]:
    for d in image.objects:
        if d.partition is None or d.offset < 0 or d.size < 0 or d.end > image.length:
            continue
        head = os.pread(image.fd, min(sniff.HEAD, d.size), d.offset)
        if text := disagreement(head, d.size, d.partition.fs):
            yield Finding(d.offset, d.id, text)


def _signatures(image: Image) -> Iterable[Finding]:
    try:
        for found in integrity.mismatches(image):
            at = image.offset_of(found.signature)
            yield Finding(at, found.object_id, f"signature {found.signature.id}: {found.text}")
    except SifError as error:
        yield Finding(error.offset or 0, 0, f"signatures not compared: {error.text}")
