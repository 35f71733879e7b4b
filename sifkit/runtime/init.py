"""The process between monitor and payload: builds the container, keeps its FUSE servers, ends whatever is left.

It is the subreaper of everything the payload starts, so that nothing gets away, and the parent of the FUSE
servers, so that they live exactly as long as somebody needs them. When the monitor dies, also by SIGKILL,
the kernel signals us (PR_SET_PDEATHSIG): while the container is being built by SIGKILL, which takes all
servers and mounts with it, later by `ORPHANED`, upon which we end everything below us.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from functools import partial

from overlay import linux as mounts
from overlay.failure import Failure, defect, from_oserror
from overlay.records import TYPE_CHECKING, NamedTuple
from sifkit.runtime import assemble, children, linux, namespaces, payload, scratch
from sifkit.runtime.assembled import Assembled
from sifkit.runtime.children import ENDING, FORWARDED, ORPHANED, WAITED
from sifkit.runtime.plan import Plan

if TYPE_CHECKING:
    from typing import NoReturn

    from overlay.session.room import Enlarge
    from overlay.stack.fuse import Server
    from sifkit.runtime.notify import Notify

GRACE_SECONDS = 5.0
LINGER_SECONDS = 0.2  # what ends by itself just behind the payload, like tee in `command > >(tee log)`


def main(plan: Plan, notify: Notify, monitor: int, enlarge: Enlarge | None) -> NoReturn:
    """Run ``plan`` as the child of ``monitor``; exits with the payload's status, or 128+N for signal N.

    ``enlarge``: how an ext3 overlay that takes the writes is grown, when it is not its whole file.
    """
    try:
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as shells start what runs in the background
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        mounts.die_with_parent(signal.SIGKILL)
        if os.getppid() != monitor:
            os._exit(255)
        linux.become_subreaper()
        os._exit(_run(plan, notify, monitor, enlarge))
    except Failure as failure:
        notify.failure(failure)
        os._exit(failure.exit_code)
    except OSError as error:
        notify.failure(from_oserror("cannot build the container", error))
        os._exit(255)
    except Exception as error:
        notify.failure(defect(error))
        os._exit(255)
    finally:
        os._exit(255)


def _run(plan: Plan, notify: Notify, monitor: int, enlarge: Enlarge | None) -> int:
    scratch.enter(plan.who, plan.privileged, plan.ids)
    assembled = assemble.assemble(plan, notify)
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITED)
    started = namespaces.start(plan.namespaces, partial(payload.become, plan, assembled, notify))
    # Who kills the whole job at once, as batch systems do, must not get us with it: we end what left its group.
    os.setpgid(0, 0)
    mounts.die_with_parent(ORPHANED)
    if os.getppid() != monitor:  # it died before the line above
        os.kill(os.getpid(), ORPHANED)
    started.begin()  # not before: what it starts would outlive us
    serving = {server.pid: server for server in assembled.servers}
    try:
        try:
            status = _watch(started.payload, monitor, Kept(serving, started.reaper), plan.wait, notify)
        finally:
            namespaces.end(started.reaper)
        if assembled.staged is not None and status is not None:
            from sifkit.runtime import staged

            stop = partial(_stop_at, serving=serving, notify=notify)
            status = staged.finish(assembled, status, plan, enlarge, stop, notify)
        return 128 + signal.SIGKILL if status is None else status
    finally:
        _take_down(assembled, serving, notify)


class Kept(NamedTuple):
    """Children of ours but the payload: FUSE servers by pid, and process 1 of its PID namespace (0: none)."""

    serving: dict[int, Server]
    reaper: int

    def others(self) -> set[int]:
        """What the payload left."""
        return children.others(self.serving, self.reaper)


def _watch(child: int, monitor: int, kept: Kept, wait: bool, notify: Notify) -> int | None:
    """Forward signals and reap until the payload has ended and nothing that it started is left; its status.

    None when the monitor has died: everything is ended, and nobody asks any more.
    """
    status: int | None = None
    stopped, asked = False, 0
    while True:
        for pid, state in children.reap():
            if os.WIFSTOPPED(state) or os.WIFCONTINUED(state):
                if pid == child:
                    stopped = os.WIFSTOPPED(state)
                    _show_state(monitor, stopped)
            elif pid in kept.serving:
                _server_ended(kept.serving.pop(pid), notify)
            elif pid == child:
                status = children.exit_code(state)
                wait = wait and status != 128 + asked
        if status is not None and not (wait and kept.others()):
            break
        # What ends in a PID namespace tells its process 1 and not us.
        number = _one_signal(child if status is None else 0, stopped, 0.05 if status is not None and kept.reaper else 0)
        if number == ORPHANED:
            children.kill_all(kept.serving)
            return None
        if number in ENDING:  # it ends the payload; what would be waited for too, once there is none
            asked = number
            wait = wait and status is None and not children.ended(child)
    _end_left_overs(kept, notify)
    return status


def _show_state(monitor: int, stopped: bool) -> None:
    """Stop or continue ``monitor`` with the payload, for the shell that started it to see.

    We never stop ourselves: who continues the payload alone would find nobody to continue the rest.
    """
    if os.getppid() == monitor:
        os.kill(monitor, signal.SIGSTOP if stopped else signal.SIGCONT)


def _one_signal(child: int, stopped: bool, seconds: float) -> int:
    """Wait for a signal, pass it on to ``child`` (0: there is none any more), and return its number.

    Waits at most ``seconds``, if that is not 0, and returns 0 when none came.
    """
    info = signal.sigtimedwait(WAITED, seconds) if seconds else signal.sigwaitinfo(WAITED)
    if info is None:
        return 0
    # What the terminal sends reaches the payload by itself: it is in the same process group. So, mostly, does
    # the shell's SIGCONT; one more behind it could undo the next Ctrl-Z. It still can, within milliseconds: dropping
    # what waits here when the payload stops would also drop a SIGCONT for the monitor alone, which looks the same.
    known = info.si_code == children.FROM_TERMINAL or (info.si_signo == signal.SIGCONT and not stopped)
    if child and info.si_signo in FORWARDED and not known:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, info.si_signo)
    return info.si_signo


def _server_ended(server: Server, notify: Notify) -> None:
    from overlay.stack import fuse

    said = fuse.messages(server) or "it said nothing"
    notify.warning(f"{server.name} ended unexpectedly, and the files it served are gone: {said}")


def _end_left_overs(kept: Kept, notify: Notify) -> None:
    if _all_gone(kept, LINGER_SECONDS):
        return
    left = kept.others()
    notify.warning(f"ending {len(left)} process(es) that the payload left behind; --wait would wait for them")
    children.signal_all(kept.serving, signal.SIGTERM, kept.reaper)
    _all_gone(kept, GRACE_SECONDS)
    if not kept.reaper:  # whose end is that of all the rest
        children.kill_all(kept.serving)


def _all_gone(kept: Kept, seconds: float) -> bool:
    """Whether within ``seconds`` all but the servers have ended; no longer when the monitor is killed."""
    deadline = time.monotonic() + seconds
    while kept.others():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        info = signal.sigtimedwait({signal.SIGCHLD, ORPHANED}, min(left, 0.1))
        if info and info.si_signo == ORPHANED:
            return False
        for pid, state in children.reap():
            if not os.WIFSTOPPED(state) and not os.WIFCONTINUED(state):
                kept.serving.pop(pid, None)
    return True


def _stop(server: Server, notify: Notify) -> None:
    from overlay.stack import fuse

    fuse.stop(server)
    for line in fuse.remarks(server):
        notify.warning(f"{server.name}: {line}")


def _stop_at(point: str, serving: dict[int, Server], notify: Notify) -> None:
    """End the server that has mounted on ``point``."""
    for server in [server for server in serving.values() if server.point == point]:
        _stop(serving.pop(server.pid), notify)


def _take_down(assembled: Assembled, serving: dict[int, Server], notify: Notify) -> None:
    """End the servers, the last started first. Mounts go with the namespace, which is faster than one by one."""
    if serving:
        from overlay.stack import fuse

        for server in reversed(serving.values()):
            if not fuse.serves(server):  # it is on its way out, and the payload has ended of that before it
                _server_ended(server, notify)
            _stop(server, notify)
    if assembled.disk_scratch:
        import shutil

        shutil.rmtree(assembled.disk_scratch, ignore_errors=True)
