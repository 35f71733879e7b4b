"""Resizing ext3 overlays: time, and bytes written, beside doing it by hand."""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import setting
from row import Row

from overlay import tools
from overlay.e2fsprogs import debugfs, e2fsck
from overlay.extwrite.sink import ExtSink
from overlay.locks import lock
from overlay.manage import edit
from overlay.manage.chown import chown_image
from overlay.manage.create import create_ext3
from overlay.manage.resize import Wish, resize_file
from overlay.section import Section
from overlay.tree.copy import Copier, Marks
from overlay.tree.image import ExtTree
from overlay.tree.view import DirectoryTree

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
    yield from rebuilding(1_000 if quick else 100_000)
    yield kills(10 if quick else 60)
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


def small_files(files: int, size: int) -> Path:
    """An overlay image of ``size`` bytes with so many files of 1 KiB."""
    tree = setting.here().directory("many")
    for number in range(files):
        if number % 100 == 0:
            (tree / f"upper/{number // 100}").mkdir(parents=True)
        (tree / f"upper/{number // 100}/{number}").write_bytes(b"x" * 1024)
    image = setting.here().scratch / "many.img"
    inodes = files + files // 50 + 1000
    made = create_ext3(str(image), size, sparse=True, inodes=inodes)
    with lock.acquire(made.section, exclusive=True), edit.editing(made.section, "") as writer:
        top = edit.upper(writer, "")
        with DirectoryTree(str(tree / "upper")) as source:
            sink = ExtSink(writer, top, lambda path, what: None)
            Copier(source, sink, Marks.REFUSE).copy_inside(source.top, top, b"")
    shutil.rmtree(tree)
    return image


def rebuilding(files: int) -> Iterator[Row]:
    """`overlay resize --inodes` beside a copy of the file, which is the least it could cost."""
    image = small_files(files, 2 * GIB)
    mine, written = taken(image, lambda path: resize_file(str(path), Wish(inodes=4 * files)), 3)

    def copied(path: Path) -> None:
        subprocess.run(["cp", "--sparse=always", str(path), f"{path}.2"], check=True)
        path.with_suffix(".copy.2").unlink()

    theirs, _ = taken(image, copied, 3)
    name = f"overlay resize --inodes: {files} small files, {written // MIB} MiB written"
    yield Row(name, mine, "cp of the image", theirs, "", None)
    image.unlink()


def kills(count: int) -> Row:
    """SIGKILL while an overlay is rebuilt, at random moments; the time of one kill and the check after it."""
    image = small_files(500, 64 * MIB)
    chance = random.Random(1)
    old = new = 0
    begin = time.perf_counter()
    for _ in range(count):
        path = image.with_suffix(".copy")
        subprocess.run(["cp", "--sparse=always", str(image), str(path)], check=True)
        child = os.fork()
        if child == 0:
            os.setsid()
            try:
                resize_file(str(path), Wish(inodes=50_000))
            finally:
                os._exit(0)
        while os.getpgid(child) != child:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.35)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        section = Section(str(path), 0, path.stat().st_size)
        assert e2fsck(section, "-fn", write=False).status == 0
        with ExtTree(section, b"/upper") as tree:
            assert sum(entry.is_file for _, entry in tree.walk()) == 500
            more = tree.reader.superblock.inodes >= 50_000
        old, new = old + (not more), new + more
        path.unlink()
    image.unlink()
    each = (time.perf_counter() - begin) / count
    name = f"overlay resize --inodes: {count} kills, {old} old and {new} new overlays, all whole"
    return Row(name, each, "", None, "none lost", old + new == count)


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
