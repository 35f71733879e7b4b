"""Carrying upper directories into images: deletions, links, spellings, odd trees."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from commit_carry import carry, delete, names, opaque
from delta_model import of_image

from overlay.commit import carry as commit
from overlay.extread.reader import ExtReader
from overlay.manage import create
from overlay.section import Section

MIB = 2**20


@pytest.fixture
def section(tmp_path: Path) -> Section:
    return create.create_ext3(str(tmp_path / "image"), 16 * MIB, sparse=True).section


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    path = tmp_path / "upper"
    path.mkdir()
    return path


def raw_xattrs(section: Section, path: bytes) -> dict[bytes, bytes]:
    with ExtReader(section) as reader:
        inode = reader.lookup(b"/upper/" + path)
        assert inode is not None
        return reader.xattrs(inode)


def test_a_whiteout_is_kept_only_where_a_lower_shows_the_name(section: Section, upper: Path, tmp_path: Path) -> None:
    top, base = tmp_path / "top", tmp_path / "base"
    for path in (top / "d/in top", base / "d/in base", base / "d/hidden", base / "cut/off", base / "f"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    delete(top / "d/hidden")
    opaque(top / "cut")
    (top / "f").mkdir()
    for name in ("in top", "in base", "hidden", "nowhere"):
        delete(upper / "d" / name)
    delete(upper / "cut/off")
    delete(upper / "f")
    delete(upper / "nowhere")
    report = carry(section, upper, top, base)
    model = of_image(section)
    assert {path for path, each in model.items() if each.is_whiteout} == {b"d/in top", b"d/in base", b"f"}
    assert report.deleted == 3
    assert len({each.same for each in model.values() if each.is_whiteout}) == 1  # one inode for all of them


def test_without_knowledge_of_the_lowers_deletions_are_kept(section: Section, upper: Path) -> None:
    delete(upper / "gone")
    opaque(upper / "replaced")
    carry(section, upper, known=False)
    assert of_image(section)[b"gone"].is_whiteout
    assert of_image(section)[b"replaced"].opaque
    carried = upper / "replaced"
    carried.mkdir()
    delete(carried / "inside")  # below an opaque directory nothing shows through
    carry(section, upper, known=False)
    assert names(section) == {b"gone", b"replaced"}
    assert of_image(section)[b"replaced"].opaque


def test_opaque_directories(section: Section, upper: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "etc/conf").mkdir(parents=True)
    (upper / "etc").mkdir()
    (upper / "etc/old").touch()
    (upper / "etc/conf").mkdir()
    (upper / "etc/conf/deep").touch()
    carry(section, upper, base)
    assert not of_image(section)[b"etc"].opaque
    opaque(upper / "etc")
    (upper / "etc/new").touch()
    (upper / "etc/conf").mkdir()
    opaque(upper / "fresh")  # the kernel marks every new directory so
    carry(section, upper, base)
    assert names(section) == {b"etc", b"etc/new", b"etc/conf", b"fresh"}
    assert raw_xattrs(section, b"etc") == {b"user.overlay.opaque": b"y"}
    assert not raw_xattrs(section, b"etc/conf")
    assert not raw_xattrs(section, b"fresh")  # there is nothing it could hide


def test_marks_of_drivers_are_not_carried_over(section: Section, upper: Path) -> None:
    (upper / "f").touch()
    for name in ("user.overlay.origin", "user.overlay.impure", "user.fuseoverlayfs.opaque", "user.mine"):
        os.setxattr(upper / "f", name, b"x")
    carry(section, upper)
    assert raw_xattrs(section, b"f") == {b"user.mine": b"x"}


def test_deletions_as_fuse_overlayfs_spells_them(section: Section, upper: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "d").mkdir(parents=True)
    (base / "lower").touch()
    for name in ("gone", "lower", "d/inside"):
        (upper / name).parent.mkdir(exist_ok=True)
        (upper / name).touch()
    carry(section, upper, base)
    for name in (".wh.gone", ".wh.lower"):
        (upper / name).touch()
    (upper / "d").mkdir()
    (upper / "d/.wh..wh..opq").touch()
    carry(section, upper, base)
    model = of_image(section)
    assert set(model) == {b"", b"lower", b"d"}
    assert model[b"lower"].is_whiteout
    assert model[b"d"].opaque


def links(section: Section, *paths: bytes) -> list[int]:
    model = of_image(section)
    return [len({model[path].same for path in paths}), *(model[path].same for path in paths)]  # type: ignore[list-item]


def test_links(section: Section, upper: Path) -> None:
    (upper / "a").write_text("one")
    (upper / "b").hardlink_to(upper / "a")
    (upper / "d").mkdir()
    (upper / "d/c").hardlink_to(upper / "a")
    carry(section, upper)
    together, *before = links(section, b"a", b"b", b"d/c")
    assert together == 1
    # Copied up one by one and changed alike, as chmod -R does it: they are one file again.
    (upper / "d").mkdir()
    for name in ("a", "b", "d/c"):
        (upper / name).write_text("one")
        os.chmod(upper / name, 0o600)
        os.utime(upper / name, (5, 5))
    carry(section, upper)
    assert links(section, b"a", b"b", b"d/c")[0] == 1
    # Written through one name: the others keep what they held, as the session has shown it.
    (upper / "a").write_text("two")
    carry(section, upper)
    model = of_image(section)
    assert [model[path].content for path in (b"a", b"b", b"d/c")] == [b"two", b"one", b"one"]
    assert links(section, b"b", b"d/c")[0] == 1
    # All brought up together by a link made in the session.
    (upper / "b").write_text("three")
    (upper / "e").hardlink_to(upper / "b")
    (upper / "a").hardlink_to(upper / "b")
    delete(upper / "d/c")
    carry(section, upper)
    assert links(section, b"a", b"b", b"e")[0] == 1
    with ExtReader(section) as reader:
        found = reader.lookup(b"/upper/a")
        assert found is not None
        assert found.links == 3
    assert b"d/c" not in of_image(section)
    assert before


def test_a_changed_file_keeps_its_inode(section: Section, upper: Path) -> None:
    (upper / "f").write_bytes(b"x" * 100_000)
    carry(section, upper)
    _, before = links(section, b"f")
    free = commit.free(section)
    (upper / "f").write_bytes(b"y" * 50)
    report = carry(section, upper)
    assert (report.added, report.changed, report.deleted) == (0, 1, 0)
    assert links(section, b"f") == [1, before]
    assert commit.free(section).bytes > free.bytes


def test_only_attributes_change(section: Section, upper: Path) -> None:
    """What was copied up for a chmod is not written again: an image that is nearly full can take it."""
    data = os.urandom(3 * MIB)
    (upper / "f").write_bytes(data)
    os.utime(upper / "f", ns=(7, 1_600_000_000_123_456_789))
    carry(section, upper)
    free = commit.free(section)
    (upper / "f").write_bytes(data)
    os.utime(upper / "f", ns=(7, 1_600_000_000_123_456_789))
    os.chmod(upper / "f", 0o4755)
    os.setxattr(upper / "f", "user.x", b"y")
    report = carry(section, upper)
    assert commit.free(section) == free
    assert report.bytes_written < MIB
    found = of_image(section)[b"f"]
    assert (stat.S_IMODE(found.mode), found.content, found.xattrs) == (0o4755, data, ((b"user.x", b"y"),))
    # As fuse2fs shows it, without the fraction of its time; directories, too, are copied up so.
    (upper / "f").write_bytes(data)
    os.utime(upper / "f", (7, 1_600_000_000))
    carry(section, upper)
    assert of_image(section)[b"f"].mtime_ns == 1_600_000_000_123_456_789
    # The same time and size, and other contents.
    (upper / "f").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(upper / "f", ns=(7, 1_600_000_000_123_456_789))
    carry(section, upper)
    assert of_image(section)[b"f"].content == data[:-1] + bytes([data[-1] ^ 1])


def test_everything_has_changed_at_the_time_of_the_commit(section: Section, upper: Path) -> None:
    """A session that is carried over later tells by this time that it comes too late."""
    (upper / "d").mkdir()
    (upper / "d/f").touch()
    before = time.time_ns()
    carry(section, upper)
    with ExtReader(section) as reader:
        for path in (b"/upper/d", b"/upper/d/f"):
            found = reader.lookup(path)
            assert found is not None
            assert before <= found.ctime_ns <= time.time_ns()


def test_files_become_directories_and_back(section: Section, upper: Path) -> None:
    (upper / "x").write_text("file")
    opaque(upper / "y")
    (upper / "y/inside").write_text("x")
    carry(section, upper)
    opaque(upper / "x")
    (upper / "x/inside").write_text("x")
    (upper / "y").symlink_to("x")
    carry(section, upper)
    assert names(section) == {b"x", b"x/inside", b"y"}
    assert of_image(section)[b"y"].content == b"x"


def test_a_directory_deeper_than_a_path_may_be_long(section: Section, upper: Path) -> None:
    here = os.getcwd()
    name = "n" * 250
    try:
        os.chdir(upper)
        for _ in range(30):
            os.mkdir(name)
            os.chdir(name)
        Path("leaf").write_text("leaf")
        Path("other").symlink_to("leaf")
    finally:
        os.chdir(here)
    assert commit.needs(section, str(upper)).inodes == 32
    carry(section, upper)
    model = of_image(section)
    deepest = b"/".join([name.encode()] * 30)
    assert model[deepest + b"/leaf"].content == b"leaf"
    assert len(model) == 33
