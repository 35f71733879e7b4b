"""Resizing ext3 overlays: time, and bytes written, beside doing it by hand."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import setting
from row import Row

from overlay import tools
from overlay.chown import chown_image
from overlay.create import create_ext3
from overlay.e2fsprogs import debugfs
from overlay.resize import Wish, resize_file
from overlay.section import Section

MIB = 2**20
GIB = 2**30


def rows(quick: bool) -> Iterator[Row]:
    """The figures of this module, each as soon as it is there."""
    count = 3 if quick else 10
    image = setting.here().scratch / "resize.img"
    create_ext3(str(image), 10 * GIB, sparse=True)
    mine, written = taken(image, lambda path: resize_file(str(path), Wish(size=20 * GIB)), count)
    theirs, _ = taken(image, by_hand, count)
    name = f"overlay resize: sparse 10G to 20G, {written // MIB} MiB written"
    fits = mine <= 2 and written <= 200 * MIB
    yield Row(name, mine, "e2fsck, resize2fs", theirs, "<= 2 s, 200 MiB", fits)
    mine, _ = taken(image, lambda path: resize_file(str(path), Wish(size=GIB)), count)
    yield Row("overlay resize: sparse 10G to 1G", mine, "", None, "", None)
    yield from owners(5_000 if quick else 100_000)


def by_hand(path: Path) -> None:
    """What the internet says: truncate, e2fsck -f, resize2fs."""
    with open(path, "r+b") as file:
        file.truncate(20 * GIB)
    for words in (["e2fsck", "-f", "-p"], ["resize2fs"]):
        program = tools.find(words[0]) or words[0]
        subprocess.run([program, *words[1:], str(path)], check=True, capture_output=True)


def taken(image: Path, work: Callable[[Path], object], count: int) -> tuple[float, int]:
    """Median seconds of ``work`` on a fresh copy, and the bytes that the last one wrote."""
    seconds = []
    written = 0
    for _ in range(count):
        path = image.with_suffix(".copy")
        subprocess.run(["cp", "--sparse=always", str(image), str(path)], check=True)
        before = disk()
        begin = time.perf_counter()
        work(path)
        seconds.append(time.perf_counter() - begin)
        written = disk() - before
        path.unlink()
    return statistics.median(seconds), written


def disk() -> int:
    """Bytes this process and the children it waited for have caused to be written (proc_pid_io(5))."""
    with open("/proc/self/io", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("write_bytes"))


def owners(files: int) -> Iterator[Row]:
    """`overlay chown` of many files."""
    tree = setting.here().directory("owners")
    (tree / "upper").mkdir()
    for number in range(files):
        if number % 1000 == 0:
            (tree / f"upper/d{number // 1000}").mkdir()
        (tree / f"upper/d{number // 1000}/{number}").touch()
    image = setting.here().scratch / "owners.img"
    program = tools.find("mke2fs") or "mke2fs"
    options = ["-q", "-F", "-t", "ext3", "-b", "4096", "-N", str(2 * files), "-d", str(tree)]
    subprocess.run([program, *options, str(image), "512M"], check=True, capture_output=True)
    shutil.rmtree(tree)
    section = Section(str(image), 0, image.stat().st_size)
    debugfs(section, [[b"mkdir", b"work"]], write=True)
    begin = time.perf_counter()
    assert chown_image(section, 70000, 70000) > files
    yield Row(f"overlay chown of {files} files", time.perf_counter() - begin, "", None, "", None)
