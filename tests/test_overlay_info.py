"""`overlay info` of every kind: what it holds, where it lies, what will hurt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import images
import pytest
from images import Program
from probes import needs

from overlay import record as records
from overlay.manage import edit
from overlay.section import Section
from sifkit import sif


@pytest.fixture
def changes(tmp_path: Path) -> Path:
    """A directory overlay: 2 files, 1 link, 3 directories, 2 of them opaque, 2 names deleted."""
    upper = tmp_path / "changes/upper"
    (upper / "a/b").mkdir(parents=True)
    (upper / "a/file").write_text("x")
    (upper / "a/b/file").write_text("x")
    (upper / "link").symlink_to("a")
    (upper / ".wh.gone").touch()
    os.mknod(upper / "gone too", 0o020000)
    (upper / "full").mkdir()
    (upper / "full/.wh..wh..opq").touch()
    os.setxattr(upper / "a/b", "user.overlay.opaque", b"y")
    (tmp_path / "changes/sifkit.json").write_text('{"base": "/images/base.sif"}')
    return tmp_path / "changes"


def told(sifkit: Program, target: Path | str) -> dict[str, Any]:
    found = json.loads(sifkit.ok("overlay", "info", "--json", str(target)))
    assert isinstance(found, dict)
    return found


@needs("xattr")
@pytest.mark.parametrize("kind", ["directory", "squashfs", "ext3"])
def test_counts(sifkit: Program, changes: Path, tmp_path: Path, kind: str) -> None:
    target = changes
    if kind == "squashfs":
        target = images.make_squash(changes / "upper", tmp_path / "s.sqfs")
    if kind == "ext3":
        (changes / "work").mkdir()
        target = images.make_ext3(tmp_path / "e.img", changes)
    found = told(sifkit, target)
    assert found["counts"] == {
        "files": 2, "directories": 3, "others": 1, "whiteouts": 2, "opaque": 2, "unreadable": 0,
        "spellings": {".wh. file": 1, "device 0:0": 1, ".wh..wh..opq": 1, "user.overlay.opaque": 1},
    }  # fmt: skip
    if kind != "squashfs":
        assert found["record"] == {"base": "/images/base.sif"}
    said = sifkit.ok("overlay", "info", str(target))
    assert "2 files, 3 directories, 1 others" in said
    assert "2 names, 2 opaque directories; spelled as " in said
    assert ("/images/base.sif" in said) is (kind != "squashfs")


def test_inside_a_sif(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    (changes / "upper/gone too").unlink()
    squash = images.make_squash(changes / "upper", tmp_path / "s.sqfs")
    ext = images.make_overlay_image(tmp_path / "e.img")
    path = tmp_path / "i.sif"
    sif.create(path, [sif.partition(squash, sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64")])
    done = sifkit("overlay", "info", str(path))
    assert (done.returncode, "no overlay partition" in done.stderr) == (255, True)
    sif.add(path, sif.partition(ext, sif.FsType.EXT3, sif.PartType.OVERLAY, "amd64", group=0))
    found = told(sifkit, path)
    assert (found["partition"], found["kind"], found["size"]) == (2, "ext3", ext.stat().st_size)
    assert found["offset"] > 0
    assert found["group"] is None
    assert any("in no group" in note for note in found["notes"])
    assert told(sifkit, f"{path}#1")["counts"]["files"] == 2
    assert "partition   2 of this SIF image" in sifkit.ok("overlay", "info", str(path))


@pytest.mark.parametrize(
    ("options", "words"),
    [(["-t", "ext3", "-b", "1024"], "small files slow"), (["-t", "ext4"], "extent"), (["-t", "ext2"], "no journal")],
    ids=["blocks", "ext4", "ext2"],
)
def test_small_blocks_and_features_that_apptainer_refuses(
    sifkit: Program, tmp_path: Path, options: list[str], words: str
) -> None:
    path = str(tmp_path / "i.img")
    assert images.run(images.program("mke2fs"), "-q", "-F", *options, path, "64M").returncode == 0
    notes = " ".join(told(sifkit, path)["notes"])
    assert words in notes
    assert ("Apptainer refuses it" in notes) is ("1024" not in options)


@needs("userns", "overlayfs")
@pytest.mark.parametrize("kind", ["directory", pytest.param("image", marks=needs("fuse2fs", "fuse-overlayfs"))])
def test_a_run_that_may_write_records_its_base(sifkit: Program, rootfs: Path, tmp_path: Path, kind: str) -> None:
    overlay = tmp_path / "changes"
    sifkit.ok("overlay", "create", f"{overlay}/" if kind == "directory" else str(overlay))
    assert told(sifkit, overlay)["record"] is None
    sifkit.ok("exec", "--overlay", f"{overlay}:ro", str(rootfs), "true")
    assert told(sifkit, overlay)["record"] is None
    sifkit.ok("exec", "--overlay", str(overlay), str(rootfs), "touch", "/one")
    assert f"last on     {rootfs}\n" in sifkit.ok("overlay", "info", str(overlay))
    other = '{"base": "/else", "mine": [1]}'
    if kind == "directory":
        (overlay / "sifkit.json").write_text(other)
    else:
        section = Section(str(overlay), 0, overlay.stat().st_size)
        with edit.editing(section, "") as writer:
            records.put(writer, other.encode())
    sifkit.ok("exec", "--overlay", str(overlay), str(rootfs), "touch", "/two")
    assert told(sifkit, overlay)["record"] == {"base": str(rootfs), "mine": [1]}
    assert "sifkit.json" not in sifkit.ok("exec", "--overlay", str(overlay), str(rootfs), "ls", "/")


def test_a_record_that_makes_no_sense_is_none(sifkit: Program, changes: Path) -> None:
    for text in ("[1]", "{", '{"base": 3}', "\xff" * 9):
        (changes / "sifkit.json").write_text(text)
        assert "last on" not in sifkit.ok("overlay", "info", str(changes))
