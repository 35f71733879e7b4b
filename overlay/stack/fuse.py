"""FUSE servers: started side by side, waited for by event, never outliving us.

A server is our child in a process group of its own (a terminal's Ctrl-C is not for it), dies with us
(PR_SET_PDEATHSIG), and inherits no descriptor but its output and what it serves from, so it can hold no lock of ours.
A program mounts by itself with capabilities of our user namespace; no set-uid fusermount is involved. The kernel
tells through poll(2) on /proc/self/mountinfo when it has.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import time

from overlay import linux
from overlay.failure import Failure
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

# What a server needs inside our namespace: to mount, and to act for files of every mapped owner.
_CAPABILITIES = (
    linux.CAP_CHOWN, linux.CAP_DAC_OVERRIDE, linux.CAP_FOWNER,
    linux.CAP_SYS_PTRACE, linux.CAP_SYS_ADMIN, linux.CAP_MKNOD,
)  # fmt: skip

START_SECONDS = 30.0
FLUSH_SECONDS = 600.0  # a large image on a slow disk; killing the server earlier would damage it


class Server(NamedTuple):
    """A running FUSE server: ``pid``, its mount ``point``, and ``log``, the pipe that its messages come by.

    ``writes``: it may hold data that is not yet where it belongs.
    """

    name: str
    pid: int
    point: str
    log: int
    writes: bool


def start(program: str, argv: list[str], point: str, writes: bool = False) -> Server:
    """Start ``program`` with ``argv``, in the foreground, to mount on ``point``; returns before it has."""
    # Non-blocking: a server with more to say than the pipe takes loses words, instead of hanging in the middle.
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(program, argv, writing, parent)
    os.close(writing)
    return Server(os.path.basename(program), pid, point, reading, writes)


def serve(name: str, point: str, work: Callable[[], None], keep: tuple[int, ...]) -> Server:
    """Have a child, ``name``, do ``work``: serve what is mounted on ``point`` already. It keeps ``keep`` open."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _serve(name, work, keep, writing, parent)
    os.close(writing)
    return Server(name, pid, point, reading, False)


def _serve(name: str, work: Callable[[], None], keep: tuple[int, ...], log: int, parent: int) -> NoReturn:
    try:
        _leave(log, keep, parent)
        with open("/proc/self/comm", "w") as comm:  # else ps(1) would call it what it calls us
            comm.write(name)
        gc.freeze()  # what was there before is there for good
        work()
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(1)


def _become(program: str, argv: list[str], log: int, parent: int) -> None:
    try:
        _leave(log, (), parent)
        linux.keep_capabilities(_CAPABILITIES)
        os.execv(program, argv)
    except OSError as error:
        os.write(2, f"{program}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _leave(log: int, keep: tuple[int, ...], parent: int) -> None:
    """Become a process that serves: what it says goes to ``log``; of what was open it has ``keep``."""
    linux.die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.setpgid(0, 0)
    null = os.open("/dev/null", os.O_RDONLY)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    first = 3
    for kept in sorted(keep):
        os.closerange(first, kept)
        first = kept + 1
    os.closerange(first, 1 << 20)  # also what our caller left open
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.chdir("/")


def wait_mounted(servers: list[Server], seconds: float = START_SECONDS) -> None:
    """Return when every server has mounted; `Failure` with its own words when one ends or takes too long."""
    waiting = {server.point: server for server in servers}
    deadline = time.monotonic() + seconds
    with open("/proc/self/mountinfo", "rb", buffering=0) as table:
        poll = select.poll()
        poll.register(table, select.POLLPRI | select.POLLERR)
        for server in servers:
            poll.register(server.log, select.POLLHUP)
        while True:
            for point in _points(table):
                mounted = waiting.pop(point, None)
                if mounted is not None:
                    poll.unregister(mounted.log)
            if not waiting:
                return
            left = deadline - time.monotonic()
            ready = poll.poll(left * 1000) if left > 0 else []
            if not ready:
                server = next(iter(waiting.values()))
                raise Failure(f"{server.name} did not mount within {seconds:.0f} s", messages(server), _HINT)
            for server in waiting.values():
                if any(number == server.log for number, _ in ready):
                    raise Failure(f"{server.name} could not mount", messages(server) or "it ended at once", _HINT)


_HINT = "sifkit doctor shows whether FUSE works here; --debug shows the whole command"


def _points(table: object) -> set[str]:
    number = table.fileno()  # type: ignore[attr-defined]
    os.lseek(number, 0, os.SEEK_SET)
    data = b""
    while chunk := os.read(number, 1 << 16):
        data += chunk
    return {os.fsdecode(line.split(b" ", 5)[4]) for line in data.splitlines()}


def messages(server: Server) -> str:
    """What the server has said so far, on one line; "" when it said nothing."""
    return "; ".join(_said(server))


# What servers say of every mount; anything else may be a warning that somebody's data depend on.
_NOISE = ("unknown argument ignored: lazytime", "Writing to the journal is not supported")


def remarks(server: Server) -> list[str]:
    """What ``server`` has said so far beyond what it always says, line by line."""
    return [line for line in _said(server) if not any(noise in line for noise in _NOISE)]


def _said(server: Server) -> list[str]:
    try:
        text = os.read(server.log, 65536).decode("utf-8", "replace")
    except BlockingIOError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def serves(server: Server) -> bool:
    """Whether ``server`` still answers for its mount."""
    try:
        return os.path.ismount(server.point) and bool(os.stat(server.point))
    except OSError:  # ENOTCONN: the connection is there, and nobody behind it
        return False


def stop(server: Server, seconds: float = FLUSH_SECONDS) -> None:
    """End ``server``. One that writes is unmounted first, which makes it write out and end by itself."""
    if server.writes:
        _unmount(server)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if os.waitpid(server.pid, os.WNOHANG)[0]:
                return
            time.sleep(0.001)
    os.kill(server.pid, signal.SIGKILL)
    os.waitpid(server.pid, 0)


def _unmount(server: Server) -> None:
    for flags in (0, linux.MNT_DETACH):  # busy: detach, and the server ends with the last user
        try:
            linux.umount(server.point, flags)
        except OSError as error:
            if error.errno != errno.EBUSY:
                break
        else:
            return
    os.kill(server.pid, signal.SIGTERM)
