"""SIF images: parsing, `sif list`, adding and dumping 500 MB beside cp and siftool, and 100 000 mutations.

siftool is taken from PATH, or from the words in SIFKIT_BENCH_SIFTOOL.
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import setting
from row import Row

MS = 0.001
MOST = 1.15
# What is added, by siftool's numbers: a partition begins at a page, as most bytes of most images, the other anywhere.
KINDS = {
    "partition": ("--datatype", "4", "--partfs", "4", "--parttype", "3", "--partarch", "2", "--groupid", "1"),
    "generic": ("--datatype", "7"),
}
EXTREMES = (-(2**63), -1, 0, 127, 2**31, 2**62, 2**63 - 1)


def rows(quick: bool) -> Iterator[Row]:
    """The figures of this module, each as soon as it is there."""
    yield from parse(20 if quick else 200)
    yield from listed(5 if quick else 20)
    for kind in KINDS:
        yield from moved(kind, 100 if quick else 500, 3 if quick else 9)
    yield from mutations(5_000 if quick else 100_000)


def siftool() -> list[str] | None:
    """The words that run siftool; None where there is none."""
    given = os.environ.get("SIFKIT_BENCH_SIFTOOL")
    found = shutil.which("siftool")
    return shlex.split(given) if given else [found] if found else None


def _sample(path: Path, objects: int) -> Path:
    from sifkit import sif

    if not path.exists():
        new = [sif.NewObject(sif.DataType.GENERIC_JSON, b"{}", f"object-{n}") for n in range(objects)]
        sif.create(path, new, capacity=objects)
        path.chmod(0o644)
    return path


def parse(count: int) -> Iterator[Row]:
    """Opening an image through the library: header, table, all descriptors."""
    from sifkit import sif

    for slots, limit in ((48, 1 * MS), (10_000, 200 * MS)):
        path = _sample(setting.here().scratch / f"{slots}.sif", slots)
        taken = []
        for _ in range(count if slots == 48 else max(3, count // 20)):
            begin = time.perf_counter()
            with sif.open(path) as image:
                assert len(image.objects) == slots
            taken.append(time.perf_counter() - begin)
        ours = median(taken)
        yield Row(f"parse {slots} used slots", ours, "", None, f"<= {limit / MS:.0f} ms", ours <= limit)


def listed(count: int) -> Iterator[Row]:
    """`sif list` as a process."""
    here = setting.here()
    path = str(_sample(here.scratch / "48.sif", 48))
    given = {"ours": here.sifkit("sif", "list", path)}
    if tool := siftool():
        given["siftool"] = [*tool, "list", path]
    taken = setting.commands(given, count)
    yield Row("sif list", taken["ours"], "siftool", taken.get("siftool"), "<= 50 ms", taken["ours"] <= 50 * MS)


def moved(kind: str, megabytes: int, count: int) -> Iterator[Row]:
    """Adding and dumping an object, beside cp of the same file in the same directory.

    An add is on disk when it returns, so its peer is cp with fsync; plain cp only fills the page cache.
    """
    directory = setting.here().directory(f"sif-moved-{kind}")
    source, image, out = directory / "source", directory / "image.sif", directory / "out"
    source.write_bytes(os.urandom(megabytes << 20))
    os.sync()
    plain = ["cp", str(source), str(out)]
    synced = ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(source), str(out)]
    flags, tool = KINDS[kind], siftool()
    taken = setting.interleaved({
        "add": lambda: _fresh_add(_sifkit("add"), image, source, flags),
        "cp": lambda: _fresh(plain, out),
        "cp + fsync": lambda: _fresh(synced, out),
        **_peer(tool, lambda tool: _fresh_add([*tool, "add"], directory / "theirs.sif", source, flags)),
    }, count)  # fmt: skip
    yield from _beside(f"sif add {kind} {megabytes} MB", taken["add"], taken, "cp + fsync")
    taken = setting.interleaved({
        "-o": lambda: _fresh([*_sifkit("dump"), "1", str(image), "-o", str(out)], out),
        "cp": lambda: _fresh(plain, out),
        ">": lambda: _redirected([*_sifkit("dump"), "1", str(image)], out),
        **_peer(tool, lambda tool: _redirected([*tool, "dump", "1", str(image)], out)),
    }, count)  # fmt: skip
    for how in ("-o", ">"):
        yield from _beside(f"sif dump {how} {kind} {megabytes} MB", taken[how], taken, "cp")
    shutil.rmtree(directory)


def _peer(tool: list[str] | None, task: Callable[[list[str]], float]) -> dict[str, Callable[[], float]]:
    return {"siftool": lambda: task(tool)} if tool else {}


def _beside(name: str, ours: float, taken: dict[str, float], limiting: str) -> Iterator[Row]:
    """``ours`` beside every peer; at most `MOST` times the ``limiting`` one."""
    for peer in ("cp", "cp + fsync", "siftool"):
        if peer in taken:
            ok = ours <= MOST * taken[peer] if peer == limiting else None
            yield Row(name, ours, peer, taken[peer], "" if ok is None else f"<= {MOST} x", ok)


def _sifkit(verb: str) -> list[str]:
    # Not as the ordinary user: becoming one is no part of the figure, and the files are root's.
    return [str(setting.here().venv / "bin/sifkit"), "sif", verb]


def _quiet(out: Path) -> None:
    """Nothing of the run before is still on its way to the disk."""
    out.unlink(missing_ok=True)
    os.sync()


def _fresh(command: list[str], out: Path) -> float:
    _quiet(out)
    return setting.once(command)


def _fresh_add(command: list[str], image: Path, source: Path, flags: tuple[str, ...]) -> float:
    from sifkit import sif

    _quiet(image)
    sif.create(image)
    return setting.once([*command, str(image), str(source), *flags])


def _redirected(command: list[str], out: Path) -> float:
    _quiet(out)
    with open(out, "wb") as stream:
        begin = time.perf_counter()
        subprocess.run(command, stdout=stream, env=setting.here().environment, check=True)
        return time.perf_counter() - begin


def mutations(count: int) -> Iterator[Row]:
    """Random damage to header and table: each time a list of findings, never another exception."""
    from sifkit import sif

    path = setting.here().scratch / "mutant.sif"
    parts = [sif.partition(b"p" * 100, sif.FsType.RAW, part, "amd64") for part in (1, 2, 3, 4)]
    others = [sif.NewObject(kind, b"{}") for kind in (0x4001, 0x4007, 0x400A)]
    sif.create(path, [*parts, *others, sif.signature(b"{}", 1, link_group=1)])
    data = path.read_bytes()
    draw = random.Random(count)
    begin = time.perf_counter()
    sound = 0
    with open(path, "r+b", buffering=0) as file:
        for _ in range(count):
            at = draw.choice([draw.randrange(120), 4096 + draw.randrange(8 * 585)])
            new = draw.choice([draw.randbytes(8), struct.pack("<q", draw.choice(EXTREMES))])
            os.pwrite(file.fileno(), new, at)
            sound += not sif.check(path)
            os.pwrite(file.fileno(), data[at : at + 8], at)
    took = time.perf_counter() - begin
    path.unlink()
    yield Row(f"{count} mutations checked ({sound} harmless)", took, "", None, "no crash", True)
