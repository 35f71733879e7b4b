"""How much an overlay's layer holds, how it spells what it deletes, and on what base it was last used."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from overlay.tree import Entry, Tree
from overlay.tree_layer import Unreadable, steps

RECORD: Final = b"sifkit.json"  # beside upper/: written by runs, see `read_record`
_LARGEST_RECORD: Final = 65536


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


def read_record(whole: Tree) -> dict[str, Any]:
    """What the overlay's ``sifkit.json`` (at the top of ``whole``, beside ``upper/``) says; {} without one.

    An object; its ``base`` says on which image the overlay was last used, a text. A record that cannot be
    understood only informs, so it counts as none.
    """
    import json

    found: Entry | None = whole.lookup(RECORD)
    if found is None or not found.is_file or found.size > _LARGEST_RECORD:
        return {}
    with whole.open(found) as stream:
        data = stream.read(_LARGEST_RECORD)
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
