"""What a user wrote after ``--bind``, as steps: ``SRC[:DEST[:OPT[,OPT]]]``, comma lists as Apptainer takes them."""

from __future__ import annotations

import os
import re

from overlay.failure import USAGE, Failure
from sifkit.runtime.steps import Bind

_OPTIONS = ("ro", "rw")


def parse(text: str) -> tuple[Bind, ...]:
    """The binds that one value names. ``\\:`` and ``\\,`` stand for the characters. `Failure` (2) on bad syntax."""
    return tuple(_one(part) for part in _split(text))


def _split(text: str) -> list[str]:
    """Split at commas, but not at those between the options of one bind (``a:b:ro,rw``)."""
    parts: list[str] = []
    for piece in re.split(r"(?<!\\),", text):
        if parts and piece in _OPTIONS:
            parts[-1] += "," + piece
        else:
            parts.append(piece)
    return parts


def _one(text: str) -> Bind:
    fields = [re.sub(r"\\([:,])", r"\1", field) for field in re.split(r"(?<!\\):", text)]
    if len(fields) > 3 or not fields[0]:
        raise _bad(text, "a bind is SRC, SRC:DEST or SRC:DEST:ro")
    source = os.path.abspath(fields[0])
    destination = fields[1] if len(fields) > 1 and fields[1] else source
    options = fields[2].split(",") if len(fields) > 2 else []
    for option in options:
        if option not in _OPTIONS:
            raise _bad(text, f"{option!r} is not a bind option; ro and rw are")
    if not destination.startswith("/"):
        raise _bad(text, "the destination must be an absolute path of the container")
    if ".." in destination.split("/"):
        raise _bad(text, "the destination may not hold '..'")
    if not os.path.exists(source):
        raise Failure(f"--bind {text}: cannot bind {source}", "there is no such file or directory")
    return Bind(source, destination, readonly="ro" in options)


def _bad(text: str, cause: str) -> Failure:
    hint = "write '\\:' for a colon and '\\,' for a comma that belong to a path"
    return Failure(f"--bind {text}", cause, hint, USAGE)
