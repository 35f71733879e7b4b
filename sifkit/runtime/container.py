"""The monitor: the process that the user started. It holds the lock, forwards signals, and reports the status."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from overlay import arrange, driver
from overlay.failure import Failure, from_oserror
from overlay.layer import Overlay
from sifkit.runtime import assemble, children, init, linux
from sifkit.runtime.plan import Plan

if TYPE_CHECKING:
    from overlay.lock import Lock
    from sifkit.runtime.notify import Notify


def run(plan: Plan, notify: Notify) -> int:
    """Carry out ``plan``; the status to exit with: the payload's own, or 128+N when signal N ended it."""
    held = _lock(plan.stack.upper, notify)
    try:
        if isinstance(plan.stack.upper, Overlay):
            arrange.prepare(plan.stack.upper)
        return _supervise(plan, notify)
    finally:
        if held:
            held.release()


def _lock(upper: object, notify: Notify) -> Lock | None:
    if not isinstance(upper, Overlay):
        return None
    from overlay import lock  # only for what can be locked

    try:
        return lock.acquire(upper.path, exclusive=True)
    except lock.InUse as error:
        raise Failure(f"cannot write into {upper.path}", str(error), f"wait for it, or use {upper.path}:ro") from None
    except lock.CannotLock as error:
        notify.warning(f"{upper.path} cannot be locked ({error}): nothing keeps a second writer out")
        return None
    except OSError as error:
        raise from_oserror(f"cannot lock the overlay {upper.path}", error) from None


def _supervise(plan: Plan, notify: Notify) -> int:
    linux.become_subreaper()
    me = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, init.WAITED)
    try:
        child = os.fork()
        if child == 0:
            init.main(plan, notify, me)
        return _watch(child, notify)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(child: int, notify: Notify) -> int:
    while True:
        for pid, status in children.reap():
            if pid != child:
                continue
            if os.WIFSTOPPED(status):
                _stop_with(child)
            elif os.WIFSIGNALED(status):
                return _init_killed(status, notify)
            else:
                return os.WEXITSTATUS(status)
        info = signal.sigwaitinfo(init.WAITED)
        if info.si_signo != signal.SIGCHLD and info.si_code != children.FROM_TERMINAL:
            os.kill(child, info.si_signo)


def _stop_with(child: int) -> None:
    """Stop as the payload did, so that the shell that started us takes the terminal back; go on together."""
    os.kill(os.getpid(), signal.SIGSTOP)
    os.kill(child, signal.SIGCONT)


def _init_killed(status: int, notify: Notify) -> int:
    """Init is gone, so its orphans are ours now: end them, for their mounts and servers are no longer kept."""
    children.kill_all(())
    number = os.WTERMSIG(status)
    if number not in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        notify.warning(f"the container's init process was killed by signal {number}; everything in it was ended")
    return children.exit_code(status)


def dry_run(plan: Plan, show: Callable[[driver.Decision], None]) -> int:
    """Probe this host in a child and hand ``show`` the driver's choice; nothing else is done."""
    child = os.fork()
    if child:
        return children.exit_code(os.waitpid(child, 0)[1])
    try:
        assemble.enter(plan)
        seen = assemble.survey(plan, assemble.lacks_points(plan))
        show(driver.choose(plan.stack, seen.features, seen.situation))
        os._exit(0)
    except Failure as failure:
        os.write(2, f"sifkit: {failure}\n".encode())
        os._exit(failure.exit_code)
    finally:
        os._exit(255)
