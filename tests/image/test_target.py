"""TARGET: what a text names."""

from __future__ import annotations

import os
from pathlib import Path

import images
import pytest

from overlay.failure import Failure
from overlay.probe import Kind
from sifkit import sif
from sifkit.image import target


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    (tmp_path / "changes" / "upper").mkdir(parents=True)
    (tmp_path / "changes" / "upper" / "file").write_text("x")
    return tmp_path / "changes"


@pytest.fixture
def image(tmp_path: Path, upper: Path) -> Path:
    """A SIF image: 1 root, 2 a squashfs overlay, 3 an ext3 overlay, 4 text."""
    squash = images.make_squash(upper / "upper", tmp_path / "s.sqfs")
    ext = images.make_overlay_image(tmp_path / "e.img", upper / "upper")
    (tmp_path / "text").write_text("text")
    path = tmp_path / "image.sif"
    sif.create(path, [sif.partition(squash, sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64")])
    sif.add(path, sif.partition(squash, sif.FsType.SQUASHFS, sif.PartType.OVERLAY, "amd64", group=1))
    sif.add(path, sif.partition(ext, sif.FsType.EXT3, sif.PartType.OVERLAY, "amd64", group=1))
    return path


def names(text: str) -> set[bytes]:
    with target.layer(target.resolve(text)) as tree:
        return {path for path, _ in tree.walk()}


def test_every_kind(image: Path, upper: Path, tmp_path: Path) -> None:
    for name, kind, partition in (
        ("changes", Kind.DIRECTORY, 0), ("e.img", Kind.EXT3, 0), ("s.sqfs", Kind.SQUASHFS, 0),
        ("image.sif", Kind.EXT3, 3), ("image.sif#2", Kind.SQUASHFS, 2), ("image.sif#1", Kind.SQUASHFS, 1),
    ):  # fmt: skip
        found = target.resolve(str(tmp_path / name))
        assert (found.kind, found.partition) == (kind, partition)
        assert (found.section.offset > 0) is bool(partition)
        assert names(str(tmp_path / name)) == {b"file"}
    assert target.resolve(str(image)).partitions == (2, 3)
    for name in ("changes/upper", "s.sqfs", "image.sif", "image.sif#2"):
        with target.base(str(tmp_path / name)) as tree:
            assert tree.lookup(b"file")


def test_the_overlay_of_an_image_is_the_one_that_runs_write(image: Path) -> None:
    """Not the one that no run shows, however low its ID."""
    sif.change(image, 2, group=0)
    sif.delete(image, 3)
    ext = image.with_name("e.img")
    stray = sif.add(image, sif.partition(ext, sif.FsType.EXT3, sif.PartType.OVERLAY, "amd64", group=0)).ids[0]
    assert target.resolve(str(image)).partition == stray
    sif.add(image, sif.partition(ext, sif.FsType.EXT3, sif.PartType.OVERLAY, "amd64", group=1))
    assert (stray, target.resolve(str(image)).partition) == (3, 4)


def test_a_file_may_be_called_like_a_partition(image: Path) -> None:
    odd = image.with_name("image.sif#2")
    images.make_overlay_image(odd)
    assert target.resolve(str(odd)).partition == 0


def test_splitting(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:", "b").mkdir(parents=True)
    Path("a").mkdir()
    assert target.split("a:/b") == ("a", "/b")
    assert target.split("a:/b:/c") == ("a:/b", "/c")
    assert target.split("a:/x:/c") == ("a", "/x:/c")
    assert target.split("image.sif#3:/c:/") == ("image.sif#3", "/c:/")
    for text in ("none:/b", "a", ":/b", "a:b", "e.img#3:/x"):
        assert target.split(text) == (text, None) or text == "e.img#3:/x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no name"), ("none", "there is no none"), ("none#3", "there is no none"),
        ("empty", "no directory upper/"), ("text", "neither a directory nor"), ("e.img#3", "no SIF image"),
        ("image.sif#9", "no object 9"), ("bare.sif", "no overlay partition"), ("bare.sif#2", "no object 2"),
        ("cut.img", "truncated"), ("fifo", "named pipe"),
    ],
)  # fmt: skip
def test_failures(text: str, said: str, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    os.mkfifo("fifo")
    sif.create(Path("bare.sif"), [sif.partition(Path("s.sqfs"), sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64")])
    Path("cut.img").write_bytes(Path("e.img").read_bytes()[:1_000_000])
    with pytest.raises(Failure, match=said):
        target.resolve(text)
