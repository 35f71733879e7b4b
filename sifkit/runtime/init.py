"""The process between monitor and payload: builds the container, keeps its FUSE servers, ends whatever is left.

It is the subreaper of everything the payload starts, so that nothing gets away, and the parent of the FUSE
servers, so that they live exactly as long as somebody needs them. When the monitor dies, also by SIGKILL,
the kernel signals us (PR_SET_PDEATHSIG): while the container is being built by SIGKILL, which takes all
servers and mounts with it, later by `ORPHANED`, upon which we end everything below us.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, NoReturn

from overlay import linux as mounts
from overlay.failure import Failure, from_oserror
from sifkit.runtime import assemble, children, linux, payload
from sifkit.runtime.plan import Plan

if TYPE_CHECKING:
    from overlay.fuse import Server
    from sifkit.runtime.notify import Notify

ORPHANED = signal.SIGRTMIN + 7
FORWARDED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT,
)  # fmt: skip
WAITED = frozenset({*FORWARDED, signal.SIGCHLD, ORPHANED})
GRACE_SECONDS = 5.0


def main(plan: Plan, notify: Notify, monitor: int) -> NoReturn:
    """Run ``plan`` as the child of ``monitor``; exits with the payload's status, or 128+N for signal N."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        mounts.die_with_parent(signal.SIGKILL)
        if os.getppid() != monitor:
            os._exit(255)
        linux.become_subreaper()
        os._exit(_run(plan, notify, monitor))
    except Failure as failure:
        notify.failure(failure)
        os._exit(failure.exit_code)
    except OSError as error:
        notify.failure(from_oserror("cannot build the container", error))
        os._exit(255)
    finally:
        os._exit(255)


def _run(plan: Plan, notify: Notify, monitor: int) -> int:
    assemble.enter(plan)
    assembled = assemble.assemble(plan, notify)
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITED)
    me = os.getpid()
    child = os.fork()
    if child == 0:
        mounts.die_with_parent(signal.SIGKILL)
        if os.getppid() != me:
            os._exit(255)
        payload.become(plan, assembled, notify)
    mounts.die_with_parent(ORPHANED)
    if os.getppid() != monitor:  # it died before the line above
        os.kill(me, ORPHANED)
    try:
        return _watch(child, assembled.servers, plan.wait, notify)
    finally:
        _take_down(assembled)


def _watch(child: int, servers: tuple[Server, ...], wait: bool, notify: Notify) -> int:
    """Forward signals and reap until the payload has ended and nothing that it started is left."""
    serving = {server.pid: server for server in servers}
    status: int | None = None
    while True:
        for pid, state in children.reap(serving):
            if pid in serving:
                _server_ended(serving.pop(pid), notify)
            elif pid == child and os.WIFSTOPPED(state):
                os.kill(os.getpid(), signal.SIGSTOP)  # the monitor sees that, and stops for the shell to see
            elif pid == child:
                status = children.exit_code(state)
        if status is not None and not (wait and children.others(set(serving))):
            break
        _one_signal(child if status is None else 0, set(serving))
    _end_left_overs(set(serving), notify)
    return status


def _one_signal(child: int, keep: set[int]) -> None:
    info = signal.sigwaitinfo(WAITED)
    if info.si_signo == ORPHANED:
        children.kill_all(keep)
        return
    if info.si_signo == signal.SIGCHLD or info.si_code == children.FROM_TERMINAL or not child:
        return  # what the terminal sends reaches the payload by itself: it is in the same process group
    try:
        os.kill(child, info.si_signo)
    except ProcessLookupError:
        return


def _server_ended(server: Server, notify: Notify) -> None:
    from overlay import fuse

    said = fuse.messages(server) or "it said nothing"
    notify.warning(f"{server.name} ended unexpectedly, and the files it served are gone: {said}")


def _end_left_overs(keep: set[int], notify: Notify) -> None:
    left = children.others(keep)
    if not left:
        return
    notify.warning(f"ending {len(left)} process(es) that the payload left behind; --wait would wait for them")
    children.signal_all(keep, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while children.others(keep) and (seconds := deadline - time.monotonic()) > 0:
        signal.sigtimedwait({signal.SIGCHLD}, min(seconds, 0.1))
        list(children.reap(keep))
    children.kill_all(keep)


def _take_down(assembled: assemble.Assembled) -> None:
    """End the servers, the last started first. Mounts go with the namespace, which is faster than one by one."""
    if assembled.servers:
        from overlay import fuse

        for server in reversed(assembled.servers):
            fuse.stop(server)
    if assembled.disk_session:
        import shutil

        shutil.rmtree(assembled.disk_session, ignore_errors=True)
