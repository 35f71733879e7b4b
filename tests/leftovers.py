"""What a run of the tests left behind: mounts, loop devices, processes, temporary directories."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Become the parent of all that the tests leave behind: none is missed, none is foreign."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def mounts() -> set[str]:
    """Mount points of this namespace with their type and source (proc_pid_mountinfo(5))."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, right = line.split(" - ", 1)
        fstype, source = right.split(" ")[:2]
        found.add(f"mount of {fstype} ({source}) on {left.split(' ')[4]}")
    return found


def points(below: Path) -> list[str]:
    """Mount points below the directory ``below``, the last mounted first."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    found = [re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]) for line in lines]
    return [point for point in reversed(found) if point.startswith(f"{os.path.realpath(below)}/")]


def loops(below: Path) -> set[str]:
    """Loop devices whose backing file lies below the directory ``below``."""
    found = set()
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = entry.read_text(errors="surrogateescape").rstrip("\n")
        except OSError:  # detached since glob saw it
            continue
        if backing.startswith(f"{below}/"):
            found.add(f"loop device {entry.parts[3]} on {backing}")
    return found


def orphans(but: int = 0) -> dict[int, str]:
    """Living children of this process, other than ``but``: pid and command line."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="surrogateescape").rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended since glob saw it
            continue
        pid = int(stat.parent.name)
        if int(fields[1]) == os.getpid() and fields[0] != "Z" and pid != but:
            found[pid] = command.strip() or "(no command line)"
    return found


def reap() -> None:
    """Collect every child that has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def end_orphans(patience: float = 3.0) -> set[str]:
    """Give what the tests left ``patience`` seconds to end, then kill it and say what it was."""
    deadline = time.monotonic() + patience
    while orphans() and time.monotonic() < deadline:
        time.sleep(0.05)
        reap()
    left = orphans()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    for pid in left:
        os.waitpid(pid, 0)
    return {f"process {pid}: {command}" for pid, command in left.items()}


def directories(*places: Path) -> set[str]:
    """Names that sifkit made in directories for temporary files."""
    names = (entry for place in places if place.is_dir() for entry in place.iterdir())
    return {f"temporary directory or file {entry}" for entry in names if "sifkit" in entry.name}
