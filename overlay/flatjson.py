"""Small JSON objects of texts and numbers, written without the json module, which is a tenth of the time of a start."""

from __future__ import annotations

from collections.abc import Mapping

from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

Value = str | int | float | bool


def encode(fields: Mapping[str, Value]) -> bytes:
    """``fields`` as one JSON object on one line, ASCII but for printable characters; surrogates are escaped."""
    pairs = (f'"{name}": {_json(value)}' for name, value in fields.items())
    return ("{" + ", ".join(pairs) + "}").encode()


def decode(data: bytes) -> dict[str, Any]:
    """The object in ``data``. Raises ValueError when it is none."""
    import json

    try:
        fields = json.loads(data)
    except RecursionError:
        raise ValueError("nested without end") from None
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return fields


def _json(value: Value) -> str:
    if isinstance(value, str):
        plain = (c if _raw(c) else f"\\u{ord(c):04x}" for c in value)
        return '"' + "".join(plain) + '"'
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


def _raw(character: str) -> bool:
    return character > "\uffff" or (character.isprintable() and character not in '"\\')
