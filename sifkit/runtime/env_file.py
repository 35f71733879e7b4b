"""Files of variables for ``--env-file``: lines ``NAME=VALUE`` as sh(1) writes them, read without running anything."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sifkit.runtime import environ

_LINE = re.compile(r"[ \t]*(?:export[ \t]+)?([^=\n]*)=")
_BLANK = re.compile(r"[ \t]*(#[^\n]*)?(\n|\Z)")
_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
_PLAIN = re.compile(r"[^\\'\"$`\n]+")


def plain(text: str) -> list[tuple[str, str]]:
    """Each line as it is: what is behind ``=`` is the value, quotes and all. ValueError names a line that is wrong."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        if not equals or not environ.is_name(name):
            raise ValueError(f"line {number}: {line!r} is not NAME=VALUE")
        found.append((name, value))
    return found


def parse(text: str, host: Mapping[str, str]) -> list[tuple[str, str]]:
    r"""The variables of ``text``, quotes taken off, ``$NAME`` replaced by an earlier line's or the ``host``'s.

    ``\$`` stays a ``$``, for whoever reads the value next. A value without quotes ends with its line, so that what
    ``env`` prints and what Docker takes is read as it was meant, spaces and all.
    """
    found: dict[str, str] = {}
    order: list[tuple[str, str]] = []
    shielded = {name: _shielded(value) for name, value in host.items()}
    at = 0
    while at < len(text):
        if blank := _BLANK.match(text, at):
            at = blank.end()
            if blank.end() == len(text):
                break
            continue
        number = text.count("\n", 0, at) + 1
        line = _LINE.match(text, at)
        if not line or not environ.is_name(line[1].strip()):
            raise ValueError(f"line {number}: {text[at:].partition(chr(10))[0]!r} is not NAME=VALUE")
        value, at = _value(text, line.end(), {**shielded, **found}, number)
        found[line[1].strip()] = value
        order.append((line[1].strip(), value))
    return order


def _value(text: str, at: int, known: Mapping[str, str], number: int) -> tuple[str, int]:
    """The value that begins ``at``, and where its line ends."""
    parts: list[str] = []
    quote, kept = "", 0  # of the value's end only what no quote protects may be taken off
    while at < len(text) and (quote or text[at] != "\n"):
        character = text[at]
        if run := _PLAIN.match(text, at):
            parts.append(run[0])
            at = run.end()
        elif character in "'\"" and quote in ("", character):
            quote = "" if quote else character
            at += 1
            kept = len(parts)
        elif character == "\\" and quote != "'":
            taken, at = _escaped(text, at, quote)
            parts.append(taken)
        elif character == "$" and quote != "'" and (name := _REFERENCE.match(text, at)):
            parts.append(known.get(name[1] or name[2], ""))
            at = name.end()
        elif quote != "'" and (character == "`" or text.startswith("$(", at)):
            raise ValueError(f"line {number}: commands are not run in such a file; write '\\' before {character}")
        else:
            parts.append(character)
            at += 1
    if quote:
        raise ValueError(f"line {number}: the quote {quote} is not closed")
    return "".join(parts[:kept]) + "".join(parts[kept:]).rstrip(" \t\r"), at + 1


def _shielded(value: str) -> str:
    r"""``value`` such that whoever evaluates the line's value leaves it alone."""
    return re.sub(r"([\\$`])", r"\\\1", value) if environ.refers(value) else value


def _escaped(text: str, at: int, quote: str) -> tuple[str, int]:
    r"""What the ``\`` at ``at`` stands for together with what follows it."""
    following = text[at + 1 : at + 2]
    if following == "\n":  # the line goes on
        return "", at + 2
    if not following or (quote and following not in '$`"\\'):
        return "\\", at + 1
    return following, at + 2
