"""What the options of ``sifkit sif`` take: siftool's numbers, and words for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sifkit.sif import enums

if TYPE_CHECKING:  # generic since click 8.4, for type checkers alone
    _Number = click.ParamType[int]
    _Bytes = click.ParamType[bytes]
else:
    _Number = _Bytes = click.ParamType


class Numbered(_Number):
    """A number of siftool's or a word for it; the value is the number that goes to disk."""

    def __init__(self, name: str, words: dict[str, int], base: int = 0) -> None:
        self.name = name
        self.words = words
        self.base = base

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number = self.words.get(value.lower())
        if number is None and value.isascii() and value.isdigit() and len(value) < 6:
            number = int(value) + self.base
        if number not in self.words.values():
            self.fail(f"{value!r} is not one of {self.choices()}", param, ctx)
        assert number is not None
        return number

    def choices(self) -> str:
        """ "1-squashfs, 2-ext3, ...": each number with its first word."""
        first: dict[int, str] = {}
        for word, number in self.words.items():
            first.setdefault(number, word)
        return ", ".join(f"{number - self.base}-{word}" for number, word in sorted(first.items()))


class Fingerprint(_Bytes):
    """A PGP fingerprint: 40 hexadecimal digits; the value is its 20 bytes."""

    name = "fingerprint"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        try:
            raw = bytes.fromhex(value)
        except ValueError:
            self.fail(f"{value!r} is not hexadecimal", param, ctx)
        if len(raw) != 20:
            self.fail(f"a fingerprint has 40 digits, this has {len(value)}", param, ctx)
        return raw


FILE = click.Path(readable=False)  # opening it tells whether it is there and may be read, in our words

DATA_TYPE = Numbered("type", enums.DATA_TYPE_WORDS, 0x4000)
FS_TYPE = Numbered("fs", enums.FS_WORDS)
PART_TYPE = Numbered("parttype", enums.PART_WORDS)
ARCH = Numbered("arch", enums.ARCH_WORDS)
HASH = Numbered("hash", enums.HASH_WORDS)
SBOM = Numbered("format", enums.SBOM_WORDS)
