"""Staged writes into an ext3 overlay: whole runs, commit included, beside a directory overlay, `:fuse` and Apptainer.

The base belongs to the caller. Figures of Apptainer are of few runs, for one takes ten seconds and more.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from statistics import median

import setting
from row import Row

SECOND, MS = 1.0, 0.001

CREATE = """
mkdir /usr/share/staged && cd /usr/share/staged; i=0
while [ $i -lt 100 ]; do
    mkdir $i; j=0
    while [ $j -lt 100 ]; do echo line > $i/$j; j=$((j+1)); done
    i=$((i+1))
done
"""
DELETE = "rm -rf /usr/share/staged"  # never a name that the host may show there: its working directory is bound

MEMORY = Path(f"/dev/shm/sifkit-bench-{os.getpid()}")

_serial = itertools.count()
Command = Callable[[], list[str]]


def rows(quick: bool) -> Iterator[Row]:
    """The figures of this module, each as soon as it is there."""
    count = 3 if quick else 7
    try:
        for place in ("disk", "tmpfs"):
            yield from created_and_deleted(place, count, 1 if quick else 2)
    finally:
        shutil.rmtree(MEMORY, ignore_errors=True)
    yield from unpacked(count, 1 if quick else 2)
    yield from starts(10 if quick else 20)


# -- small files -----------------------------------------------------------------------------------------


def created_and_deleted(place: str, count: int, of_peer: int) -> Iterator[Row]:
    """100 directories of 100 small files: one run makes them, the next removes them."""
    title = f"100 x 100 files, session on {place}"
    ways = {"staged": image_way("", place), "directory": directory_way()}
    taken = {name: [pair(make) for _ in range(count + 1)][1:] for name, make in ways.items()}
    slow = {"fuse": image_way(":fuse", place)}
    peer = setting.apptainer()
    if peer:
        slow["apptainer"] = apptainer_way(peer)
    taken |= {name: [pair(make) for _ in range(of_peer)] for name, make in slow.items()}
    for number, (what, most) in enumerate((("create", 0.8), ("delete", 0.5))):
        figures = {name: median(times[number] for times in runs) for name, runs in taken.items()}
        ours, plain = figures["staged"], figures["directory"]
        yield Row(f"{what} {title}", ours, "directory overlay", plain, f"<= + {most} s", ours - plain <= most * SECOND)
        yield Row(f"{what} {title}", ours, "our :fuse", figures["fuse"], "", None)
        if peer:
            theirs = figures["apptainer"]
            yield Row(f"{what} {title}", ours, "apptainer", theirs, "<= 0.2 x", ours <= 0.2 * theirs)


def pair(make: Callable[[], Callable[[str], list[str]]]) -> tuple[float, float]:
    """Seconds of making and of removing the files, in an overlay of their own."""
    command = make()
    return timed(command(CREATE)), timed(command(DELETE))


def timed(argv: list[str]) -> float:
    """Seconds of one run, whose working directory is not the checkout: what a run shows, it may also change."""
    os.chdir(setting.here().scratch)
    return max(0.0, setting.once(argv) - setting.overhead(tuple(argv)))


def new_image(size: str = "1G") -> Path:
    """A new, sparse ext3 overlay of the ordinary user."""
    here = setting.here()
    path = here.directory(f"staged-{next(_serial)}") / "over.img"
    setting.run(here.sifkit("overlay", "create", "--sparse", "--size", size, str(path)))
    return path


def image_way(mode: str, place: str, size: str = "1G") -> Callable[[], Callable[[str], list[str]]]:
    """Runs on a new image each time; the session lies beside it, or in memory."""
    here = setting.here()
    session = [] if place == "disk" else ["--session-dir", str(MEMORY)]
    if session and not MEMORY.exists():
        MEMORY.mkdir()
        os.chown(MEMORY, here.user.pw_uid, here.user.pw_gid)

    def make() -> Callable[[str], list[str]]:
        image = f"{new_image(size)}{mode}"
        return lambda script: here.sifkit("exec", *session, "--overlay", image, str(here.rootfs), "sh", "-c", script)

    return make


def directory_way() -> Callable[[], Callable[[str], list[str]]]:
    """Runs on a new directory overlay each time."""
    here = setting.here()

    def make() -> Callable[[str], list[str]]:
        changes = str(here.directory(f"plain-{next(_serial)}"))
        return lambda script: here.sifkit("exec", "--overlay", changes, str(here.rootfs), "sh", "-c", script)

    return make


def apptainer_way(peer: setting.Apptainer) -> Callable[[], Callable[[str], list[str]]]:
    """The same in Apptainer's containers, on an image that it made."""
    here = setting.here()

    def make() -> Callable[[str], list[str]]:
        place = peer.give(here.directory(f"apptainer-{next(_serial)}"))
        image = f"{place}/over.img"
        setting.run([*peer.prefix, "overlay", "create", "--sparse", "--size", "1024", image])
        return lambda script: peer.exec("--overlay", image, str(peer.rootfs()), "sh", "-c", script)

    return make


# -- archives --------------------------------------------------------------------------------------------


def archive(name: str, files: int, each: int) -> Path:
    """A tar archive of ``files`` files of a kilobyte, ``each`` to a directory."""
    path = setting.here().scratch / f"{name}.tar"
    if not path.exists():
        content = b"x" * 1024
        with tarfile.open(path, "w") as out:
            for number in range(files):
                member = tarfile.TarInfo(f"tree/{number // each}/file with number {number}")
                member.size, member.mode = len(content), 0o644
                out.addfile(member, BytesIO(content))
        path.chmod(0o644)
    return path


def unpacked(count: int, of_peer: int) -> Iterator[Row]:
    """A tree of 20 000 files unpacked by tar, commit included."""
    script = f"mkdir /usr/share/staged && tar -x -C /usr/share/staged -f {archive('tree', 20_000, 100)}"
    ways = {"staged": image_way("", "disk"), "directory": directory_way()}
    figures = {name: median([timed(make()(script)) for _ in range(count + 1)][1:]) for name, make in ways.items()}
    ours, plain = figures["staged"], figures["directory"]
    title = "unpack 20 000 files"
    yield Row(title, ours, "directory overlay", plain, "<= + 1.5 s", ours - plain <= 1.5 * SECOND)
    yield Row(title, ours, "our :fuse", timed(image_way(":fuse", "disk")()(script)), "", None)
    if peer := setting.apptainer():
        theirs = median(timed(apptainer_way(peer)()(script)) for _ in range(of_peer))
        yield Row(title, ours, "apptainer", theirs, "", None)


# -- starts ---------------------------------------------------------------------------


def starts(count: int) -> Iterator[Row]:
    """`exec true`, its end included: nothing is written into the image."""
    here = setting.here()
    empty, full = new_image(), new_image()
    tree = archive("tree", 20_000, 100)
    script = f"mkdir /usr/share/staged && tar -x -C /usr/share/staged -f {tree}"
    setting.run(here.sifkit("exec", "--overlay", str(full), str(here.rootfs), "sh", "-c", script))
    changes = str(here.directory(f"plain-{next(_serial)}"))
    overlays = {"directory": changes, "empty": str(empty), "full": str(full), "fuse": f"{full}:fuse"}
    given = {
        name: here.sifkit("exec", "--overlay", overlay, str(here.rootfs), "true") for name, overlay in overlays.items()
    }
    figures = setting.commands(given, count)
    plain = figures["directory"]
    for name, title, most in (("empty", "an empty image", 10), ("full", "20 000 files in it", 40)):
        ours = figures[name]
        good = ours - plain <= most * MS
        yield Row(f"start and end, {title}", ours, "directory overlay", plain, f"<= + {most} ms", good)
    yield Row("start and end, 20 000 files in it", figures["full"], "our :fuse", figures["fuse"], "", None)
