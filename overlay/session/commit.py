"""Carrying a session's changes into its image, so that a kill at any moment leaves one or the other of them whole.

    intent   in the record and on the image: a commit begins, and where its undo log is
    undo     `overlay.commit.carry` writes the log before anything that it takes back, then data, then metadata
    check    superblock and counts
    complete a file beside the undo log says so: from here on nothing is taken back
    done     in the record; then the log, the marker of the image, that file and the session go

The caller holds the image's lock exclusively and is in a user namespace that lets it read the session, or root.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from overlay.commit import carry as engine
from overlay.locks import holder
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.section import Section
from overlay.session import conflict as session_conflict
from overlay.session import marker as session_marker
from overlay.session import room as session_room
from overlay.session import state as session
from overlay.session.pending import COMPLETE, clear_away
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from overlay.session.room import Enlarge, Limit
    from overlay.session.state import Session

_MOST_NAMED = 5


class Conflict(Exception):
    """``paths``: some of those that both the session and, since it began, the image have changed."""

    def __init__(self, paths: list[bytes]) -> None:
        super().__init__(paths)
        self.paths = paths

    def __str__(self) -> str:
        shown = ", ".join(repr(os.fsdecode(path))[1:-1] for path in self.paths[:_MOST_NAMED])
        more = ", ..." if len(self.paths) > _MOST_NAMED else ""
        return f"the image has been changed since, in the same places: /{shown}{more}"


class Room(NamedTuple):
    """How far the image may grow, and how that is done."""

    limit: Limit
    enlarge: Enlarge


class Done(NamedTuple):
    """What the commit wrote, and where the image is now; ``grown``: it has more room than before."""

    report: engine.Report
    section: Section
    grown: bool


def carry_out(
    one: Session,
    section: Section,
    below: Sequence[str] | None,
    room: Room,
    note: Callable[[str], None],
    *,
    force: bool = False,
    remove: Callable[[str], None] = session.remove,
) -> Done:
    """Commit the open session ``one`` into the image in ``section`` and remove it.

    ``below``: directories of the read-only layers below the image, None when they are not known. ``note`` is told
    what is left out. ``force``: the session wins where the image has been changed since. ``remove`` removes the
    session's directory, which comes last. On any error image and session are as before, but the image may have grown.
    Raises Conflict, NoRoom, `Failure`, OSError, ToolError, ExtError.
    """
    need = needs(one, section, force=force)
    size = section.size
    section = session_room.make(section, need.bytes, need.inodes, room.limit, room.enlarge)
    undo = undo_place(section.path, one)
    one = _begin(one, section, undo)
    try:
        report = engine.commit(section, one.upper, below, undo, note, one.record.base)
        engine.quick_check(section)
    except BaseException:
        take_back(one, section, undo)
        raise
    _complete(one, section, undo, remove)
    return Done(report, section, section.size != size)


def needs(one: Session, section: Section, *, force: bool) -> engine.Needs:
    """The room that a commit of ``one`` takes. Raises Conflict unless ``force``, OSError, ExtError."""
    there = session.identity(section)
    if there.superblock != one.record.superblock and not force:
        found = list(session_conflict.conflicts(section, one.upper, one.record.since))
        if found:
            raise Conflict(found)
    return engine.needs(section, one.upper)


def is_begun_on(one: Session, section: Section) -> bool:
    """Whether ``section`` is in the file, and the file system, that ``one`` was begun on: what its run has locked.

    Raises OSError.
    """
    if os.stat(section.path).st_ino != one.record.inode:
        return False
    try:
        return session.identity(section).uuid == one.record.uuid
    except ExtError:
        return False


def undo_place(image: str, one: Session) -> str:
    """Where the undo log lies: beside the image, whence any host can take back; else in the session."""
    directory, base = os.path.split(os.path.realpath(image))
    if os.access(directory, os.W_OK | os.X_OK):
        return f"{directory}/.{base[:100]}.sifkit-undo-{one.record.name}"
    return f"{one.path}/undo"


def _begin(one: Session, section: Section, undo: str) -> Session:
    with contextlib.suppress(FileNotFoundError):
        engine.discard(undo)
    there = session.identity(section)
    me = holder.myself(section.path, True)
    one = one.put(
        state=session.INTENT, undo=undo, offset=section.offset, size=section.size, inode=there.inode,
        superblock=there.superblock, pid=me.pid, started=me.started, host=me.host, boot_id=me.boot_id,
        pid_namespace=me.pid_namespace,
    )  # fmt: skip
    session_marker.put(section.path, one.record, one.path)
    return one


def take_back(one: Session, section: Section, undo: str) -> None:
    """Undo a commit that failed; the session is open again. Raises OSError, ToolError."""
    engine.rollback(section, undo)
    one = one.put(state=session.OPEN, undo="", superblock=session.identity(section).superblock)
    session_marker.put(section.path, one.record, one.path)


def _complete(one: Session, section: Section, undo: str, remove: Callable[[str], None]) -> None:
    os.close(os.open(undo + COMPLETE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    session.sync_directory(os.path.dirname(undo))
    engine.discard(undo)
    one = one.put(state=session.DONE)
    clear_away(section.path, one, remove)
