"""Names of files on a terminal and in pipes: any bytes, one line each, nothing that a terminal would obey."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from sifkit.cli.console import writing

_MUCH = 1 << 16


def escape(name: bytes) -> str:
    r"""``name`` as text that can be read back: control characters, ``\`` and what is not UTF-8 as ``\n``, ``\xff``."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = name.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is no part of UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return repr(character)[1:-1]


def write(parts: Iterable[bytes]) -> None:
    """Write ``parts`` to standard output, many at a time. Raises BrokenPipeError when the reader has left."""
    held: list[bytes] = []
    size = 0
    out = sys.stdout.buffer
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= _MUCH:
            with writing():
                out.write(b"".join(held))
            held.clear()
            size = 0
    with writing():
        out.write(b"".join(held))
        out.flush()
