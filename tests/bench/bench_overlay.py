"""`overlay diff` beside find: a directory overlay, an ext3 image and a squashfs of the same tree; and its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import images
import setting
from row import Row

from overlay import tools

_EXT3_SECONDS = 3.0
_MEMORY = 200 * images.MIB


def rows(quick: bool) -> Iterator[Row]:
    """100 000 files; unless ``quick``, the memory at 1 000 000, in bytes instead of seconds."""
    count = 3 if quick else 10
    tree = populated("many-changes", 100_000)
    image, squash = ext3(tree), images.make_squash(tree / "upper", setting.here().scratch / "many-changes.sqfs")
    diff = ("overlay", "diff")
    taken = setting.commands(
        {
            "find -ls": setting.here().command("find", str(tree / "upper"), "-ls"),
            "directory": setting.here().sifkit(*diff, str(tree)),
            "ext3": setting.here().sifkit(*diff, str(image)),
            "squashfs": setting.here().sifkit(*diff, str(squash)),
        },
        count,
    )
    peer = taken["find -ls"]
    image_limit = (_EXT3_SECONDS, "<= 3 s")
    limits = {"directory": (2 * peer, "<= 2 x"), "ext3": image_limit, "squashfs": image_limit}
    for kind, (most, limit) in limits.items():
        name = f"overlay diff, 100000 files, {kind}"
        yield Row(name, taken[kind], "find -ls", peer, limit, taken[kind] <= most)
    if not quick:
        yield from memory(populated("many", 1_000_000))


def memory(tree: Path) -> Iterator[Row]:
    """The largest resident size of `overlay diff --stat` on a million files, of each kind."""
    image, squash = ext3(tree), images.make_squash(tree / "upper", setting.here().scratch / "many.sqfs")
    for kind, target in (("directory", tree), ("ext3", image), ("squashfs", squash)):
        size = peak(setting.here().sifkit("overlay", "diff", "--stat", str(target)))
        name = f"overlay diff, 1000000 files, {kind}: {size // images.MIB} MiB"
        yield Row(name, 0.0, "", None, "<= 200 MiB", size <= _MEMORY)


def peak(command: list[str]) -> int:
    """The largest resident size of ``command`` in bytes; in a process of its own, for the kernel keeps a maximum."""
    script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); " \
             "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        env=setting.here().environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(done.stdout) * 1024


def populated(name: str, files: int) -> Path:
    """A directory overlay of ``files`` empty files, a hundred to a directory."""
    overlay = setting.here().directory(name)
    for number in range(files):
        directory = overlay / "upper" / f"d{number // 100}"
        if number % 100 == 0:
            directory.mkdir(parents=True)
        (directory / f"a file with number {number}").touch()
    return overlay


def ext3(tree: Path) -> Path:
    """An ext3 image of ``tree``."""
    image = tree.with_suffix(".img")
    inodes = 2 * sum(1 for _ in (tree / "upper").iterdir()) * 101
    command = [tools.find("mke2fs") or "mke2fs", "-q", "-F", "-b", "4096", "-O", "has_journal,^extent"]
    options = ["-N", str(inodes), "-d", str(tree), str(image), "2G"]
    subprocess.run([*command, *options], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return image
