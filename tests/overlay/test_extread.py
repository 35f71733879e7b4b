"""Our reader against the tree it should see, on every variant of ext2/3/4."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from ext_variants import MIB, VARIANTS, attributes, make, tree

from overlay import e2fsprogs
from overlay.extread.reader import ExtError, ExtReader, Inode
from overlay.manage.create import create_ext3
from overlay.section import Section


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tree(tmp_path_factory.mktemp("source") / "tree")
    attributes(top)
    return top


@pytest.fixture(scope="module", params=VARIANTS)
def section(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Section:
    offset = 0 if "1k" in request.param else 36864
    return make(tmp_path_factory.mktemp("image") / "i", source, VARIANTS[request.param], offset)


@pytest.fixture
def reader(section: Section) -> Iterator[ExtReader]:
    with ExtReader(section) as opened:
        yield opened


def test_every_name_and_what_stat_says(reader: ExtReader, source: Path) -> None:
    found = dict(reader.walk())
    found = {name: inode for name, inode in found.items() if not name.startswith(b"lost+found")}
    top = os.fsencode(source)
    expected = {b""} | {
        os.path.relpath(os.path.join(here, name), top) for here, dirs, files in os.walk(top) for name in dirs + files
    }
    assert set(found) == expected
    old = reader.superblock.inode_size == 128
    for name, inode in found.items():
        if name:
            compare(inode, os.lstat(os.path.join(top, name)), old)
    assert found[b"plain"].number == found[b"plain2"].number
    assert found[b"plain"].links == 2


def compare(inode: Inode, real: os.stat_result, old: bool) -> None:
    assert inode.mode == real.st_mode
    assert (inode.uid, inode.gid) == (real.st_uid, real.st_gid)
    if not stat.S_ISDIR(real.st_mode):
        assert inode.size == real.st_size
        assert inode.links == real.st_nlink
    seconds = 10**9
    # mke2fs -d keeps whole seconds only
    assert inode.mtime_ns // seconds == real.st_mtime_ns // seconds


def test_every_byte(reader: ExtReader, source: Path) -> None:
    for name, inode in reader.walk():
        path = os.path.join(os.fsencode(source), name)
        if inode.is_file and not name.startswith(b"lost+found"):
            with open(path, "rb") as real:
                assert reader.open(inode).read() == real.read(), name
        elif inode.is_symlink:
            assert reader.readlink(inode) == os.readlink(path)


def test_random_access(reader: ExtReader, source: Path) -> None:
    chance = random.Random(3)
    for name in ("plain", "sparse"):
        inode = reader.lookup(name.encode())
        assert inode is not None
        ours, real = reader.open(inode), (source / name).open("rb")
        with ours, real:
            for _ in range(200):
                at, length = chance.randrange(inode.size + 100), chance.choice((1, 10, 5000, 300_000))
                assert ours.seek(at) == real.seek(at)
                assert ours.read(length) == real.read(length)


def test_holes_stay_holes(reader: ExtReader) -> None:
    inode = reader.lookup(b"/sparse")
    assert inode is not None
    assert sum(extent.length for extent in reader.extents(inode)) <= 5 * 2 * 65536


def test_a_file_that_is_one_hole(tmp_path: Path) -> None:
    create_ext3(str(tmp_path / "i"), 16 * MIB, sparse=True)
    section = Section(str(tmp_path / "i"), 0, 16 * MIB)
    e2fsprogs.debugfs(section, [[b"write", b"/dev/null", b"hole"], [b"sif", b"hole", b"size", b"5000000"]], write=True)
    with ExtReader(section) as reader:
        hole = reader.lookup(b"hole")
        assert hole is not None
        assert list(reader.extents(hole)) == []
        assert reader.open(hole).read() == bytes(5_000_000)


def test_attributes(reader: ExtReader, source: Path) -> None:
    for name in ("small", "plain", "a", "empty"):
        inode = reader.lookup(name.encode())
        assert inode is not None
        real = {key.encode(): os.getxattr(source / name, key) for key in os.listxattr(source / name)}
        real = {key: value for key, value in real.items() if key.startswith(b"user.")}
        assert {k: v for k, v in reader.xattrs(inode).items() if k.startswith(b"user.")} == real


def test_lookup(reader: ExtReader) -> None:
    assert reader.lookup(b"/a/b//./") is not None
    assert reader.lookup(b"/a/no") is None
    assert reader.lookup(b"/plain/x") is None
    assert list(reader.walk(b"/nowhere")) == []
    assert [name for name, _ in reader.walk(b"/fifo")] == [b""]


def test_hash_trees_are_read(source: Path, tmp_path: Path) -> None:
    section = make(tmp_path / "i", source, VARIANTS["ext3-4k"])
    e2fsprogs.e2fsck(section, "-fyD", write=True)
    with ExtReader(section) as reader:
        many = reader.lookup(b"/many")
        assert many is not None
        assert many.flags & 0x1000  # EXT4_INDEX_FL
        assert len(list(reader.listdir(many))) == 700


def test_nodes_times_and_owners_by_debugfs(tmp_path: Path) -> None:
    image = tmp_path / "i"
    create_ext3(str(image), 16 * MIB, sparse=True)
    section = Section(str(image), 0, 16 * MIB)
    commands = [
        [b"cd", b"/upper"],
        [b"mknod", b"null", b"c", b"1", b"3"], [b"mknod", b"gone", b"c", b"0", b"0"],
        [b"mknod", b"disk", b"b", b"8", b"17"],
        [b"sif", b"gone", b"uid", b"70000"], [b"sif", b"gone", b"gid", b"4000000000"],
        [b"sif", b"gone", b"mtime", b"@1500000000"], [b"sif", b"gone", b"mtime_extra", b"0x1d6f3454"],
        [b"sif", b"null", b"mtime", b"@0xfffffffe"], [b"sif", b"null", b"mtime_extra", b"1"],
        [b"ea_set", b"gone", b"trusted.overlay.opaque", b"y"],
    ]  # fmt: skip
    e2fsprogs.debugfs(section, commands, write=True)
    with ExtReader(section) as reader:
        found = dict(reader.walk(b"/upper"))
        assert found[b"null"].device == (1, 3)
        assert found[b"gone"].device == (0, 0)
        assert found[b"disk"].device == (8, 17)
        assert (found[b"gone"].uid, found[b"gone"].gid) == (70000, 4000000000)
        assert found[b"gone"].mtime_ns == 1_500_000_000 * 10**9 + (0x1D6F3454 >> 2)
        assert found[b"null"].mtime_ns == (2**32 - 2) * 10**9
        assert reader.xattrs(found[b"gone"]) == {b"trusted.overlay.opaque": b"y"}
        assert not reader.needs_recovery


def test_access_control_lists_as_setxattr_wants_them() -> None:
    from overlay.extread.xattr import _acl

    stored = bytes.fromhex("01000000010007000200050011270000040005001000050020000500")
    given = _acl(1, stored)
    assert given == bytes.fromhex(
        "0200000001000700ffffffff020005001127000004000500ffffffff10000500ffffffff20000500ffffffff"
    )


def test_refusals(tmp_path: Path, section: Section) -> None:
    with pytest.raises(ExtError, match="no ext"):
        ExtReader(section._replace(offset=section.offset + 1))
    with pytest.raises(ExtError, match="truncated"):
        ExtReader(section._replace(size=5 * MIB))
    with pytest.raises(FileNotFoundError):
        ExtReader(Section(str(tmp_path / "no"), 0, 1))
