"""What is read of an image without construct: the same as the reader reads, or it leaves it to the reader."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sifkit import sif
from sifkit.sif import glance
from sifkit.sif.glance import Part, Runnable

SLOT = 585
NAMES = ("deleted", "empty", "every-type", "full", "nothing", "odd", "setprim")
EXTREMES = (-(2**63), -1, 0, 1, 127, 2**31, 2**62, 2**63 - 1)


def fields(part: Part | None) -> dict[str, object] | None:
    return part and {name: getattr(part, name) for name in Part.__slots__}


def same(one: Runnable | None, other: Runnable) -> bool:
    """Whether ``one`` says all that ``other`` says, and nothing else."""
    assert one is not None
    return [fields(p) for p in (one.primary, *one.overlays)] == [fields(p) for p in (other.primary, *other.overlays)]


def in_full(path: str) -> Runnable | None:
    """What the reader says, None where it refuses."""
    try:
        return glance.in_full(path)
    except sif.SifError:
        return None


@pytest.mark.parametrize("name", NAMES)
def test_usual_images_need_no_reader(generate: ModuleType, tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.sif"
    path.write_bytes(generate.image(name))
    assert same(glance.usual(str(path)), glance.in_full(str(path)))


def test_golden_images_need_no_reader(golden: Path) -> None:
    for path in golden.glob("*.sif"):
        assert same(glance.usual(str(path)), glance.in_full(str(path))), path


def test_all_of_it_is_seen(image: str, squashfs: str) -> None:
    for group in (1, 0, 2):
        sif.add(image, sif.partition(squashfs, sif.FsType.SQUASHFS, sif.PartType.OVERLAY, "386", group=group))
    sif.add(image, sif.signature(b"signed", sif.HashType.SHA256, link_group=2))
    found = glance.usual(image)
    assert same(found, glance.in_full(image))
    assert found is not None and found.primary is not None
    assert (found.primary.id, found.primary.group, found.primary.fs, found.primary.arch) == (2, 1, 1, b"02\0")
    assert [(part.id, part.group, part.arch, part.signed) for part in found.overlays] == [
        (4, 1, b"01\0", False), (5, 0, b"01\0", False), (6, 2, b"01\0", True),
    ]  # fmt: skip


def test_a_signature_may_name_an_object(image: str, squashfs: str) -> None:
    sif.add(image, sif.partition(squashfs, sif.FsType.SQUASHFS, sif.PartType.OVERLAY, "amd64", group=1))
    sif.add(image, sif.signature(b"signed", sif.HashType.SHA256, link=2))
    found = glance.usual(image)
    assert same(found, glance.in_full(image))
    assert found is not None and found.overlays[0].signed


def variants(data: bytes, count: int, chance: random.Random) -> Iterator[bytes]:
    """``data`` with a field or a byte of its header or first six descriptors changed, or cut."""
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            slot = 4096 + chance.randrange(6) * SLOT
            fields = [(at, "<q") for at in range(64, 128, 8)] + [(slot + at, "<q") for at in range(17, 33, 8)]
            fields += [(slot + at, "<I") for at in (0, 5, 9, 13, 201, 205)] + [(slot + 4, "B"), (32, "B"), (42, "B")]
            at, form = chance.choice(fields)
            value = chance.choice((*EXTREMES, *range(6), 0x4004, 0x4005, 0xF0000001, 4096, len(data)))
            struct.pack_into(form, changed, at, value % 256 ** struct.calcsize(form) if form != "<q" else value)
        yield bytes(changed[: chance.choice((len(changed),) * 9 + (chance.randrange(len(changed)),))])


@pytest.mark.parametrize("name", ["every-type", "setprim"])
def test_what_it_says_of_damaged_images_the_reader_says_too(generate: ModuleType, tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.sif"
    answered = left = 0
    for data in variants(generate.image(name), 3000, random.Random(name)):
        path.write_bytes(data)
        seen = glance.usual(str(path))
        answered, left = answered + (seen is not None), left + (seen is None)
        if seen is not None:
            expected = in_full(str(path))
            assert expected is not None and same(seen, expected)
    assert answered > 500 and left > 500


def found(path: Path, number: int) -> tuple[int, int] | str:
    """Where `find` says that the object is, or the name of its error."""
    try:
        file, offset, size = glance.find(str(path), number)
    except sif.SifError as error:
        return type(error).__name__
    os.close(file)
    return offset, size


def found_by_reader(path: Path, number: int) -> tuple[int, int] | str:
    try:
        with sif.open(path) as image:
            d = image.one(sif.by_id(number))
            image.require_inside(d)
            return d.offset, d.size
    except sif.SifError as error:
        return type(error).__name__


@pytest.mark.parametrize("name", NAMES)
def test_objects_are_where_the_reader_finds_them(generate: ModuleType, tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.sif"
    path.write_bytes(generate.image(name))
    for number in range(-1, 12):
        assert found(path, number) == found_by_reader(path, number)


def test_usual_objects_need_no_reader(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [found_by_reader(Path(image), number) for number in (1, 2, 3)]
    monkeypatch.setattr(glance, "_place_in_full", None)
    assert [found(Path(image), number) for number in (1, 2, 3)] == expected


def test_objects_of_damaged_images_too(generate: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "image.sif"
    for data in variants(generate.image("every-type"), 1000, random.Random("find")):
        path.write_bytes(data)
        for number in (1, 3, 6):
            assert found(path, number) == found_by_reader(path, number)
