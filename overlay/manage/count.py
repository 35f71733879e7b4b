"""How much an overlay's layer holds, and how it spells what it deletes."""

from __future__ import annotations

from typing import NamedTuple

from overlay.tree.layer import Unreadable, steps
from overlay.tree.view import Tree


class Counts(NamedTuple):
    """Names in the layer by what they are. ``spellings``: how often each spelling of a mark occurs.

    ``unreadable``: directories that may not be listed, whose contents are not counted.
    """

    files: int
    directories: int
    others: int
    whiteouts: int
    opaque: int
    spellings: dict[str, int]
    unreadable: int


def count(layer: Tree) -> Counts:
    """Look at everything in the layer ``layer``. Raises as `Tree` does."""
    files = directories = others = whiteouts = opaque = 0
    spellings: dict[str, int] = {}
    unreadable: list[Unreadable] = []
    for path, what, entry, content, spelling in steps(layer, unreadable):
        marks: list[str] = []
        if entry is None:
            whiteouts += 1
            marks = [spelling]
        elif entry.is_directory:
            directories += bool(path)
            opaque += what == "opaque"
            if content is not None:
                marks = sorted(content.marks) or ([".wh. file beside it"] if what == "opaque" else [])
        elif entry.is_file:
            files += 1
        else:
            others += 1
        for mark in marks:
            spellings[mark] = spellings.get(mark, 0) + 1
    return Counts(files, directories, others, whiteouts, opaque, spellings, len(unreadable))
