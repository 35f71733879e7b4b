"""Finding sessions whose image is not at hand: links to them in the state directory, and every place they may be in."""

from __future__ import annotations

import contextlib
import os

from overlay import whiteout
from overlay.records import NamedTuple
from overlay.session import place as session_place
from overlay.session import state as session
from overlay.session.state import Session


def note(path: str) -> None:
    """Remember that the session ``path`` exists. A full or read-only home must not stop a run."""
    state = session_place.state_directory()
    if not state or os.path.dirname(path) == state:
        return
    with contextlib.suppress(OSError):
        os.makedirs(state, 0o700, exist_ok=True)
        os.symlink(path, f"{state}/{os.path.basename(path)}")


def forget(name: str) -> None:
    """Remove the link to the session ``name``, if there is one."""
    link = f"{session_place.state_directory()}/{session.PREFIX}{name}"
    with contextlib.suppress(OSError):
        if os.path.islink(link):
            os.unlink(link)


def sessions() -> list[Session]:
    """Every session of this user that can be found from here, the oldest first; links to nothing are removed."""
    found = {}
    for root in [*session_place.roots(), os.getcwd()]:
        try:
            names = os.listdir(root)
        except OSError:
            continue
        for name in names:
            if not name.startswith(session.PREFIX):
                continue
            path = session.follow(f"{root}/{name}")
            reached = session.read(path)
            if reached is not None:
                found[reached.record.name] = reached
            elif not os.path.lexists(path) and os.path.isdir(os.path.dirname(path)):  # a link, and it is gone
                forget(name.removeprefix(session.PREFIX))
    return sorted(found.values(), key=lambda one: one.record.since)


class Size(NamedTuple):
    """What a session holds: ``names`` present in its upper, ``deleted`` ones, and ``bytes`` of its regular files."""

    names: int
    deleted: int
    bytes: int


def measure(one: Session) -> Size:
    """How much the session changes, as far as its directories can be read."""
    names = deleted = size = 0
    waiting = [one.upper]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if whiteout.is_whiteout(found.st_mode, (os.major(found.st_rdev), os.minor(found.st_rdev))):
                    deleted += 1
                    continue
                names += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    size += found.st_size
    return Size(names, deleted, size)


def state(one: Session) -> str:
    """What the session is doing, in a word or two, for a list."""
    record = one.record
    if record.state == session.DONE:
        return "done"
    if record.holder.alive:
        return "committing" if record.state == session.INTENT else "running"
    if record.holder.alive is None:
        return "unknown"
    return "cut off" if record.state == session.INTENT else "uncommitted"
