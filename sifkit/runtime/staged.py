"""Staged writes into an ext3 overlay: a session opened before the root is mounted, and committed after the payload.

The session's upper takes the place of the image, whose present content becomes one more read-only layer. From then
on the run is one on a directory overlay.
"""

from __future__ import annotations

import os
import signal

from overlay.failure import Failure, from_oserror
from overlay.records import TYPE_CHECKING
from overlay.session import index as session_index
from overlay.session import marker as session_marker
from overlay.session import state as session
from overlay.stack import content as contents
from overlay.stack.layer import Directory, ExtImage, ExtOverlay, Lower, Overlay
from overlay.superblock import ExtError
from sifkit.runtime import children
from sifkit.runtime.assembled import Assembled, Staged
from sifkit.runtime.scratch import SCRATCH
from sifkit.runtime.staged_look import SMALL_INODES

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlay.section import Section
    from overlay.session.room import Enlarge
    from overlay.session.state import Session
    from overlay.stack.content import Content
    from sifkit.runtime.notify import Notify
    from sifkit.runtime.plan import Plan
    from sifkit.runtime.staged_look import Look

_FEW = 500  # names that are removed before anybody notices


def open_session(plan: Plan, upper: ExtOverlay, seen: Look, notify: Notify) -> Staged:
    """Make the session of ``plan`` and mark the image with it. `Failure` when it cannot be done."""
    section = upper.section
    made: Session | None = None
    try:
        made = session.create(seen.place.root, section, plan.image, _lasting(plan), os.getppid(), _caller(plan))
        session_marker.put(section.path, made.record, made.path)
        session_index.note(made.path)
        _like_the_image(section, made.upper, seen.content)
        below: Lower | None = ExtImage(section)
        if seen.unpack:
            below = Directory(f"{made.path}/lower")
            _unpack(section, f"{made.path}/lower")
    except (OSError, ExtError) as error:
        if made is not None:  # nobody has written into it
            _forget(section, made)
            session.remove(made.path)
        raise _cannot(f"cannot make a session for {section.describe()}", section, error) from None
    if seen.content.empty:
        below = None
    if seen.place.volatile:
        text = f"until the end the changes lie in {seen.place.root}, {seen.place.volatile}: they go with it"
        notify.info(text) if seen.place.volatile == "in memory" else notify.warning(text)
    notify.debug(f"session: {made.path}")
    lowers = (*([below] if below else []), *plan.stack.lowers)
    return Staged(made, section, plan.stack._replace(upper=Overlay(made.path), lowers=lowers), seen.content)


def _caller(plan: Plan) -> session.Caller | None:
    return session.Caller(plan.ids.caller, plan.ids.encode()) if plan.ids else None


def _lasting(plan: Plan) -> str:
    """The layers below the image if a later process can see them too: directories of the host. NUL between them."""
    layers = (*plan.stack.lowers, plan.stack.base)
    paths = [layer.path for layer in layers if isinstance(layer, Directory)]
    return "\0".join(paths) if len(paths) == len(layers) else ""


def _cannot(brief: str, section: Section, error: Exception) -> Failure:
    if isinstance(error, OSError):
        return from_oserror(brief, error)
    return Failure(brief, f"it is damaged: {error}", f"sifkit overlay check {section.path}")


def _like_the_image(section: Section, upper: str, content: Content) -> None:
    """Let the new upper's top look like the image's: it is what is seen as the root."""
    if content.bare:
        os.chmod(upper, content.mode)
        os.utime(upper, ns=(content.mtime_ns, content.mtime_ns))
        return
    from overlay.extread.look_like import look_like
    from overlay.extread.reader import ExtReader

    with ExtReader(section) as reader:
        top = reader.lookup(b"/upper")
        if top is not None:
            look_like(reader, top, os.fsencode(upper))


def _unpack(section: Section, target: str) -> None:
    from overlay.extread.unpack import unpack

    os.mkdir(target, 0o700)
    unpack(section, target)


def finish(
    assembled: Assembled, status: int, plan: Plan, enlarge: Enlarge | None, stop: Callable[[str], None], notify: Notify
) -> int:
    """Commit what the payload changed; the status to end with: ``status``, the payload's, if all went well.

    ``stop`` ends the FUSE server that has mounted on a directory, if there is one.
    """
    staged = assembled.staged
    assert staged is not None
    if assembled.decision.driver == "fuse-overlayfs":
        stop(assembled.root)
    if not staged.session.has_changes:
        drop(staged)
        return status
    if ExtImage(staged.section) in staged.stack.lowers[:1]:
        stop(f"{SCRATCH}/images/1")
    child = os.fork()
    if child == 0:
        _commit_and_exit(staged, assembled, status, plan, enlarge, notify)
    ended = _wait(child, staged, notify)
    if os.WIFSIGNALED(ended):
        brief = f"the commit into {staged.section.describe()} was killed by signal {os.WTERMSIG(ended)}"
        cause = f"nothing is lost: the changes are in {staged.session.path}; the payload's status was {status}"
        notify.failure(Failure(brief, cause, f"sifkit session commit {staged.session.record.name}"))
    return status if children.exit_code(ended) == 0 else 255


def _wait(child: int, staged: Staged, notify: Notify) -> int:
    """The wait status of the commit. Whoever wants us to end is told what is going on, and it goes on."""
    said = False
    while True:
        for pid, state in children.reap():
            if pid == child and not (os.WIFSTOPPED(state) or os.WIFCONTINUED(state)):
                return state
        info = signal.sigwaitinfo(children.WAITED)
        if info.si_signo in children.ENDING and not said:
            said = True
            notify.warning(f"the changes are being written into {staged.section.describe()}: ending when that is done")


def _commit_and_exit(
    staged: Staged, assembled: Assembled, status: int, plan: Plan, enlarge: Enlarge | None, notify: Notify
) -> None:
    """In the child: its signals are blocked as init's are, so that no terminal and no batch system ends it half way."""
    brief = f"the changes are not in {staged.section.describe()} yet (the payload's status was {status})"
    try:
        from overlay import whiteout
        from overlay.session import room as session_room
        from sifkit.runtime import session_work

        if assembled.decision.driver == "fuse-overlayfs":
            whiteout.normalise_directory(staged.session.upper)
        below = assembled.lowers[0 if staged.content.empty else assembled.topmost :]
        room = session_work.room(plan.staging, enlarge or session_room.enlarge_file)
        done = session_work.commit_of_run(staged.session, staged.section, below, room, notify, brief, remove_soon)
        contents.committed(done.section, staged.content)
        os._exit(0)
    except Failure as failure:
        notify.failure(failure)
    except OSError as error:
        notify.failure(from_oserror(brief, error))
    except Exception as error:
        from overlay.failure import defect

        notify.failure(defect(error))
    finally:
        os._exit(255)


def drop(staged: Staged) -> None:
    """Remove a session in which nothing was changed; in the background when much was unpacked into it."""
    _forget(staged.section, staged.session)
    if staged.content.inodes <= SMALL_INODES or not os.path.isdir(f"{staged.session.path}/lower"):
        session.remove(staged.session.path)
        return
    staged.session.put(state=session.DONE, durable=False)
    remove_later(staged.session.path)


def _forget(section: Section, one: Session) -> None:
    session_marker.take_off(section.path, one.record.name)
    session_index.forget(one.record.name)


def remove_soon(path: str) -> None:
    """Remove a session's directory: at once if it is small, else by a process of its own."""
    left = _FEW
    for _, directories, files in os.walk(path):
        left -= len(directories) + len(files)
        if left < 0:
            remove_later(path)
            return
    session.remove(path)


def remove_later(path: str) -> None:
    """Remove a session's directory by a process of its own that nobody waits for; it holds no lock."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.closerange(3, 1 << 20)
            session.remove(path)
    finally:
        os._exit(0)
