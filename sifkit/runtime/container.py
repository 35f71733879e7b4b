"""The monitor: the process that the user started. It holds the lock, forwards signals, and reports the status."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

from overlay.records import TYPE_CHECKING
from overlay.stack import driver
from overlay.stack.layer import Tmpfs
from sifkit.runtime import assemble, children, claim, init, linux, on_base, points, scratch
from sifkit.runtime.plan import Plan

if TYPE_CHECKING:
    from overlay.session.room import Enlarge
    from sifkit.runtime.notify import Notify


def run(plan: Plan, notify: Notify, wait_lock: float = 0.0, enlarge: Enlarge | None = None) -> int:
    """Carry out ``plan``; the status to exit with: the payload's own, or 128+N when signal N ended it.

    ``wait_lock``: seconds to wait for an overlay that somebody else uses. ``enlarge``: how an ext3 overlay inside
    another file is grown, if that can be.
    """
    with ExitStack() as held:
        # What we make is for every user of the container, whomever our caller shuts out. The payload has its umask.
        held.callback(os.umask, os.umask(plan.umask & 0o022))
        plan = claim.claim(plan, wait_lock, held, notify, enlarge)
        status = _supervise(plan, notify, enlarge)
        claim.settle(plan, notify)
        if plan.revision is not None:
            on_base.settle(plan, notify)
        return status


def _supervise(plan: Plan, notify: Notify, enlarge: Enlarge | None) -> int:
    linux.become_subreaper()
    me = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, children.WAITED)
    try:
        child = os.fork()
        if child == 0:
            init.main(plan, notify, me, enlarge)
        return _watch(child, plan, notify)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(child: int, plan: Plan, notify: Notify) -> int:
    while True:
        for pid, status in children.reap():
            if pid != child or os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
                continue
            return _init_killed(plan, status, notify) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        info = signal.sigwaitinfo(children.WAITED)
        if info.si_signo in children.FORWARDED and not _knows(child, info):
            os.kill(child, info.si_signo)


def _knows(child: int, info: signal.struct_siginfo) -> bool:
    """Whether the payload has the signal by itself: from the terminal, or for init, ``child``, sent it."""
    if info.si_code != children.FROM_TERMINAL:
        return info.si_pid == child
    # A terminal that is hung up tells the leader of its session and nobody else: us, below ssh or xterm.
    return info.si_signo != signal.SIGHUP or os.getsid(0) != os.getpid()


def _init_killed(plan: Plan, status: int, notify: Notify) -> int:
    """Init is gone, so its orphans are ours now: end them, for their mounts and servers are no longer kept."""
    children.kill_all(())
    if isinstance(plan.stack.upper, Tmpfs):
        _remove_disk_scratch()
    number = os.WTERMSIG(status)
    if number not in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        notify.warning(f"the container's init process was killed by signal {number}; everything in it was ended")
    return children.exit_code(status)


def _remove_disk_scratch() -> None:
    import shutil

    directory, prefix = scratch.on_disk(os.getpid())
    for name in os.listdir(directory):
        if name.startswith(prefix):
            shutil.rmtree(f"{directory}/{name}", ignore_errors=True)


def dry_run(plan: Plan) -> driver.Decision:
    """The driver's choice for ``plan`` on this host; nothing else is done.

    The host is probed in the namespaces of a run, which this process enters for good.
    """
    scratch.enter(plan.who, plan.privileged, plan.ids)
    seen = assemble.survey(plan, points.lacking(plan))
    return on_base.foresee(plan, seen.features, seen.situation)
