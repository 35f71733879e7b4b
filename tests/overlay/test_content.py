"""What an ext3 overlay holds: looked at once and remembered, and unpacked."""

from __future__ import annotations

import os
from pathlib import Path

import images
import pytest
from images import MIB
from probes import needs

from overlay.extread import unpack as ext_unpack
from overlay.manage.create import create_ext3
from overlay.section import Section
from overlay.stack import content

pytestmark = needs("mke2fs", "debugfs", "xattr")


def awkward_image(place: Path, tree: Path) -> Section:
    """An overlay image whose upper/ is the awkward tree."""
    (place / "whole/work").mkdir(parents=True)
    os.rename(tree, place / "whole/upper")
    made = images.make_ext3(place / "full.img", place / "whole")
    os.rename(place / "whole/upper", tree)
    return Section(str(made), 0, made.stat().st_size)


def test_content_is_remembered_until_the_image_changes(tmp_path: Path) -> None:
    new = create_ext3(f"{tmp_path}/over.img", 64 * MIB, sparse=True).section
    assert content.look(new, remember=True).empty
    section = awkward_image(tmp_path, images.make_awkward(tmp_path / "awkward"))
    seen = content.look(section, remember=True)
    assert (seen.empty, seen.plain, seen.owners) == (False, True, {(os.getuid(), os.getgid())})
    assert content.look(section, remember=False) == seen
    attribute = next(name for name in os.listxattr(section.path) if "content" in name)
    os.setxattr(section.path, attribute, b"00000000-0 0100 1 2 3 4 5 ")
    assert content.look(section, remember=False) == seen


@pytest.mark.parametrize(
    ("name", "plain"), [("deep/.wh.gone", False), ("deep/.wh..wh..opq", False), ("a.wh.b", True), ("ordinary", True)]
)
def test_marker_files_are_seen(tmp_path: Path, name: str, plain: bool) -> None:
    """Also by the look at raw blocks, which knows no names: one that only contains the letters costs a scan."""
    (tmp_path / "whole/upper/deep").mkdir(parents=True)
    (tmp_path / "whole/upper" / name).write_bytes(b"")
    made = images.make_ext3(tmp_path / "i", tmp_path / "whole")
    seen = content.look(Section(str(made), 0, made.stat().st_size), remember=False)
    assert (seen.plain, seen.attributes, seen.empty) == (plain, False, False)


@pytest.mark.parametrize("inode_size", [128, 256])
@pytest.mark.parametrize("length", [5, 900])
def test_attributes_anywhere_are_seen(tmp_path: Path, inode_size: int, length: int) -> None:
    """In inodes and in blocks of their own; what has been removed does not count."""
    (tmp_path / "whole/upper/deep").mkdir(parents=True)
    for number in range(300):
        (tmp_path / f"whole/upper/deep/{number}").write_bytes(b"x")
    made = tmp_path / "over.img"
    features = f"none,{images.FEATURES['ext3']}"
    options = ("-q", "-O", features, "-I", str(inode_size), "-d", str(tmp_path / "whole"))
    assert images.run(images.program("mke2fs"), *options, str(made), "64M").returncode == 0
    section = Section(str(made), 0, made.stat().st_size)
    assert not content.look(section, remember=True).attributes
    value = "v" * length
    for command, there in (
        (f"ea_set /upper/deep/77 user.colour {value}", True),
        ("rm /upper/deep/77", False),
        (f"ea_set / user.colour {value}", True),
    ):
        images.run("/usr/sbin/debugfs", "-w", "-R", command, str(made))
        for _ in range(2):
            assert content.look(section, remember=True).attributes is there


def test_unpacked_content_is_what_the_image_holds(tmp_path: Path) -> None:
    tree = images.make_awkward(tmp_path / "awkward")
    (tmp_path / "out").mkdir()
    ext_unpack.unpack(awkward_image(tmp_path, tree), str(tmp_path / "out"))
    compared = images.run("diff", "-r", "--no-dereference", str(tree), str(tmp_path / "out"))
    assert [line for line in compared.stdout.splitlines() if "fifo" not in line and "socket" not in line] == []
    for path in ("links/hard", "kinds/setuid", "kinds/private", "kinds/old", "kinds/holes"):
        ours, theirs = os.lstat(tmp_path / "out" / path), os.lstat(tree / path)
        assert (ours.st_mode, ours.st_nlink) == (theirs.st_mode, theirs.st_nlink)
        assert ours.st_mtime_ns // 10**9 == theirs.st_mtime_ns // 10**9  # mke2fs -d keeps whole seconds
    assert os.lstat(tmp_path / "out/kinds/holes").st_blocks < 100
    assert os.getxattr(tmp_path / "out/kinds/empty", "user.color") == b"blue\0green"
