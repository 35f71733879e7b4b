"""The processes below us: reaping them, finding them, ending them, and the signals that concern them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator

from overlay.records import NamedTuple

FROM_TERMINAL = 0x80  # SI_KERNEL, <asm-generic/siginfo.h>: Ctrl-C and the like, sent to a whole process group

# What monitor and init wait for: `FORWARDED` is for the payload, `ENDING` of it ends one, and `ORPHANED` tells init
# that the monitor is gone.
ORPHANED = signal.SIGRTMIN + 7
FORWARDED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT,
)  # fmt: skip
WAITED = frozenset({*FORWARDED, signal.SIGCHLD, ORPHANED})
ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})


class _Process(NamedTuple):
    parent: int
    alive: bool


def reap() -> Iterator[tuple[int, int]]:
    """Every child that ended, stopped or went on since the last call, as (pid, wait status)."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, status


def ended(child: int) -> bool:
    """Whether ``child``, not yet reaped, has ended."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def exit_code(status: int) -> int:
    """What a shell would report for a wait status: the exit status, or 128+N for signal N."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def others(keep: Collection[int], reaper: int = 0) -> set[int]:
    """The living descendants of this process, without those in ``keep``. Empty only when there are none.

    ``reaper``: a child that is no such descendant itself, but its children are (`namespaces`); 0 for none.

    A look at /proc is no snapshot: it misses who lost its parent meanwhile. But as long as there is any, one
    of its ancestors is our child, living or not yet reaped. So with no living one found, such children are
    returned: look again.
    """
    parents = {os.getpid(), reaper} - {0}
    first = _children(parents)
    keep = {*keep, reaper}
    if first is not None and not first - keep:
        return set()
    processes = _processes()
    if first is None:
        first = {pid for pid, process in processes.items() if process.parent in parents}
    first -= keep
    found = grown = first
    while grown:
        grown = {pid for pid, process in processes.items() if process.parent in grown} - found
        found = found | grown
    return {pid for pid in found if pid in processes and processes[pid].alive} or first


def signal_all(keep: Collection[int], number: int, reaper: int = 0) -> None:
    """Send signal ``number`` to all `others`; SIGCONT follows, for one that is stopped."""
    for pid in others(keep, reaper):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)


def kill_all(keep: Collection[int]) -> None:
    """SIGKILL every descendant but ``keep``, again while new ones appear, and reap them."""
    while left := others(keep):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)
        # All children, not only those: process 1 of a PID namespace lives until every zombie in it is collected.
        for pid in (_children({os.getpid()}) or left) - set(keep):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _children(parents: set[int]) -> set[int] | None:
    """Their children, also those not yet reaped, by the kernel's own list; None without CONFIG_PROC_CHILDREN."""
    found = set()
    try:
        for pid in parents:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
                found |= {int(word) for word in file.read().split()}
    except OSError:
        return None
    return found


def _processes() -> dict[int, _Process]:
    """Every process that we can see (proc(5), /proc/PID/stat)."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:  # it ended in the meantime
            continue
        found[int(name)] = _Process(int(fields[1]), fields[0] not in "ZX")
    return found
