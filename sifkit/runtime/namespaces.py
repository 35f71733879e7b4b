"""What the payload does not share with the host besides its mounts: processes, IPC, host name, network; its start.

A PID namespace begins with the first process that is forked after it was asked for, and ends with it. That first
process is a reaper of ours, or with ``--no-init`` the payload itself. Whoever asked can fork nothing else any more
once it has ended, and init has work to do behind the payload. So a go-between asks, forks the two, and ends: they
become children of init, their subreaper, which sees the payload stop, go on and end as without a namespace.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from overlay import linux as mounts
from overlay.failure import Failure
from overlay.records import TYPE_CHECKING, NamedTuple
from sifkit.runtime import children, linux

if TYPE_CHECKING:
    from typing import Final, NoReturn

    from sifkit.runtime.request import Namespaces

_FAILED: Final = "failed"


class Started(NamedTuple):
    """Children of ours: the payload, and process 1 of its PID namespace, 0 when there is none of ours.

    Both wait for what is written to ``go``. It stays open as long as we live: by its end they know that we are gone.
    """

    payload: int
    reaper: int
    go: int

    def begin(self) -> None:
        """Let them go on."""
        with contextlib.suppress(BrokenPipeError):  # one was killed: its status tells
            os.write(self.go, b"gg")


def start(wanted: Namespaces, payload: Callable[[], NoReturn]) -> Started:
    """Fork ``payload`` in the namespaces ``wanted``, to run when it is told to `begin`.

    Called by init; both end when it does. `Failure` when refused.
    """
    if wanted.pid:
        return _start_in_pid_namespace(wanted, payload)
    try:
        _enter(wanted)
    except OSError as error:
        raise _refused(wanted, error.errno or 0) from None
    waiting, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        _wait(waiting)
        payload()
    os.close(waiting)
    return Started(child, 0, go)


def _enter(wanted: Namespaces) -> None:
    flags = linux.CLONE_NEWPID if wanted.pid else 0
    flags |= linux.CLONE_NEWIPC if wanted.ipc else 0
    flags |= linux.CLONE_NEWUTS if wanted.uts or wanted.hostname else 0
    flags |= linux.CLONE_NEWNET if wanted.net else 0
    if flags:
        linux.unshare(flags)
    if wanted.hostname:
        linux.sethostname(wanted.hostname)
    if wanted.net:
        linux.loopback_up()


def _refused(wanted: Namespaces, number: int) -> Failure:
    hint = "sifkit doctor says what this host forbids"
    return Failure(f"cannot make namespaces ({', '.join(wanted.describe())})", os.strerror(number), hint)


def _start_in_pid_namespace(wanted: Namespaces, payload: Callable[[], NoReturn]) -> Started:
    told, tell = os.pipe()
    waiting, go = os.pipe()
    between = os.fork()
    if between == 0:
        os.close(go)
        _go_between(wanted, payload, waiting, tell)
    os.close(tell)
    os.close(waiting)
    words = os.read(told, 64).decode().split()  # not to its end: the two that were forked hold the pipe, too
    os.close(told)
    os.waitpid(between, 0)
    if not words or words[0] == _FAILED:
        raise _refused(wanted, int(words[1]) if words else 0)
    return Started(int(words[0]), int(words[1]), go)


def _go_between(wanted: Namespaces, payload: Callable[[], NoReturn], waiting: int, tell: int) -> NoReturn:
    try:
        _enter(wanted)
        reaper = _fork(_reap, waiting) if wanted.init else 0
        child = _fork(payload, waiting)
        os.write(tell, f"{child} {reaper}".encode())
    except OSError as error:
        os.write(tell, f"{_FAILED} {error.errno}".encode())
    finally:
        os._exit(0)


def _fork(main: Callable[[], NoReturn], waiting: int) -> int:
    """Fork ``main``, which begins when init has become its parent and says so, and ends with init."""
    child = os.fork()
    if child:
        return child
    _wait(waiting)
    return main()


def _wait(waiting: int) -> None:
    """In a child: return when init says that it is ready for whatever we do."""
    if not os.read(waiting, 1):
        os._exit(255)
    mounts.die_with_parent(signal.SIGKILL)
    import select

    ended = select.poll()
    ended.register(waiting, 0)
    if ended.poll(0):  # POLLHUP; getppid() is 0 in a PID namespace, whoever the parent is
        os._exit(255)
    os.close(waiting)


def _reap() -> NoReturn:
    """Process 1: does nothing but collect what loses its parent in there.

    It keeps init's capabilities, so that the payload cannot look through it at what lies outside the root.
    """
    try:
        os.closerange(0, 1 << 20)  # whoever waits for the end of the payload's output must not wait for us
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        while True:
            for _ in children.reap():
                pass
            signal.sigwaitinfo({signal.SIGCHLD})
    finally:
        os._exit(255)


def end(reaper: int) -> None:
    """End the PID namespace of ``reaper``, with all that is left in it. Returns when it is gone."""
    if reaper:
        os.kill(reaper, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(reaper, 0)
