"""`overlay freeze` beside mksquashfs, `convert` into ext3, and what a million files hold in memory on their way."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import images
import setting
from bench_overlay import peak, populated
from row import Row

_MEMORY = 200 * images.MIB
_SMALL_SECONDS = 2.0
_SUM = 'cat "$0"/*/* > /dev/null'


def rows(quick: bool) -> Iterator[Row]:
    """10 000 files of every size for freeze, 10 000 small ones for ext3; unless ``quick``, memory at 1 000 000."""
    count = 3 if quick else 10
    yield from frozen(mixed("mixed", 10_000), count)
    yield from into_ext3(small("small", 10_000), count)
    yield kills(small("killed", 300), 10 if quick else 60)
    if not quick:
        million = populated("million", 1_000_000)
        yield from memory(million)
        yield copied(million)


def frozen(tree: Path, count: int) -> Iterator[Row]:
    out = setting.here().directory("frozen") / "frozen.sqfs"
    for compress in ("zstd", "gzip"):
        mksquashfs = ("mksquashfs", str(tree / "upper"), str(out), "-quiet", "-no-progress", "-noappend")
        taken = setting.commands(
            {
                "mksquashfs": afresh(out, *mksquashfs, "-comp", compress),
                "read": setting.here().command("sh", "-c", _SUM, str(tree / "upper")),
                "freeze": afresh(out, "sifkit", "overlay", "freeze", "--compress", compress, str(tree), "-o", str(out)),
            },
            count,
        )
        most = 1.1 * taken["mksquashfs"] + taken["read"]
        name = f"overlay freeze, {compress}, 10000 files, 166 MB"
        limit = "<= 1.1 x and a read"
        yield Row(name, taken["freeze"], "mksquashfs", taken["mksquashfs"], limit, taken["freeze"] <= most)


def into_ext3(tree: Path, count: int) -> Iterator[Row]:
    out = setting.here().directory("image") / "small.img"
    command = afresh(out, "sifkit", "overlay", "convert", str(tree), str(out))
    taken = setting.commands({"ext3": command}, count)["ext3"]
    yield Row("overlay convert, 10000 small files, to ext3", taken, "", None, "<= 2 s", taken <= _SMALL_SECONDS)


def kills(tree: Path, count: int) -> Row:
    """SIGKILL of `overlay freeze` at random moments: nothing or the whole is there; the time of one, check included."""
    sifkit = str(setting.here().venv / "bin/sifkit")
    out = setting.here().directory("kills")
    command = [sifkit, "overlay", "freeze", "--reproducible", str(tree), "-o"]
    begin = time.perf_counter()
    setting.run([*command, str(tree / "whole.sqfs")])
    usual = time.perf_counter() - begin
    whole = (tree / "whole.sqfs").read_bytes()
    chance = random.Random(1)
    killed = there = 0
    begin = time.perf_counter()
    for _ in range(count):
        nothing = subprocess.DEVNULL
        freeze = subprocess.Popen([*command, str(out / "new")], stdin=nothing, stdout=nothing, stderr=nothing)
        time.sleep(chance.random() * usual * 1.2)
        freeze.kill()
        killed += freeze.wait() == -signal.SIGKILL
        if left := [path.name for path in out.iterdir()]:
            assert left == ["new"]
            assert (out / "new").read_bytes() == whole
            (out / "new").unlink()
            there += 1
    each = (time.perf_counter() - begin) / count
    name = f"overlay freeze: {count} times, {killed} killed, {there} whole, nothing else left"
    return Row(name, each, "", None, "none broken", killed > 0)


def copied(tree: Path) -> Row:
    """The largest resident size, in bytes instead of seconds, of copying that many files into an image."""
    image = setting.here().scratch / "million-copied.img"
    words = ["create", "--sparse", "--size", "4G", "--inodes", "1100000", str(image)]
    setting.run(setting.here().sifkit("overlay", *words))
    size = peak(setting.here().sifkit("overlay", "cp", "-r", str(tree / "upper"), f"{image}:/copy"))
    image.unlink()
    return Row(f"1000000 files, cp into ext3: {size // images.MIB} MiB", 0.0, "", None, "<= 200 MiB", size <= _MEMORY)


def memory(tree: Path) -> Iterator[Row]:
    """The largest resident size, in bytes instead of seconds, of each step of a way through all kinds."""
    top = setting.here().directory("kinds")
    image, squash, archive = (str(top / f"million.{kind}") for kind in ("img", "sqfs", "tar"))
    steps = {
        "directory to ext3": ("convert", str(tree), image),
        "ext3 to squashfs (freeze)": ("freeze", image, "-o", squash),
        "squashfs to tar": ("convert", squash, archive),
        "tar to squashfs": ("convert", archive, str(top / "again.sqfs")),
        "squashfs to directory": ("convert", squash, str(top / "back/")),
        "commit": ("commit", squash, "--base", str(tree / "upper"), "-o", str(top / "new.sqfs")),
    }
    for name, words in steps.items():
        size = peak(setting.here().sifkit("overlay", *words))
        yield Row(f"1000000 files, {name}: {size // images.MIB} MiB", 0.0, "", None, "<= 200 MiB", size <= _MEMORY)
    shutil.rmtree(top)


def afresh(out: Path, program: str, *words: str) -> list[str]:
    """A command that makes ``out`` anew each time."""
    here = setting.here()
    found = str(here.venv / "bin/sifkit") if program == "sifkit" else program
    return here.command("sh", "-c", 'rm -f "$0"; exec "$@"', str(out), found, *words)


def mixed(name: str, files: int) -> Path:
    """Text that compresses and some that does not, in sizes as software has them: most small, some of megabytes."""
    overlay = setting.here().directory(name)
    chance = random.Random(3)
    text = Path(images.__file__).read_bytes()
    for number in range(files):
        directory = overlay / "upper" / f"d{number // 100}"
        if number % 100 == 0:
            directory.mkdir(parents=True)
        size = int(min(chance.lognormvariate(8.5, 1.5), 2_000_000))
        piece = text[chance.randrange(8000) :] + chance.randbytes(200)
        (directory / f"file {number}").write_bytes((piece * (size // len(piece) + 1))[:size])
    subprocess.run(["sync"], check=True)
    return overlay


def small(name: str, files: int) -> Path:
    """Files of up to 5000 bytes, a hundred to a directory."""
    overlay = setting.here().directory(name)
    for number in range(files):
        directory = overlay / "upper" / f"d{number // 100}"
        if number % 100 == 0:
            directory.mkdir(parents=True)
        (directory / f"file {number}").write_bytes(b"x" * (number % 5000))
    return overlay
