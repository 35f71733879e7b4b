"""Starts from a SIF image and with an ext3 overlay, and making the overlay inside a SIF image, beside Apptainer's."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import setting
from row import Row

from sifkit import sif

MS = 0.001
_serial = itertools.count()


def rows(quick: bool) -> Iterator[Row]:
    """The figures of this module, each as soon as it is there."""
    count = 5 if quick else 20
    yield from starts(count)
    yield from embedded(5 if quick else 15)


def image() -> Path:
    """A SIF image of the root file system, readable by everybody."""
    path = setting.here().scratch / "rootfs.sif"
    if not path.exists():
        squash = setting.here().squash
        sif.create(path, [sif.partition(squash, sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64")], mode=0o644)
    return path


def starts(count: int) -> Iterator[Row]:
    """What is waited for FUSE servers."""
    here = setting.here()
    tree, changes, squash = str(here.rootfs), str(here.directory("start") / "over.img"), str(image())
    setting.run(here.sifkit("overlay", "create", changes))
    given = {
        "exec --overlay IMG DIR": here.sifkit("exec", "--overlay", changes, tree, "true"),
        "exec --overlay IMG:ro DIR": here.sifkit("exec", "--overlay", f"{changes}:ro", tree, "true"),
        "exec SIF": here.sifkit("exec", squash, "true"),
        "exec --writable-tmpfs SIF": here.sifkit("exec", "--writable-tmpfs", squash, "true"),
    }
    limits = {"exec --overlay IMG DIR": 80, "exec SIF": 60, "exec --writable-tmpfs SIF": 65}
    peer = setting.apptainer()
    theirs = {}
    if peer:
        base, place = str(peer.rootfs()), here.directory("start-of-apptainer")
        peer.give(place)
        copy = str(place / "over.img")
        setting.run([*peer.prefix, "overlay", "create", "--size", "64", copy])
        theirs = {
            "exec --overlay IMG DIR": peer.exec("--overlay", copy, base, "true"),
            "exec --overlay IMG:ro DIR": peer.exec("--overlay", f"{copy}:ro", base, "true"),
            "exec SIF": peer.exec(squash, "true"),
            "exec --writable-tmpfs SIF": peer.exec("--writable-tmpfs", squash, "true"),
        }
    both = {**given, **{f"apptainer {name}": command for name, command in theirs.items()}}
    taken = setting.commands(both, count)
    for name in given:
        ours = taken[name]
        if name in limits:
            yield Row(f"{name} true", ours, "", None, f"<= {limits[name]} ms", ours <= limits[name] * MS)
        if peer:
            other = taken[f"apptainer {name}"]
            yield Row(f"{name} true", ours, "apptainer", other, "<= 1.0 x", ours <= other)


def embedded(count: int) -> Iterator[Row]:
    """`overlay create --size 1G image.sif`, each time in a new copy of the image."""
    here = setting.here()
    tasks = {"ours": fresh(here.directory("embed"), here.sifkit("overlay", "create", "--size", "1G"))}
    peer = setting.apptainer()
    if peer:
        place = peer.give(here.directory("embed-of-apptainer"))
        tasks["apptainer"] = fresh(place, [*peer.prefix, "overlay", "create", "--size", "1024"])
    name, taken = "overlay create --size 1G SIF", setting.interleaved(tasks, count)
    ours = taken["ours"]
    yield Row(name, ours, "", None, "<= 150 ms", ours <= 150 * MS)
    if peer:
        yield Row(name, ours, "apptainer", taken["apptainer"], "", None)


def fresh(directory: Path, command: list[str]) -> Callable[[], float]:
    """A task that runs ``command`` on a new copy of the image; only the command is timed."""
    owner = directory.stat()

    def task() -> float:
        path = directory / f"{next(_serial)}.sif"
        shutil.copy(image(), path)
        shutil.chown(path, owner.st_uid, owner.st_gid)
        try:
            argv = [*command, str(path)]
            return max(0.0, setting.once(argv) - setting.overhead(tuple(argv)))
        finally:
            path.unlink()

    return task
