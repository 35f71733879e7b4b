"""Sizes: what is understood, what is refused, and that printing and reading agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.size import GIB, KIB, MIB, TIB, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64M", 64 * MIB),
        ("64", 64 * MIB),
        ("10G", 10 * GIB),
        ("10g", 10 * GIB),
        ("1.5GiB", 3 * GIB // 2),
        ("512KB", 512 * KIB),
        ("512 KiB", 512 * KIB),
        ("100B", 100),
        ("2T", 2 * TIB),
        (" 64M\n", 64 * MIB),
        ("0", 0),
    ],
)
def test_understood(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "64X", "1e3", "64 M B", "0x40", "1.G", ".5G", "٣", "64iB5", "9999999999P"]
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|larger"):
        parse_size(text)


def test_default_unit() -> None:
    assert parse_size("5", default_unit=1) == 5
    assert parse_size("5K", default_unit=GIB) == 5 * KIB


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (KIB, "1 KiB"),
        (64 * MIB, "64 MiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (MIB - 1, "1 MiB"),
        (5 * TIB, "5 TiB"),
    ],
)
def test_printed(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 2**62))
def test_printed_is_readable_and_close(size: int) -> None:
    again = parse_size(format_size(size))
    assert abs(again - size) <= size / 18
