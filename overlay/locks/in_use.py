"""Overlays in use on this host: every locked file that is one, found by the locks of all processes one may see."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from overlay import probe
from overlay.locks import holder, lock
from overlay.locks.holder import Holder
from overlay.records import NamedTuple
from overlay.section import Section


class Use(NamedTuple):
    """An overlay: its ``section`` (of a directory: its path and no bytes), what it is, and who holds it."""

    section: Section
    kind: probe.Kind
    holders: tuple[Holder, ...]


class _Locked(NamedTuple):
    """A lock as a process shows it: ``link`` leads to the file; ``size`` None: to the end of it."""

    link: str
    inode: int
    start: int
    size: int | None


def overlays() -> list[Use]:
    """All overlays that a process of this host has locked, by path; those of others as far as /proc shows them.

    Images locked at an offset are partitions, of which the caller finds out if they are overlays at all.
    """
    found: dict[tuple[int, int, int], Use] = {}
    for locked in _locks():
        with contextlib.suppress(OSError):  # it ended meanwhile
            status = os.stat(locked.link)
            key = (status.st_dev, status.st_ino, locked.start)
            if key not in found:
                use = _use(locked, status)
                if use is not None:
                    found[key] = use
    return sorted(found.values(), key=lambda use: use.section)


def _locks() -> Iterator[_Locked]:
    """From the ``lock:`` lines of /proc/PID/fdinfo (proc(5))."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
            for name in os.listdir(f"/proc/{pid}/fdinfo"):
                with open(f"/proc/{pid}/fdinfo/{name}", encoding="utf-8", errors="replace") as file:
                    for line in file:
                        words = line.split()
                        if len(words) >= 9 and words[:1] == ["lock:"] and words[2] == "OFDLCK":
                            start = int(words[7])
                            size = None if words[8] == "EOF" else int(words[8]) - start + 1
                            inode = int(words[6].rpartition(":")[2])
                            yield _Locked(f"/proc/{pid}/fd/{name}", inode, start, size)


def _use(locked: _Locked, status: os.stat_result) -> Use | None:
    """What is locked, or None when it is no overlay, or not the file that the descriptor leads to."""
    if status.st_ino != locked.inode:
        return None
    path = os.readlink(locked.link)
    if os.path.basename(path) == lock.LOCK_FILE:
        directory = os.path.dirname(path)
        return Use(Section(directory, 0, 0), probe.Kind.DIRECTORY, _holders(directory, status, 0))
    found = probe.classify(locked.link, locked.start, locked.size)
    if not (found.is_ext or found.kind is probe.Kind.SQUASHFS):
        return None
    section = found.section._replace(path=path)
    return Use(section, found.kind, _holders(section, status, locked.start))


def _holders(target: Section | str, status: os.stat_result, start: int) -> tuple[Holder, ...]:
    """With what their records add, where the name leads to the file here; else as /proc shows them."""
    return tuple(lock.holders(target) or holder.processes(status, start))
