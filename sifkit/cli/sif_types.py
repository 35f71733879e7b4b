"""What the options of ``sifkit sif`` take: siftool's numbers and words for them, and how our errors become failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from overlay.failure import OURS, Failure, from_oserror
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

_HINTS = {
    "Signed": "--force does it; the signature is then broken",
    "InUse": "stop the containers that use this image",
    "NotSif": "sifkit sif works on SIF images only; file(1) says what this is",
    "Truncated": "the file is incomplete: copy or download it again",
    "Corrupt": "sifkit sif check FILE lists everything that is wrong",
    "ObjectNotFound": "sifkit sif list FILE shows the IDs",
    "MultipleObjects": "sifkit sif check FILE lists everything that is wrong",
    "PrimaryExists": "--parttype system, then: sifkit sif setprim ID FILE",
    "HardLinked": "copy the file to another name, and compact the copy",
    "Mislabelled": "--force does it all the same",
}


@contextmanager
def failures(brief: str) -> Iterator[None]:
    """Our library's errors as a `Failure` that starts with ``brief``."""
    from sifkit.sif.errors import BadValue, SifError

    try:
        yield
    except SifError as error:
        where = f" (byte {error.offset})" if error.offset is not None else ""
        code = 2 if isinstance(error, BadValue) else OURS  # a value that does not fit is a wrong command line
        raise Failure(brief, error.text + where, _HINTS.get(type(error).__name__, ""), code) from error
    except EOFError as error:
        raise Failure(brief, str(error), "the image changed meanwhile; run again") from error
    except OSError as error:
        raise from_oserror(brief, error) from error
