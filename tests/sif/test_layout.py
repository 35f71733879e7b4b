"""Parse → build is the identity on any bytes, and the fields lie where the format says."""

from __future__ import annotations

import struct
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifkit.sif import layout
from sifkit.sif.arch import ARCHITECTURES, arch_code, arch_text

TYPES = [0, 1, *range(0x4001, 0x400C), -1]
slots = st.builds(
    lambda kind, rest: struct.pack("<i", kind) + rest, st.sampled_from(TYPES), st.binary(min_size=581, max_size=581)
)


@given(st.binary(min_size=128, max_size=128))
def test_header_identity(data: bytes) -> None:
    assert layout.build_header(layout.parse_header(data)) == data


@settings(max_examples=200)
@given(st.lists(slots, min_size=1, max_size=4))
def test_descriptor_identity(data: list[bytes]) -> None:
    few = layout.parse_descriptors(enumerate(data))
    many = layout.parse_descriptors(enumerate(data * 40))  # enough of them that the compiled parser is used
    assert few == [d._replace(slot=n) for n, d in enumerate(many[: len(few)])]
    assert [layout.build_descriptor(d) for d in many] == data * 40


def test_fields_are_where_the_format_says() -> None:
    fixed = struct.pack("<iBIIIqqqqqqq", 0x4004, 1, 7, 0xF0000001, 3, 4096, 10, 20, 30, 40, 50, 60)
    extra = struct.pack("<ii3s", 2, 4, b"04\0").ljust(384, b"\0")
    d = layout.parse_descriptor(fixed + b"name".ljust(128, b"\0") + extra)
    assert d[1:13] == (0x4004, 1, 7, 0xF0000001, 3, 4096, 10, 20, 30, 40, 50, 60)
    assert (d.name_text, d.group_id, d.link_id, d.end) == ("name", 1, 3, 4106)
    assert d.partition is not None and (d.partition.fs, d.partition.part, d.partition.arch) == (2, 4, b"04\0")


@pytest.mark.parametrize("size", [0, 1, 127, 129])
def test_wrong_length_of_a_header_is_refused(size: int) -> None:
    with pytest.raises(ValueError):
        layout.parse_header(bytes(size))


def test_wrong_length_of_a_field_is_refused() -> None:
    header = layout.parse_header(bytes(128))
    for wrong in (header._replace(arch=b"1"), header._replace(launch=b"x" * 33), header._replace(total=1 << 63)):
        with pytest.raises(ValueError):
            layout.build_header(wrong)
    d = layout.parse_descriptor(bytes(585))
    for bad in (d._replace(name=b"short"), d._replace(id=-1), d._replace(extra=b"x"), d._replace(used=256)):
        with pytest.raises(ValueError):
            layout.build_descriptor(bad)
    for size in (584, 586):
        with pytest.raises(ValueError):
            layout.parse_descriptor(bytes(size))


@pytest.mark.parametrize("name", ["empty", "every-type", "deleted", "setprim", "full", "nothing", "odd"])
def test_identity_on_siftool_images(generate: ModuleType, name: str) -> None:
    data = odd_or(generate, name)
    assert layout.build_header(layout.parse_header(data[:128])) == data[:128]
    _identical_table(data)


def odd_or(generate: ModuleType, name: str) -> bytes:
    data: bytes = generate.image(name)
    return data


def _identical_table(data: bytes) -> None:
    total, offset = struct.unpack_from("<qq", data, 88)
    table = [data[offset + n * 585 : offset + (n + 1) * 585] for n in range(total)]
    assert [layout.build_descriptor(d) for d in layout.parse_descriptors(enumerate(table))] == table


def test_identity_on_golden_images(golden: Path) -> None:
    for path in golden.glob("*.sif"):
        _identical_table(path.read_bytes())


def test_architectures_both_ways() -> None:
    for name in ARCHITECTURES:
        assert arch_text(arch_code(name)) == name
    for odd in (b"386", b"amd", b"99\0", b"2\0\0", b"\0\0\0", b""):
        assert arch_text(odd) == "unknown"
    with pytest.raises(KeyError):
        arch_code("vax")


def test_construct_leaves_the_standard_library_alone() -> None:
    import hashlib
    import pdb
    import sys

    import construct.core  # type: ignore[import-untyped]

    assert sys.modules["pdb"] is pdb and hasattr(pdb, "Pdb")
    assert construct.core.hashlib.sha256(b"").digest() == hashlib.sha256(b"").digest()
