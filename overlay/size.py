"""Sizes as people write and read them. All units are binary: K is 1024 bytes, M is 1024 K, and so on."""

from __future__ import annotations

from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

_UNITS: Final = {"B": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB, "P": 1024 * TIB}
_SIZE: Final = r"([0-9]{1,18})(?:\.([0-9]{1,9}))?\s*([BKMGTP]?)(?:i?B)?"
_LARGEST: Final = 2**63 - 1  # off_t


def parse_size(text: str, default_unit: int = MIB) -> int:
    """The number of bytes ``text`` names: ``64M``, ``10G``, ``1.5GiB``, ``512KB``, ``100B``, or bare.

    A bare number counts ``default_unit`` bytes each (Apptainer's ``--size`` counts MiB). A fraction of a byte
    is dropped. Raises ValueError, worded for a person, for anything else, also for what no file can hold.
    """
    import re  # most starts need no size

    match = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write it like 64M, 10G or 1.5T")
    whole, fraction, letter = match.groups()
    bare = letter == "" and not text.strip()[-1].isalpha()
    unit = default_unit if bare else _UNITS[letter.upper() or "B"]
    size = int(whole) * unit
    if fraction:
        size += int(fraction) * unit // 10 ** len(fraction)
    if size > _LARGEST:
        raise ValueError(f"{text!r} is larger than any file can be")
    return size


def format_size(size: int) -> str:
    """``size`` bytes in the largest unit that keeps it at least 1: ``64 MiB``, ``1.5 GiB``, ``100 B``."""
    if abs(size) < KIB:
        return f"{size} B"
    unit, name = KIB, "KiB"
    for larger, label in ((MIB, "MiB"), (GIB, "GiB"), (TIB, "TiB"), (1024 * TIB, "PiB")):
        # 1023.95 would be shown as "1024.0": move on to the next unit as soon as rounding reaches it.
        if abs(size) >= larger - larger // 20480:
            unit, name = larger, label
    return f"{size / unit:.1f}".removesuffix(".0") + f" {name}"
