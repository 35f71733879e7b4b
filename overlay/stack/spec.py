"""What a user wrote after ``--overlay``, as records: ``SRC[:ro|:rw|:fuse]``.

Rules, in this order. A path that exists is taken whole, whatever it holds. ``\\:`` and ``\\,`` stand for the
characters themselves. A last ``:suffix`` is the mode, and anything but ``ro``, ``rw`` and ``fuse`` is an error. A
comma separates only where every part names something that exists (Apptainer splits at every comma).
"""

from __future__ import annotations

import os

from overlay.failure import USAGE, Failure
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Literal

    Mode = Literal["auto", "ro", "rw", "fuse"]

_SUFFIX = r"(?<!\\):([^:/]*)$"


class LayerSpec(NamedTuple):
    """``source``: a path as the user meant it. ``mode``: what was asked, ``auto`` when nothing was.

    ``fuse`` is ``rw`` of an ext3 overlay, written in place and not staged.
    """

    source: str
    mode: Mode


def parse(text: str) -> tuple[LayerSpec, ...]:
    """The layers that one ``--overlay`` value names; `Failure` (exit 2) for a suffix nobody knows."""
    pieces = _split(text) if "," in text else [text]
    if len(pieces) > 1 and not any(map(os.path.lexists, (text, text.removesuffix(":ro"), text.removesuffix(":rw")))):
        parts = tuple(_one(piece) for piece in pieces)
        if all(os.path.lexists(part.source) for part in parts):
            return parts
    return (_one(text),)


def _split(text: str) -> list[str]:
    import re  # only for paths that are not simply there

    return re.split(r"(?<!\\),", text)


def _one(text: str) -> LayerSpec:
    if not text:
        raise Failure("an overlay needs a path", "the value of --overlay is empty", exit_code=USAGE)
    if os.path.lexists(text):
        return LayerSpec(text, "auto")
    import re

    match = re.search(_SUFFIX, text)
    if match is None:
        return LayerSpec(_unescape(text), "auto")
    source, suffix = text[: match.start()], match.group(1)
    if not source:
        raise Failure("an overlay needs a path", f"--overlay {text} has none", exit_code=USAGE)
    if suffix == "ro":
        return LayerSpec(_taken(source), "ro")
    if suffix == "rw":
        return LayerSpec(_taken(source), "rw")
    if suffix == "fuse":
        return LayerSpec(_taken(source), "fuse")
    raise Failure(
        f"--overlay {text}: the suffix ':{suffix}' is not known",
        "only ':ro' (read-only), ':rw' (writable) and ':fuse' (written through FUSE) may follow the path",
        "write '\\:' for a colon that belongs to the path",
        USAGE,
    )


def _taken(source: str) -> str:
    return source if os.path.lexists(source) else _unescape(source)


def _unescape(text: str) -> str:
    import re

    return re.sub(r"\\([:,\\])", r"\1", text)
