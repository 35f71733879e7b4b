"""Usual command lines, understood without click, which takes longer to load than all of ours.

`parse` answers for what runs something (`sifkit.cli.exec_cmd`) and for what shows something of a SIF image
(`sifkit.cli.sif_cmd`), with options that are spelled out and have any text for a value. Whatever else there may be on
a line, a mistake above all, it leaves to click, which asks of it the same.
"""

from __future__ import annotations

from overlay.records import TYPE_CHECKING, NamedTuple
from sifkit.cli.spec import Given, Spec, specs

if TYPE_CHECKING:
    from typing import Final

# Verb -> the field of what follows IMAGE.
_REST: Final = {"exec": "command", "shell": "args", "run": "args", "test": "args"}

# Verb of ``sif`` -> its arguments, and its options: the field, and whether a value follows.
_JSON: Final = {"--json": ("as_json", False)}
_SHOWN: Final = {
    "header": (("file",), _JSON),
    "list": (("file",), _JSON),
    "info": (("number", "file"), _JSON),
    "check": (("file",), _JSON),
    "dump": (
        ("number", "file"),
        {"-o": ("output", True), "--output": ("output", True), "--force": ("force", False)},
    ),
}


class Asked(NamedTuple):
    """What to do, and what was given."""

    verb: str
    given: Given


def parse(argv: list[str]) -> Asked | None:
    """What the words behind ``sifkit`` ask for; None when it is for click to say."""
    if argv and argv[0] in _REST:
        return _run(argv[0], argv[1:])
    if len(argv) > 1 and argv[0] == "sif" and argv[1] in _SHOWN:
        return _show(argv[1], argv[2:])
    return None


def carry_out(asked: Asked) -> int:
    """Do it; the exit status. Raises `Failure`, `UsageError`."""
    if asked.verb in _SHOWN:
        from sifkit.cli import console, sif_see

        console.undo_when_ended()
        return sif_see.carry_out(asked.verb, asked.given)
    from sifkit.cli import carry_out

    return carry_out.carry_out(asked.verb, asked.given)


def _run(verb: str, words: list[str]) -> Asked | None:
    given = Given()
    image = _options(verb, words, given)
    if image is None or image == len(words) or not words[image]:
        return None
    given["image"] = words[image]
    if rest := tuple(words[image + 1 :]):
        given[_REST[verb]] = rest
    elif verb == "exec":
        return None
    return Asked(verb, given)


def _show(verb: str, words: list[str]) -> Asked | None:
    """Options may stand before, between and behind the arguments."""
    names, options = _SHOWN[verb]
    given, arguments = Given(), list[str]()
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            arguments.append(word)
            continue
        field, valued = options.get(word, ("", False))
        value = next(rest, "-") if valued else ""
        if not field or value.startswith("-"):
            return None
        given[field] = value if valued else True
    if len(arguments) != len(names):
        return None
    given.update(zip(names, arguments, strict=True))
    number = given["number"]
    if number is not None:
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            return None
        given["number"] = int(number)
    return Asked(verb, given)


def _options(verb: str, words: list[str], given: Given) -> int | None:
    """Put the options that lead ``words`` into ``given``; how many words they are, None for one that is not usual."""
    known: dict[str, Spec] = {}
    at = 0
    while at < len(words) and words[at].startswith("-"):
        known = known or {name: spec for spec in specs(verb) for name in spec.names}
        name, equals, value = words[at].partition("=") if words[at].startswith("--") else (words[at], "", "")
        spec = known.get(name)
        if spec is None or spec.type is not None or (equals and not spec.metavar):
            return None
        at += 1
        if not spec.metavar:
            given[spec.key] = True
            continue
        if not equals:
            if at == len(words) or words[at].startswith("-"):
                return None
            value = words[at]
            at += 1
        given[spec.key] = (*(given[spec.key] or ()), value) if spec.many else value
    return at
