"""A tree that is an overlay's upper layer: what it adds, what it deletes, which directories it replaces.

Every spelling in the table of `overlay.whiteout` is understood, and none shows up as a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from overlay import whiteout
from overlay.tree.view import Entry, Tree

_MARK: Final = b".wh."
_FORMAT, _CHARACTER = 0o170000, 0o020000
DEVICE_SPELLING, FILE_SPELLING = "device 0:0", ".wh. file"


class Deleted(NamedTuple):
    """A name that is gone, and the spelling that says so."""

    name: bytes
    spelling: str


class Content(NamedTuple):
    """A directory of the upper layer: ``entries`` by name, ``deleted`` names.

    ``opaque``: nothing of the base shows in it; ``marks``: how it says so. ``replaced``: names of directories
    in it that a ``.wh.`` file beside them makes opaque.
    """

    entries: list[Entry]
    deleted: list[Deleted]
    opaque: bool
    marks: frozenset[str]
    replaced: frozenset[bytes]


def content(tree: Tree, directory: Entry, replaced: bool = False) -> Content:
    """What ``directory`` says; ``replaced``: its parent's `Content` says so of it. Raises as `Tree` does."""
    found = tree.listdir(directory)
    attributes = tree.xattrs(directory)
    marks = {mark for mark in tree.opaque_marks if attributes.get(mark.encode()) == b"y"}
    # Nearly every directory has neither: decide that in one pass over it.
    plain = [e for e in found if e[0][:4] != _MARK and (e[1] & _FORMAT != _CHARACTER or e[8])]
    if len(plain) == len(found):
        return Content(found, [], bool(marks) or replaced, frozenset(marks), frozenset())
    present = {entry.name: entry for entry in plain}
    entries, deleted, again = plain, [], set()
    for entry in found:
        if entry.name in present:
            continue
        if entry.name in whiteout.OPAQUE_NAMES and not entry.is_directory:
            marks.add(entry.name.decode())
            continue
        gone = None if entry.is_directory else whiteout.deleted_name(entry.name)
        if gone is None and entry.mode & _FORMAT == _CHARACTER and not entry.device:
            deleted.append(Deleted(entry.name, DEVICE_SPELLING))
        elif gone is None:
            entries = [*entries, entry]  # an ordinary file or directory with such a name
        elif gone not in present:
            deleted.append(Deleted(gone, FILE_SPELLING))
        elif present[gone].is_directory:
            again.add(gone)
    entries.sort()
    deleted = sorted({d.name: d for d in deleted}.values())
    return Content(entries, deleted, bool(marks) or replaced, frozenset(marks), frozenset(again))


class Step(NamedTuple):
    """``path`` is relative to the layer. ``what``: "present", "opaque" (a directory) or "deleted" (no ``entry``).

    ``content`` is that of a directory.
    """

    path: bytes
    what: str
    entry: Entry | None
    content: Content | None = None
    spelling: str = ""


class Unreadable(NamedTuple):
    """A directory that could not be listed, and why."""

    path: bytes
    error: OSError


def steps(tree: Tree, unreadable: list[Unreadable]) -> Iterator[Step]:
    """All that the layer ``tree`` says, depth first, siblings by name; the top itself comes first, as ``b""``.

    Directories that may not be read are put on ``unreadable``; everything else is raised.
    """
    top = content(tree, tree.top)
    yield Step(b"", "opaque" if top.opaque else "present", tree.top, top)
    yield from below(tree, top, unreadable)


def below(tree: Tree, here: Content, unreadable: list[Unreadable], *, recursive: bool = True) -> Iterator[Step]:
    """`steps` for what is in the directory whose content is ``here``, with paths relative to it."""
    waiting = [_within(tree, b"", here, unreadable)]
    while waiting:
        step = next(waiting[-1], None)
        if step is None:
            waiting.pop()
            continue
        yield step
        if step.content is not None and recursive:
            waiting.append(_within(tree, step.path + b"/", step.content, unreadable))


def _within(tree: Tree, lead: bytes, here: Content, unreadable: list[Unreadable]) -> Iterator[Step]:
    """What ``here`` says, by name."""
    gone = iter(here.deleted)
    next_gone = next(gone, None)
    for entry in here.entries:
        while next_gone is not None and next_gone.name < entry.name:
            yield Step(lead + next_gone.name, "deleted", None, None, next_gone.spelling)
            next_gone = next(gone, None)
        path = lead + entry.name
        if not entry.is_directory:
            yield Step(path, "present", entry)
            continue
        try:
            below = content(tree, entry, entry.name in here.replaced)
        except PermissionError as error:
            unreadable.append(Unreadable(path, error))
            yield Step(path, "present", entry)
            continue
        yield Step(path, "opaque" if below.opaque else "present", entry, below)
    while next_gone is not None:
        yield Step(lead + next_gone.name, "deleted", None, None, next_gone.spelling)
        next_gone = next(gone, None)
