"""One tree through every kind of image, compared entry by entry; compressions; damage."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import images
import probes
import pytest
from trees import facts

from overlay.section import Section
from overlay.squash.unpack import SquashError, unpacker
from overlay.tree import layer as tree_layer
from overlay.tree.image import ExtTree, SquashTree
from overlay.tree.view import DirectoryTree, Tree
from sifkit.image.zstd import unzstd


def section(image: Path, offset: int = 0) -> Section:
    return Section(str(image), offset, image.stat().st_size - offset)


def opened(path: Path) -> Tree:
    if path.is_dir():
        return DirectoryTree(str(path))
    return SquashTree(section(path), unzstd) if path.suffix == ".sqfs" else ExtTree(section(path))


def test_the_same_tree_in_every_kind(awkward: Path, same_tree: Path) -> None:
    with DirectoryTree(str(awkward)) as tree:
        expected = facts(tree)
    with opened(same_tree) as tree:
        found = facts(tree)
    assert list(found) == sorted(found, key=lambda path: path.split(b"/"))
    assert found.keys() == expected.keys()
    for path, said in expected.items():
        assert found[path] == said, path


@pytest.mark.parametrize("compression", ["gzip", "xz", "lz4", "zstd", "lzo", "none"])
def test_compressions_and_offsets(tmp_path: Path, compression: str) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    chance = random.Random(compression)
    (top / "large").write_bytes(b"abcd" * 100_000 + chance.randbytes(300_000) + bytes(600_000))
    (top / "tail").write_bytes(b"0123456789" * 5000)
    (top / "tail2").write_bytes(b"xyz" * 1234)
    for number in range(2000):
        (top / f"name {number}").symlink_to(f"target {number}")
    image = tmp_path / "i.sqfs"
    options = ["-noI", "-noD", "-noF", "-noX"] if compression == "none" else ["-comp", compression]
    images.make_squash(top, image, *options)
    moved = tmp_path / "moved"
    moved.write_bytes(bytes(777) + image.read_bytes() + b"behind")
    if compression == "lzo":
        with pytest.raises(SquashError, match="lzo, cannot be read"):
            SquashTree(section(moved, 777), unzstd)
        return
    with SquashTree(section(moved, 777), unzstd) as tree, DirectoryTree(str(top)) as real:
        assert facts(tree) == facts(real)


def test_zstd_is_the_callers() -> None:
    with pytest.raises(SquashError, match="zstd, cannot be read"):
        unpacker("zstd", None)


@probes.needs("xattr")
def test_attributes_of_a_squashfs(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    for number in range(700):  # more than one block of lists
        (top / str(number)).touch()
        os.setxattr(top / str(number), "user.number", b"%d" % number)
        os.setxattr(top / str(number), "user.shared", b"v" * 200)
    os.setxattr(top, "user.overlay.opaque", b"y")
    images.make_squash(top, tmp_path / "i.sqfs")
    with SquashTree(section(tmp_path / "i.sqfs"), unzstd) as tree:
        assert tree.xattrs(tree.top)[b"user.overlay.opaque"] == b"y"
        for _, entry in tree.walk():
            assert tree.xattrs(entry)[b"user.number"] == entry.name
            assert tree.xattrs(entry)[b"user.shared"] == b"v" * 200


@probes.only_root
def test_devices(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    nodes = {"c": (stat.S_IFCHR, 5, 300), "b": (stat.S_IFBLK, 259, 70000), "w": (stat.S_IFCHR, 0, 0)}
    for name, (kind, major, minor) in nodes.items():
        os.mknod(top / name, kind | 0o600, os.makedev(major, minor))
    os.chown(top / "w", 70000, 4_000_000_000)
    images.make_squash(top, tmp_path / "i.sqfs")
    images.make_ext3(tmp_path / "i.img", top)
    with DirectoryTree(str(top)) as tree:
        expected = facts(tree)
    for image in ("i.sqfs", "i.img"):
        with opened(tmp_path / image) as tree:
            assert facts(tree) == expected


def test_damage_gives_a_named_error(awkward_squash: Path, tmp_path: Path) -> None:
    original = awkward_squash.read_bytes()
    image = tmp_path / "i.sqfs"
    chance = random.Random(7)
    refused = 0
    for turn in range(120):
        data = bytearray(original)
        for _ in range(chance.choice((1, 5, 50))):
            # The superblock, or the tables at the end.
            at = chance.randrange(96) if turn % 3 == 0 else chance.randrange(max(96, len(data) - 6000), len(data) - 4)
            data[at : at + 2] = chance.choice((b"\xff\xff", b"\0\0", chance.randbytes(2)))
        image.write_bytes(data)
        try:
            with SquashTree(section(image), unzstd) as tree:
                for _, entry in tree.walk():
                    tree.xattrs(entry)
                    if entry.is_file and entry.size < 10**7:
                        with tree.open(entry) as stream:
                            stream.read()
        except SquashError as error:
            assert str(error)
            refused += 1
    assert refused > 30


def test_lookup(awkward: Path, same_tree: Path) -> None:
    with opened(same_tree) as tree:
        for name in images.AWKWARD_NAMES:
            found = tree.lookup(b"/names//./" + name)
            assert found is not None
            with tree.open(found) as stream:
                assert stream.read() == b"content of " + name
        assert tree.lookup(b"names/none") is None
        assert tree.lookup(b"links/target/x") is None
        assert tree.lookup(b"/") == tree.top


def spelled(top: Path, device: bool) -> Path:
    """A layer that deletes ``gone``, replaces four directories, each spelled otherwise, and adds a file."""
    top.mkdir()
    for name in ("a", "b", "c", "d"):
        (top / name).mkdir()
        (top / name / "new").touch()
    if device:
        os.mknod(top / "gone", stat.S_IFCHR)
    else:
        (top / ".wh.gone").touch(0o700)
    os.setxattr(top / "a", "user.overlay.opaque", b"y")
    os.setxattr(top / "b", "user.fuseoverlayfs.opaque", b"y")
    (top / "c" / ".wh..wh..opq").touch()
    (top / "d" / ".wh..opq").touch()
    (top / "e").mkdir()
    (top / ".wh.e").touch()
    (top / "f").mkdir()
    (top / "f" / ".wh.").touch()  # no mark: it names nothing
    os.setxattr(top / "f", "user.overlay.opaque", b"x")
    return top


@probes.needs("xattr")
@pytest.mark.parametrize("device", [True, False], ids=["device", "file"])
@pytest.mark.parametrize("kind", ["directory", "i.sqfs", "i.img"])
def test_every_spelling_of_whiteouts(tmp_path: Path, kind: str, device: bool) -> None:
    path = spelled(tmp_path / "tree", device)
    if kind == "i.sqfs":
        path = images.make_squash(path, tmp_path / kind)
    elif kind == "i.img":
        path = images.make_ext3(tmp_path / kind, path)
    unreadable: list[tree_layer.Unreadable] = []
    with opened(path) as tree:
        told = [(step.path, step.what, step.spelling) for step in tree_layer.steps(tree, unreadable)]
    spelling = tree_layer.DEVICE_SPELLING if device else tree_layer.FILE_SPELLING
    assert [entry for entry in told if entry[0] != b"lost+found"] == [
        (b"", "present", ""),
        *[
            (name + rest, "present" if rest else "opaque", "")
            for name in (b"a", b"b", b"c", b"d")
            for rest in (b"", b"/new")
        ],
        (b"e", "opaque", ""), (b"f", "present", ""), (b"f/.wh.", "present", ""), (b"gone", "deleted", spelling),
    ]  # fmt: skip
    assert not unreadable
