"""ext3 overlays: making them, locking them, and reading what is in them without mounting."""

from __future__ import annotations

import itertools
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import setting
from row import Row

from overlay import tools
from overlay.extread.reader import ExtReader
from overlay.locks import lock
from overlay.manage.create import create_ext3
from overlay.section import Section

MS = 0.001
MIB = 2**20

_serial = itertools.count()


def rows(quick: bool) -> Iterator[Row]:
    """The figures of this module, each as soon as it is there."""
    count = 5 if quick else 15
    yield from creations(count)
    yield from locks(count)
    yield from reading(5_000 if quick else 50_000, 3 if quick else 7)


def creations(count: int) -> Iterator[Row]:
    """A whole `overlay create` of 1 GiB as an ordinary user, beside doing it by hand and Apptainer."""
    directory = setting.here().directory("create")
    yield from created("overlay create --size 1G", directory, [], "dd if=/dev/zero bs=1M count=1024 of=%s", 120, count)
    yield from created("overlay create --size 1G --sparse", directory, ["--sparse"], "truncate -s 1G %s", 90, count)


def created(name: str, directory: Path, options: list[str], fill: str, most: float, count: int) -> Iterator[Row]:
    """Medians of creating a new file each time; ``most`` in milliseconds."""
    here = setting.here()
    mkfs = tools.find("mkfs.ext3") or "mkfs.ext3"

    def ours(path: str) -> list[str]:
        return here.sifkit("overlay", "create", "--size", "1G", *options, path)

    def by_hand(path: str) -> list[str]:
        quoted = shlex.quote(path)
        return here.command("sh", "-c", f"{fill % quoted} 2>/dev/null && {mkfs} -q {quoted}")

    taken = setting.interleaved({"ours": fresh(directory, ours), "by hand": fresh(directory, by_hand)}, count)
    mine = taken["ours"]
    yield Row(name, mine, "", None, f"<= {most:.0f} ms", mine <= most * MS)
    yield Row(name, mine, "by hand", taken["by hand"], "", None)
    if peer := setting.apptainer():
        place = peer.give(here.directory(f"create-apptainer{len(options)}"))

        def theirs(path: str) -> list[str]:
            return [*peer.prefix, "overlay", "create", "--size", "1024", *options, path]

        seconds = setting.interleaved({"apptainer": fresh(place, theirs)}, min(count, 5))["apptainer"]
        yield Row(name, mine, "apptainer", seconds, "", None)


def fresh(directory: Path, command: Callable[[str], list[str]]) -> Callable[[], float]:
    """A task that runs ``command`` on a new name and removes what it made, outside of the time taken."""

    def task() -> float:
        path = directory / f"{next(_serial)}.img"
        argv = command(str(path))
        try:
            return max(0.0, setting.once(argv) - setting.overhead(tuple(argv)))
        finally:
            path.unlink(missing_ok=True)

    return task


def locks(count: int) -> Iterator[Row]:
    """Taking a write lock with its record and giving it back, within a process."""
    image = setting.here().scratch / "locked.img"
    section = create_ext3(str(image), 64 * MIB, sparse=True).section

    def task() -> float:
        begin = time.perf_counter()
        lock.acquire(section, exclusive=True).release()
        return time.perf_counter() - begin

    seconds = setting.interleaved({"lock": task}, 4 * count)["lock"]
    yield Row("lock an image and let go", seconds, "", None, "<= 2 ms", seconds <= 2 * MS)


def reading(files: int, count: int) -> Iterator[Row]:
    """Every name and inode of an image, beside find on the same tree as a directory."""
    tree, section = populated(files)

    def ours() -> float:
        begin = time.perf_counter()
        with ExtReader(section) as reader:
            seen = sum(1 for _ in reader.walk(b"/"))
        assert seen > files
        return time.perf_counter() - begin

    taken = setting.interleaved({"ours": ours, "find -ls": lambda: setting.once(["find", str(tree), "-ls"])}, count)
    yield Row(f"read the names and inodes of {files} files", taken["ours"], "find -ls", taken["find -ls"], "", None)


def populated(files: int) -> tuple[Path, Section]:
    """A tree of ``files`` empty files, a hundred to a directory, and an image of it."""
    here = setting.here()
    tree = here.directory("populated")
    for number in range(files):
        directory = tree / f"d{number // 100}"
        if number % 100 == 0:
            directory.mkdir()
        (directory / f"a file with number {number}").touch()
    image = here.scratch / "populated.img"
    mkfs = tools.find("mke2fs") or "mke2fs"
    command = [mkfs, "-q", "-F", "-b", "4096", "-O", "has_journal,^extent", "-N", str(2 * files), "-d", str(tree)]
    subprocess.run([*command, str(image), "256M"], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return tree, Section(str(image), 0, image.stat().st_size)
