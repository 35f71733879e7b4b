"""Hard links in a squashfs: what we write and read, beside squashfs-tools and a mount."""

from __future__ import annotations

import os
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from images import Program
from probes import needs

from overlay.section import Section
from overlay.tree.image import SquashTree
from sifkit.image.zstd import unzstd

# Names of one file: in one directory and in others, empty, with a fragment and with blocks, and not only files.
SAME = (("a", "b", "d/c"), ("big", "d/e/big"), ("nothing", "d/nothing"), ("link", "d/link"), ("pipe", "d/e/pipe"))
ALONE = ("alone", "d/e/alone")


@pytest.fixture
def changes(tmp_path: Path) -> Path:
    upper = tmp_path / "changes/upper"
    (upper / "d/e").mkdir(parents=True)
    (tmp_path / "changes/work").mkdir()
    (upper / "a").write_bytes(b"text")
    (upper / "big").write_bytes(os.urandom(300_000))
    (upper / "nothing").touch()
    (upper / "link").symlink_to("target")
    os.mkfifo(upper / "pipe")
    for first, *others in SAME:
        for other in others:
            os.link(upper / first, upper / other, follow_symlinks=False)
    for name in ALONE:
        (upper / name).write_bytes(b"text")
    return tmp_path / "changes"


def facts(image: Path) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """Link counts by name, and the names that are one file, as our reader has them."""
    links, same = {}, defaultdict(list)
    with SquashTree(Section(str(image), 0, image.stat().st_size), unzstd) as tree:
        for path, entry in tree.walk():
            links[os.fsdecode(path)] = entry.links
            same[entry.inode].append(os.fsdecode(path))
    return links, sorted(tuple(sorted(names)) for names in same.values() if len(names) > 1)


@pytest.mark.parametrize("verb", ["freeze", "convert"])
@needs("mksquashfs", "unsquashfs")
def test_as_squashfs_tools_have_them(sifkit: Program, changes: Path, tmp_path: Path, verb: str) -> None:
    ours, theirs = tmp_path / "ours.sqfs", tmp_path / "theirs.sqfs"
    words = ["-o", str(ours)] if verb == "freeze" else [str(ours)]
    sifkit.ok("overlay", verb, str(changes), *words)
    subprocess.run(["mksquashfs", str(changes / "upper"), str(theirs), "-quiet", "-no-progress"], check=True)
    assert facts(ours) == facts(theirs)
    links, same = facts(ours)
    assert same == sorted(tuple(sorted(names)) for names in SAME)
    assert [links[name] for name in ("a", "d/c", "pipe", *ALONE, "d", "d/e")] == [3, 3, 2, 1, 1, 3, 2]
    subprocess.run(["unsquashfs", "-q", "-n", "-d", str(tmp_path / "out"), str(ours)], check=True)
    assert {name: os.lstat(tmp_path / "out" / name).st_nlink for name in links} == links


@needs("userns", "overlayfs", "squashfuse")
def test_as_a_mount_shows_them(sifkit: Program, changes: Path, rootfs: Path, tmp_path: Path) -> None:
    image = tmp_path / "changes.sqfs"
    sifkit.ok("overlay", "freeze", str(changes), "-o", str(image))
    # Not whether they are one file: squashfuse numbers files by their names.
    script = "stat -c '%h %n' /a /b /d/c /big /nothing /link /pipe /alone"
    said = sifkit.ok("exec", "--overlay", f"{image}:ro", str(rootfs), "sh", "-c", script)
    assert said == "3 /a\n3 /b\n3 /d/c\n2 /big\n2 /nothing\n2 /link\n2 /pipe\n1 /alone\n"


def test_they_are_listed_and_counted(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    """By name, in a squashfs as in the directory it was made of."""
    image = tmp_path / "changes.sqfs"
    sifkit.ok("overlay", "freeze", str(changes), "-o", str(image))
    for target in (changes, image):
        lines = sifkit.ok("overlay", "ls", "-lR", str(target)).splitlines()
        listed = {line.split()[-1]: line.split()[1] for line in lines}
        assert [listed[name] for name in ("a", "d/c", "big", "d/nothing", "d/e/pipe", "alone")] == list("332221")
        assert "holds       9 files, 2 directories, 4 others\n" in sifkit.ok("overlay", "info", str(target))
