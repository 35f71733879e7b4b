"""What of an image's sessions is not in the image: found before anybody uses the image.

`find` looks, and changes nothing. `make_current` is for who holds the image's lock exclusively and is about to write:
it takes back a commit that was cut off, so that the image is sound and the one it was before; and it refuses an
image with changes that wait for their commit, when the caller's work would come in between.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from overlay.failure import Failure
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.session import marker as session_marker
from overlay.session import place as session_place
from overlay.session import state as session
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from typing import Literal

    from overlay.section import Section
    from overlay.session.marker import Marker

    State = Literal["waiting", "cut", "done", "replaced", "elsewhere", "foreign", "lost"]
    from overlay.session.state import Identity, Session

COMPLETE = ".done"  # behind an undo log's name: a file that says that the commit is complete


class Pending(NamedTuple):
    """A session of an image, and what it means for it.

    ``waiting``: changes that are not in the image. ``cut``: the same, and a commit of them was cut off. ``done``:
    nothing is missing. ``replaced``: the image's name leads to another file system now. Out of reach are
    ``elsewhere`` (another host's disk), ``foreign`` (another user's) and ``lost`` (its directory is gone).
    """

    state: State
    name: str
    path: str
    undo: str
    whose: str
    host: str
    session: Session | None = None

    def describe(self) -> str:
        """One sentence about it, without the image's name."""
        if self.state == "elsewhere":
            return f"changes of {self.whose} are not in it: they lie in {self.path} on {self.host}, out of reach here"
        if self.state == "foreign":
            return f"changes of {self.whose} are not in it: they lie in {self.path}, and you may not read them"
        if self.state == "lost":
            return f"changes of {self.whose} never came into it and are lost: {self.path} is gone"
        if self.state == "replaced":
            return f"changes of {self.whose} belong to another overlay that had this name; they lie in {self.path}"
        return f"changes of {self.whose} are not in it yet; they lie in {self.path}"


def find(section: Section) -> list[Pending]:
    """Every session of the image in ``section``, the oldest first. Raises OSError, ExtError."""
    found: dict[str, Pending] = {}
    there = session.identity(section)
    for marker in session_marker.markers(section.path):
        if marker.speaks_of(section.path, there):
            found[marker.name] = _marked(marker)
    for path in _paths(section.path):
        name = os.path.basename(path).removeprefix(session.PREFIX)
        if name not in found and (reached := session.read(path)) and _belongs(reached, section, there):
            found[name] = _reached(reached, reached.record.undo, there)
    return sorted(found.values(), key=lambda one: one.session.record.since if one.session else 0.0)


def _paths(image: str) -> Iterator[str]:
    """Directories that look like sessions, wherever those of ``image`` may lie."""
    for root in session_place.roots(image):
        try:
            names = os.listdir(root)
        except OSError:
            continue
        yield from (session.follow(f"{root}/{name}") for name in names if name.startswith(session.PREFIX))


def _belongs(reached: Session, section: Section, there: Identity) -> bool:
    record = reached.record
    same_name = os.path.realpath(record.image) == os.path.realpath(section.path)
    if same_name and record.uuid != there.uuid:
        return record.offset == section.offset  # the file system that had this name and place before
    return record.uuid == there.uuid and (same_name or record.inode == there.inode)


def _marked(marker: Marker) -> Pending:
    reached = session.read(marker.path)
    if reached is not None and reached.record.name == marker.name:
        return _reached(reached, marker.undo)
    finished = bool(marker.undo) and os.path.exists(marker.undo + COMPLETE)
    state: State = "done" if finished else _out_of_reach(marker)
    return Pending(state, marker.name, marker.path, marker.undo, marker.whose, marker.host)


def _out_of_reach(marker: Marker) -> State:
    from overlay.locks import holder

    if os.path.lexists(marker.path):
        return "foreign"
    if marker.host != holder.host() or not os.path.isdir(os.path.dirname(marker.path)):
        return "elsewhere"  # or on a disk of ours that is not mounted now
    return "lost"


def _reached(reached: Session, undo: str, there: Identity | None = None) -> Pending:
    record = reached.record
    undo = undo or record.undo
    state: State = "waiting"
    if there is not None and record.uuid != there.uuid:
        state = "replaced"
    elif record.state == session.DONE or (undo and os.path.exists(undo + COMPLETE)):
        state = "done"
    elif _interrupted(undo):
        state = "cut"
    return Pending(state, record.name, reached.path, undo, record.whose, record.host, reached)


def cut_off(one: Pending) -> bool:
    """Whether a commit of it was cut off, so that the image is neither the old nor the new one."""
    return one.state == "cut" or (one.state in ("elsewhere", "foreign", "lost") and _interrupted(one.undo))


def _interrupted(undo: str) -> bool:
    """Whether there are undo logs at ``undo`` to be applied, or may be where we cannot see them."""
    if not undo or os.path.exists(undo + COMPLETE):
        return False
    if not os.path.isdir(os.path.dirname(undo)):
        return True
    from overlay.commit import rollback  # loads libext2fs

    return bool(rollback.logs(undo))


def roll_back(section: Section, one: Pending) -> str:
    """Take back the commit of ``one`` that was cut off; what was done. The caller holds the lock exclusively.

    `Failure` when its undo log cannot be had here. Raises OSError, ToolError.
    """
    from overlay.commit import carry as commit

    if not os.path.isdir(os.path.dirname(one.undo)):
        cause = f"a commit of {one.whose} was cut off, and its undo log {one.undo} cannot be reached here"
        hint = f"on {one.host}: sifkit session recover {one.name}"
        raise Failure(f"cannot use {section.describe()}", cause, hint)
    commit.rollback(section, one.undo)
    if one.session is not None:
        there = session.identity(section)
        reached = one.session.put(state=session.OPEN, undo="", superblock=there.superblock)
        session_marker.put(section.path, reached.record, reached.path)
    return f"a commit of {one.whose} was cut off; it has been taken back"


def clear_away(image: str, one: Session, remove: Callable[[str], None] = session.remove) -> None:
    """Remove the session ``one``, of which nothing is missing in the file ``image``, and all that points at it.

    ``remove`` is given its directory, the last thing to go.
    """
    from overlay.session import index as session_index

    session_marker.take_off(image, one.record.name)
    session_index.forget(one.record.name)
    if one.record.undo:
        with contextlib.suppress(OSError):
            os.unlink(one.record.undo + COMPLETE)
    remove(one.path)


def forget(section: Section, one: Pending, remove: Callable[[str], None] = session.remove) -> None:
    """Forget a session that is ``done``, or ``lost``; ``remove`` as for `clear_away`."""
    if one.session is not None:
        if one.undo:
            from overlay.commit import carry as commit

            commit.discard(one.undo)
        clear_away(section.path, one.session, remove)
    elif one.state == "lost":
        session_marker.take_off(section.path, one.name)


def take_back(section: Section) -> list[str]:
    """Take back every commit that was cut off; what was done, a sentence each. For who holds the lock exclusively.

    It comes before anything else is mended: an undo log fits the image as the commit left it. `Failure` when it
    cannot be done here. Raises OSError, ToolError.
    """
    try:
        found = find(section)
    except ExtError:  # it is damaged: whoever asks will say so
        return []
    return [roll_back(section, one) for one in found if cut_off(one)]


def refuse(section: Section, brief: str) -> None:
    """`Failure`, beginning with ``brief``, when the image lacks changes of a run, or has half of them.

    For who copies what is in the image, under any lock: what is not in it yet would be missing without a word.
    """
    try:
        found = find(section)
    except ExtError:
        return
    for one in found:
        if one.state not in ("done", "lost", "replaced"):
            hint = f"sifkit session commit {one.name}, or if they are not wanted: sifkit session drop {one.name}"
            raise Failure(brief, one.describe(), hint)


def make_current(section: Section, brief: str) -> list[str]:
    """Have the image be what its last complete commit made it; what was done for that, a sentence each.

    For tools about to change what is in the image that hold its lock exclusively. `Failure`, beginning with ``brief``,
    when changes of a run wait to be committed. Raises OSError, ToolError.
    """
    said = [f"{section.describe()}: {text}" for text in take_back(section)]
    refuse(section, brief)
    return said


def remarks(section: Section) -> list[str]:
    """What somebody who only reads the image is to be told of its sessions. Nothing is changed."""
    try:
        found = find(section)
    except (OSError, ExtError):
        return []
    return [f"{section.describe()}: {one.describe()}" for one in found if one.state != "done"]
