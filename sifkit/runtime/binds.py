"""What a user wrote after ``--bind`` and ``--mount``, as records.

``--bind SRC[:DEST[:OPT[,OPT]]]``, comma lists as Apptainer takes them; ``--mount type=bind,src=SRC,dst=DEST[,OPT]``,
fields as of CSV, which is Docker's and Apptainer's way.
"""

from __future__ import annotations

import os

from overlay.failure import ADVICE, USAGE, Failure
from overlay.records import NamedTuple

_OPTION = r"ro|rw|id=.*|image-src=.*"
_KEYS = {"source": "src", "destination": "dst", "target": "dst", "readonly": "ro"}


class Asked(NamedTuple):
    """Host path ``source`` at container path ``destination``, both absolute.

    ``of_image``: ``source`` is an image, of which ``inside`` is shown: of the object ``id`` of a SIF image, or of its
    first data partition (0). ``nested``: containers started inside are to show it as well. ``text``: as it was written.
    """

    source: str
    destination: str
    readonly: bool = False
    of_image: bool = False
    inside: str = "/"
    id: int = 0
    nested: bool = True
    text: str = ""


class Missing(Failure):
    """The source of a bind is not there, or cannot be seen."""


def parse(text: str, where: str = "--bind") -> tuple[Asked, ...]:
    """The binds that one value names. ``\\:`` and ``\\,`` stand for the characters. `Failure` (2) on bad syntax.

    Empty parts are passed over, as Apptainer does: scripts join lists that may be empty, ``"$BINDS,/data"``.
    ``where``: what the value belongs to, for errors.
    """
    return tuple(_one(part, where) for part in _split(text) if part.strip(":"))


def fields(text: str) -> list[str]:
    """The parts of ``text`` between colons, escapes taken off."""
    import re  # as below: most runs have no binds

    return [re.sub(r"\\([:,\\])", r"\1", field) for field in re.split(r"(?<!\\):", text)]


def _split(text: str) -> list[str]:
    """Split at commas, but not at those between the options of one bind (``a:b:ro,id=4``)."""
    import re

    parts: list[str] = []
    for piece in re.split(r"(?<!\\),", text):
        if parts and len(re.findall(r"(?<!\\):", parts[-1])) > 1 and re.fullmatch(_OPTION, piece):
            parts[-1] += "," + piece
        else:
            parts.append(piece)
    return parts


def _one(text: str, where: str) -> Asked:
    import re

    parts = re.split(r"(?<!\\):", text)
    if len(parts) > 3 or not parts[0]:
        raise _bad(f"{where} {text}", "a bind is SRC, SRC:DEST or SRC:DEST:ro")
    source, *rest = fields(":".join(parts[:2]))
    options = dict(_pair(option) for option in re.split(r"(?<!\\),", parts[2])) if len(parts) > 2 else {}
    for option in options:
        if option not in ("ro", "rw", "id", "image-src"):
            raise _bad(f"{where} {text}", f"{option!r} is not a bind option; ro, rw, id=N and image-src=DIR are")
    return _asked(f"{where} {text}", source, rest[0] if rest and rest[0] else os.path.abspath(source), options)


def parse_mount(text: str) -> Asked:
    """The bind that one value of ``--mount`` names. `Failure` (2) on bad syntax."""
    import csv

    given: dict[str, str] = {}
    for field in next(csv.reader([text], strict=False), []):
        key, _, value = field.partition("=")
        key = _KEYS.get(key, key)
        if key not in ("type", "src", "dst", "ro", "id", "image-src", "nonested"):
            raise _bad_mount(text, f"{key!r} is not known in it")
        given[key] = value
    if given.pop("type", "bind") != "bind":
        raise _bad_mount(text, "only type=bind is supported")
    if not given.get("src") or not given.get("dst"):
        raise _bad_mount(text, "it must have a source and a destination")
    nested = "nonested" not in given
    return _asked(f"--mount {text}", given.pop("src"), given.pop("dst"), given)._replace(nested=nested)


def _pair(text: str) -> tuple[str, str]:
    import re

    key, _, value = text.partition("=")
    return key, re.sub(r"\\([:,\\])", r"\1", value)


def _asked(text: str, source: str, destination: str, options: dict[str, str]) -> Asked:
    if not destination.startswith("/"):
        raise _wrong(text, f"the destination {destination} must be an absolute path of the container")
    destination = os.path.normpath("/" + destination.strip("/"))
    if destination == "/":
        raise _wrong(text, "the destination cannot be / itself")
    source = os.path.abspath(source)
    try:
        os.stat(source)
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        cause = "there is no such file or directory" if absent else error.strerror
        hint = ADVICE.get(error.errno or 0, "the path on the host comes first: SRC:DEST")
        raise Missing(text, f"cannot bind {source}: {cause}", hint) from None
    number = options.get("id", "1")
    if not number.isascii() or not number.isdigit() or int(number) == 0:
        raise _wrong(text, f"id={number}: objects of a SIF image have numbers from 1 on")
    of_image = "id" in options or "image-src" in options
    inside = options.get("image-src", "/")
    if not inside.startswith("/"):
        raise _wrong(text, f"image-src={inside}: it must be an absolute path of the image")
    readonly = "ro" in options and options["ro"] not in ("false", "0")
    return Asked(source, destination, readonly, of_image, inside, int(number) if "id" in options else 0, text=text)


def _wrong(text: str, cause: str) -> Failure:
    return Failure(text, cause, "", USAGE)


def _bad(brief: str, cause: str) -> Failure:
    hint = "write '\\:' for a colon and '\\,' for a comma that belong to a path"
    return Failure(brief, cause, hint, USAGE)


def _bad_mount(text: str, cause: str) -> Failure:
    return Failure(f"--mount {text}", cause, "as in type=bind,src=/data,dst=/mnt,ro", USAGE)
