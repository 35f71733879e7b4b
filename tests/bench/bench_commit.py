"""Commits of sessions into ext3 images: many files, large directories, a large file, memory, kills."""

from __future__ import annotations

import os
import random
import shutil
import stat
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import commit_case
import setting
from row import Row

from overlay import e2fsprogs
from overlay.commit import carry as commit
from overlay.manage import create
from overlay.section import Section

MIB = 2**20
GIB = 2**30
FILES = 10_000
FACTOR = 0.6  # of the speed of cp


def rows(quick: bool) -> Iterator[Row]:
    """The figures of this module, each as soon as it is there."""
    top = setting.here().directory("commit")
    count = 3 if quick else 10
    yield from many(top, count)
    yield from flat(top, 1 if quick else 3)
    yield large(top, 512 * MIB if quick else 4 * GIB, 1 if quick else 3)
    yield memory(top, 100_000 if quick else 1_000_000)
    yield kills(top, 20 if quick else 110)


def ignore(_text: str) -> None:
    pass


def fresh(top: Path, size: int, inodes: int) -> Section:
    """An empty image in place of the one before."""
    (top / "image").unlink(missing_ok=True)
    return create.create_ext3(str(top / "image"), size, sparse=True, inodes=inodes).section


def fill(upper: Path, files: int, each: int, size: int) -> None:
    """``files`` files of ``size`` bytes, ``each`` in one directory."""
    for number in range(files):
        directory = upper / f"d{number // each}"
        if number % each == 0:
            directory.mkdir(parents=True)
        with open(directory / f"file {number}", "wb") as file:
            file.write(b"x" * size)


def timed(section: Section, upper: Path) -> float:
    """Seconds of a commit, the check of its needs and its log included."""
    begin = time.perf_counter()
    commit.needs(section, str(upper))
    commit.commit(section, str(upper), [], f"{section.path}.undo", ignore)
    commit.discard(f"{section.path}.undo")
    return time.perf_counter() - begin


def sound(section: Section) -> bool:
    return e2fsprogs.e2fsck(section, "-fn", write=False).status == 0


def many(top: Path, count: int) -> Iterator[Row]:
    """Made and deleted again; the peer copies the same into a directory of the same disk."""
    upper, gone = top / "many", top / "gone"
    fill(upper, FILES, 100, 50)
    gone.mkdir()
    for name in os.listdir(upper):
        os.mknod(gone / name, stat.S_IFCHR)
    made, deleted, copied = [], [], []
    for _ in range(count):
        section = fresh(top, GIB, 2 * FILES)
        made.append(timed(section, upper))
        begin = time.perf_counter()
        subprocess.run(["cp", "-a", str(upper), str(top / "copy")], check=True)
        copied.append(time.perf_counter() - begin)
        shutil.rmtree(top / "copy")
        deleted.append(timed(section, gone))
    assert sound(section)
    shutil.rmtree(upper)
    taken, peer = statistics.median(made), statistics.median(copied)
    yield Row("commit: 100 directories of 100 files", taken, "cp -a", peer, "<= 0.8 s", taken <= 0.8)
    taken = statistics.median(deleted)
    yield Row("commit: delete them all", taken, "", None, "<= 0.5 s", taken <= 0.5)


def flat(top: Path, count: int) -> Iterator[Row]:
    """All in one directory."""
    seconds = {}
    for files in (FILES, 10 * FILES):
        upper = top / f"flat{files}"
        fill(upper, files, files, 0)
        seconds[files] = statistics.median(timed(fresh(top, GIB, 2 * files), upper) for _ in range(count))
        shutil.rmtree(upper)
    small, big = seconds[FILES], seconds[10 * FILES]
    yield Row("commit: 100 000 files in one directory", big, "10 000 files", small, "<= 15 times", big <= 15 * small)


def large(top: Path, size: int, count: int) -> Row:
    """One file; the peer is cp to the same disk. Both end with an fsync, for a commit does."""
    upper = top / "large"
    upper.mkdir()
    with open(upper / "file", "wb") as file:
        for _ in range(size // MIB):
            file.write(random.randbytes(MIB))
        os.fsync(file.fileno())
    ours, theirs = [], []
    for _ in range(count):
        ours.append(timed(fresh(top, size + size // 4 + GIB, 10_000), upper))
        begin = time.perf_counter()
        subprocess.run(["cp", "--reflink=never", str(upper / "file"), str(top / "copy")], check=True)
        subprocess.run(["sync", str(top / "copy")], check=True)
        theirs.append(time.perf_counter() - begin)
        (top / "copy").unlink()
    shutil.rmtree(upper)
    mine, cp = statistics.median(ours), statistics.median(theirs)
    name = f"commit: one file of {size // MIB} MiB"
    return Row(name, mine, "cp, sync", cp, ">= 0.6 of its speed", mine * FACTOR <= cp)


def memory(top: Path, files: int) -> Row:
    """Most of the memory of a process that commits so many names in one directory."""
    upper = top / "names"
    fill(upper, files, files, 0)
    section = fresh(top, 2 * GIB, files + 100_000)
    seconds, peak = apart(lambda: timed(section, upper))
    shutil.rmtree(upper)
    assert sound(section)
    name = f"commit: {files} names, at most {peak // MIB} MiB of memory"
    return Row(name, seconds, "", None, "< 300 MiB", peak < 300 * MIB)


def apart(work: Callable[[], object]) -> tuple[float, int]:
    """Seconds and the most bytes of memory of ``work`` in a process of its own."""
    begin = time.perf_counter()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return time.perf_counter() - begin, usage.ru_maxrss * 1024


def kills(top: Path, count: int) -> Row:
    """Killed at random moments; each rolled back to exactly the old tree, or the test within fails."""
    case = commit_case.Case(top, 512 * 41)
    chance = random.Random()
    begin = time.perf_counter()
    hits = sum(commit_case.kill(case, chance.uniform(0, case.seconds)) for _ in range(count))
    case.commit()
    assert commit_case.tree(case.section) == case.new
    each = (time.perf_counter() - begin) / count
    return Row(f"commit: killed {hits} times of {count}, rolled back", each, "", None, "exactly the old tree", True)
