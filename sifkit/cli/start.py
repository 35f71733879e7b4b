"""The usual command line of a run, understood without click, which takes longer to load than all of ours.

`parse` answers for options that are spelled out and have any text for a value, and an image. Whatever else there may
be on a line, a mistake above all, it leaves to click, which asks of it the same (`sifkit.cli.exec_cmd`).
"""

from __future__ import annotations

from overlay.records import NamedTuple
from sifkit.cli.spec import Given, Spec, specs

# Verb -> the field of what follows IMAGE.
_REST = {"exec": "command", "shell": "args", "run": "args", "test": "args"}


class Asked(NamedTuple):
    """What to do, and what was given."""

    verb: str
    given: Given


def parse(argv: list[str]) -> Asked | None:
    """What the words behind ``sifkit`` ask for; None when it is for click to say."""
    if not argv or argv[0] not in _REST:
        return None
    verb, words, given = argv[0], argv[1:], Given()
    image = _options(verb, words, given)
    if image is None or image == len(words) or not words[image]:
        return None
    given["image"] = words[image]
    if rest := tuple(words[image + 1 :]):
        given[_REST[verb]] = rest
    elif verb == "exec":
        return None
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
