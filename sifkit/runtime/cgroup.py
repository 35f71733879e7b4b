"""Limits of the payload by cgroup v2, where this host has delegated the controllers to the caller.

The group is a sibling of ours, or below ours: the kernel lets no group but the root have both processes and
limited children. Its name has the monitor's pid, so that one left by a kill can be told and removed by the next
run. Files and values: the kernel's Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os

from overlay.failure import Failure
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

_PERIOD: Final = 100_000  # microseconds, the kernel's default of cpu.max
_PREFIX: Final = "sifkit-"


class Limits(NamedTuple):
    """Sizes in bytes; 0 and "" for no limit.

    ``shares``: of processor time beside others, 2 to 262144, as cgroup v1 has it.
    ``swap``: memory and swap together; ``reservation``: memory that is spared while there is other.
    """

    cpus: float = 0.0
    shares: int = 0
    cpuset: str = ""
    nodes: str = ""
    memory: int = 0
    swap: int = 0
    reservation: int = 0
    pids: int = 0

    def values(self) -> dict[str, str]:
        """What is written, by file of the group."""
        weight = 1 + (self.shares - 2) * 9999 // 262142
        found = {
            "cpu.max": f"{int(self.cpus * _PERIOD)} {_PERIOD}" if self.cpus else "",
            "cpu.weight": str(weight) if self.shares else "",
            "cpuset.cpus": self.cpuset,
            "cpuset.mems": self.nodes,
            "memory.max": str(self.memory) if self.memory else "",
            "memory.swap.max": str(max(0, self.swap - self.memory)) if self.swap else "",
            "memory.low": str(self.reservation) if self.reservation else "",
            "pids.max": str(self.pids) if self.pids else "",
        }
        return {name: value for name, value in found.items() if value}


def make(limits: Limits) -> str:
    """Make the group for a payload with ``limits``: its directory. `Failure` where this host does not let us."""
    values = limits.values()
    wanted = {name.partition(".")[0] for name in values}
    mounted, own = _ours()
    if not mounted:
        raise _refused(wanted, "this host has no cgroup v2, or it is not mounted here")
    there = set(_words(f"{mounted}/cgroup.controllers"))
    if missing := wanted - there:
        raise _refused(wanted, f"its cgroup v2 has no controller {', '.join(sorted(missing))} (in use by cgroup v1?)")
    here = f"{mounted}{own}".rstrip("/")
    parents = [os.path.dirname(here), here] if own not in ("", "/") else [here]
    reasons = []
    for parent in parents:
        try:
            return _make_below(parent, wanted, values)
        except OSError as error:
            reasons.append(f"{error.filename or parent}: {os.strerror(error.errno or 0)}")
    raise _refused(wanted, "; ".join(reasons))


def _make_below(parent: str, wanted: set[str], values: dict[str, str]) -> str:
    _remove_stale(parent)
    if absent := wanted - set(_words(f"{parent}/cgroup.subtree_control")):
        _write(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(absent)))
    group = f"{parent}/{_PREFIX}{os.getpid()}"
    os.mkdir(group)
    try:
        for name, value in values.items():
            _write(f"{group}/{name}", value)
        if not os.access(f"{parent}/cgroup.procs", os.W_OK):  # moving a process asks for both
            raise PermissionError(13, os.strerror(13), f"{parent}/cgroup.procs")
    except BaseException:
        remove(group)
        raise
    return group


def join(group: str) -> None:
    """Move this process, and what it will fork, into ``group``. Raises OSError."""
    _write(f"{group}/cgroup.procs", "0")


def remove(group: str) -> None:
    """Remove ``group``; one that is still used is left to the next run."""
    with contextlib.suppress(OSError):
        os.rmdir(group)


def _remove_stale(parent: str) -> None:
    for name in os.listdir(parent):
        pid = name.removeprefix(_PREFIX)
        if name.startswith(_PREFIX) and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            remove(f"{parent}/{name}")


def _ours() -> tuple[str, str]:
    """Where cgroup v2 is mounted, and our group below it (cgroups(7)); "" where there is none."""
    from overlay import mountinfo

    with open("/proc/self/cgroup", encoding="utf-8") as file:
        own = next((line.rstrip("\n").partition("::")[2] for line in file if line.startswith("0::")), "")
    return mountinfo.first("cgroup2"), own


def _words(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return file.read().split()


def _write(path: str, text: str) -> None:
    # One write(2): the kernel takes each as a whole.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None
    finally:
        os.close(descriptor)


def _refused(wanted: set[str], cause: str) -> Failure:
    hint = "systemd-run --user --scope gives you a group of your own; in a batch job the scheduler sets limits"
    return Failure(f"cannot limit {' and '.join(sorted(wanted))} here", cause, hint)
