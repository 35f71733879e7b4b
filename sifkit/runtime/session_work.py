"""Commits of sessions as runs and commands do them: with the words for everything that may stand in the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from overlay.e2fsprogs import ToolError
from overlay.extread.reader import ExtError
from overlay.failure import Failure, from_oserror
from overlay.session import commit as session_commit
from overlay.session import room as session_room
from overlay.session import state as session
from sifkit.runtime import idmap, inside

if TYPE_CHECKING:
    from overlay.section import Section
    from overlay.session.commit import Done, Room
    from overlay.session.room import Enlarge
    from overlay.session.state import Session
    from sifkit.runtime.notify import Notify
    from sifkit.runtime.request import Staging


def room(staging: Staging, enlarge: Enlarge) -> Room:
    """How far an image may grow for a commit, and by what."""
    return session_commit.Room(session_room.Limit(staging.grow, staging.most), enlarge)


def commit(
    one: Session, section: Section, below: Sequence[str] | None, space: Room, notify: Notify, brief: str, *,
    force: bool = False, remove: Callable[[str], None] = session.remove,
) -> Done:  # fmt: skip
    """`session_commit.carry_out`; `Failure` beginning with ``brief``, with the command that finishes the job."""
    with _in_words(one, brief):
        done = session_commit.carry_out(one, section, below, space, notify.warning, force=force, remove=remove)
    report = done.report
    grown = f"; it has grown to {done.section.size >> 20} MiB" if done.grown else ""
    notify.info(
        f"{section.describe()}: {report.added} added, {report.changed} changed, {report.deleted} deleted{grown}"
    )
    return done


def commit_of_run(
    one: Session, section: Section, below: Sequence[str] | None, space: Room, notify: Notify, brief: str,
    remove: Callable[[str], None],
) -> Done:  # fmt: skip
    """`commit` by the run itself, which holds the lock of the file that it began on, and of no other."""
    hint = f"sifkit session commit {one.record.name} --image FILE, with FILE the overlay that is meant"
    try:
        same = session_commit.is_begun_on(one, section)
    except FileNotFoundError:
        raise Failure(brief, f"{section.path} is not there any more", hint) from None
    except OSError as error:
        raise from_oserror(brief, error, hint) from None
    if not same:
        raise Failure(brief, f"{section.path} is another file now, which this run has not locked", hint)
    return commit(one, section, below, space, notify, brief, remove=remove)


@contextlib.contextmanager
def _in_words(one: Session, brief: str) -> Iterator[None]:
    """Whatever keeps a commit of ``one`` from its end, as a `Failure` with the command that finishes the job."""
    again = f"sifkit session commit {one.record.name}"
    try:
        yield
    except session_room.NoRoom as error:
        raise session_room.refusal(brief, error, one.record.name) from None
    except session_commit.Conflict as error:
        hint = f"to let the session win: {again} --force; to give it up: sifkit session drop {one.record.name}"
        raise Failure(brief, str(error), hint) from None
    except OSError as error:
        failure = from_oserror(brief, error)
        hint = f"{failure.hint}, then {again}" if failure.hint else again
        raise Failure(failure.brief, failure.cause, hint) from None
    except (ToolError, ExtError) as error:
        raise Failure(brief, str(error), again) from None


def in_namespace(
    one: Session, section: Section, space: Room, notify: Notify, brief: str, *, force: bool = False
) -> Section:
    """Commit a session of a run that has ended, in a child that may read all of it; where the image is then.

    `Failure` as `commit` raises it.

    The caller holds the lock exclusively. What lies below the image is taken from the session's record.
    """

    def look() -> str:
        with _in_words(one, brief):
            need = session_commit.needs(one, section, force=force)
        return f"{need.bytes} {need.inodes}"

    def work() -> str:
        below = one.record.below.split("\0") if one.record.below else None
        if below is not None and not all(os.path.isdir(path) for path in below):
            below = None
        # Conflicts have been looked for; the image may have grown since.
        return str(commit(one, roomy, below, space, notify, brief, force=True).section.size)

    ids = idmap.decode(one.record.ids)
    try:
        size, inodes = (int(number) for number in inside.call(ids, look, brief).split())
        # Here: a rebuilt image is locked by who rebuilds it, and has to stay so when that child has ended.
        with _in_words(one, brief):
            roomy = session_room.make(section, size, inodes, space.limit, space.enlarge)
        if roomy.size != section.size:
            notify.info(f"{section.describe()} has grown to {roomy.size >> 20} MiB")
        return roomy._replace(size=int(inside.call(ids, work, brief)))
    except inside.Killed as error:
        hint = f"sifkit session commit {one.record.name}"
        raise Failure(brief, f"the commit was killed by signal {error.number}; nothing is lost", hint) from None


def remove(path: str) -> None:
    """Remove the session's directory, also what in it belongs to subordinate ids of the caller."""
    found = session.read(path)
    ids = idmap.decode(found.record.ids) if found else None
    if ids is None:
        session.remove(path)
        return

    def work() -> str:
        session.remove(path)
        return ""

    inside.call(ids, work, f"cannot remove {path}")
