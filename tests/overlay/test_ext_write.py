"""What is written into images, as the kernel sees it: names, kinds, owners, times, attributes, large directories."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from delta_model import comparable, of_directory, of_image
from probes import needs, only_root

from overlay import e2fsprogs
from overlay.commit import carry as commit
from overlay.extwrite.inode import Attributes
from overlay.extwrite.writer import Writer, unchanged
from overlay.manage import create
from overlay.section import Section
from overlay.superblock import ExtError

MIB = 2**20
SECOND = 10**9
PLAIN = Attributes(stat.S_IFREG | 0o644, 0, 0, 0, 0, 0)
NAMES, LONG = 600, "a long name, so that the index has two levels in blocks of 1 KiB " * 3
FOLDER = PLAIN._replace(mode=stat.S_IFDIR | 0o755)


def ignore(_text: str) -> None:
    pass


def made(path: Path, size: int, *options: str, block_size: int = 4096) -> Section:
    path.touch()
    os.truncate(path, size)
    section = Section(str(path), 0, size)
    e2fsprogs.mke2fs(section, "-J", f"size={block_size // 1024}", *options, block_size=block_size)
    return section


def sound(section: Section) -> None:
    checked = e2fsprogs.e2fsck(section, "-fn", write=False)
    assert checked.status == 0, checked.said
    assert not commit.quick_check(section)


@contextlib.contextmanager
def mounted(section: Section, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    options = f"loop,offset={section.offset},sizelimit={section.size}"
    subprocess.run(["mount", "-t", "ext3", "-o", options, section.path, str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)
        # A mount namespace that was made meanwhile may hold it a little longer.
        end = time.monotonic() + 20
        while commit.quick_check(section) and time.monotonic() < end:
            time.sleep(0.05)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty"
    path.touch()
    return path


# As mke2fs -b, what goes with it
KINDS = [
    pytest.param(4096, ("-O", create.FEATURES, "-I", "256"), id="ours"),
    pytest.param(1024, ("-O", "none,has_journal,filetype", "-I", "128"), id="1 KiB, small inodes, no index"),
    pytest.param(1024, ("-O", create.FEATURES, "-I", "128"), id="1 KiB, small inodes"),
    pytest.param(2048, ("-O", "none,has_journal,filetype,dir_index,meta_bg", "-I", "256", "-g", "4096"), id="meta_bg"),
]


@only_root
@needs("loop")
@pytest.mark.parametrize(("block_size", "options"), KINDS)
def test_as_the_kernel_sees_it(tmp_path: Path, block_size: int, options: tuple[str, ...]) -> None:
    """Everything a kernel directory can say, carried over, then seen through the kernel's ext driver."""
    section = made(tmp_path / "image", 48 * MIB, *options, "-N", "9000", block_size=block_size)
    upper = tmp_path / "upper"
    upper.mkdir()
    of_every_kind(upper)
    large = upper / "large"
    large.mkdir()
    for number in range(NAMES):
        (large / f"{number:03x} {LONG}").touch()
    commit.commit(section, str(upper), [], str(tmp_path / "undo"), ignore)
    sound(section)
    nanoseconds = "256" in options
    expected = comparable(of_directory(os.fsencode(upper)), nanoseconds=nanoseconds)
    assert comparable(of_image(section), nanoseconds=nanoseconds) == expected
    with mounted(section, tmp_path / "mnt") as there:
        seen = of_directory(os.fsencode(there / "upper"))
        assert comparable(seen, nanoseconds=nanoseconds) == expected
        for number in range(0, NAMES, 7):
            assert (there / f"upper/large/{number:03x} {LONG}").exists()
        (there / "upper/large/one more, of the kernel").write_text("x")
        (there / f"upper/large/000 {LONG}").unlink()
        os.setxattr(there / "upper/plain", "user.more", b"x" * 300)
    sound(section)
    # What the kernel has made is read, changed and removed in its turn.
    commit.discard(str(tmp_path / "undo"))
    again = tmp_path / "again"
    (again / "large").mkdir(parents=True)
    (again / "large" / "one more, of the kernel").write_text("ours")
    os.mknod(again / "plain", stat.S_IFCHR)
    commit.commit(section, str(again), [], str(tmp_path / "undo"), ignore)
    sound(section)
    model = of_image(section)
    assert b"plain" not in model
    assert model[b"large/one more, of the kernel"].content == b"ours"
    assert len([path for path in model if path.startswith(b"large/")]) == NAMES


def of_every_kind(top: Path) -> None:
    (top / "plain").write_text("plain")
    (top / "hard").hardlink_to(top / "plain")
    (top / "short").symlink_to("x" * 59)
    (top / "long").symlink_to("y" * 900)
    os.mkfifo(top / "fifo")
    for major, minor in ((1, 3), (255, 255), (300, 70000), (4095, 1048575)):
        os.mknod(top / f"c{major}", stat.S_IFCHR | 0o640, os.makedev(major, minor))
        os.mknod(top / f"b{major}", stat.S_IFBLK | 0o640, os.makedev(major, minor))
    with open(top / "sparse", "wb") as file:
        for at in (0, 50_000, 5_000_000):
            file.seek(at)
            file.write(b"z" * 5000)
        file.truncate(30_000_000)
    (top / "owned").write_bytes(b"o" * 200_000)
    os.chown(top / "owned", 70_000, 4_000_000_000)
    os.chmod(top / "owned", 0o6751)
    os.utime(top / "owned", ns=(5, 1_700_000_000_987_654_321))
    os.chown(top / "short", 12, 34, follow_symlinks=False)
    os.setxattr(top / "owned", "user.small", b"1")
    os.setxattr(top / "owned", "user.e", b"")
    os.setxattr(top / "owned", "trusted.\xff\xfe", b"t" * 30)
    os.setxattr(top / "owned", "security.capability", struct.pack("<IIIII", 0x02000001, 1, 0, 0, 0))
    entry = "<HHI"
    nobody = 0xFFFFFFFF
    users = [(1, 7, nobody), (2, 5, 70_000), (4, 5, nobody), (8, 4, 12), (16, 7, nobody), (32, 4, nobody)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack(entry, *each) for each in users)
    os.setxattr(top / "owned", "system.posix_acl_access", acl)
    (top / "folder").mkdir()
    os.setxattr(top / "folder", "system.posix_acl_default", acl)
    os.setxattr(top / "folder", "user.large", b"L" * 600)


def test_a_writer(tmp_path: Path, empty: Path) -> None:
    section = create.create_ext3(str(tmp_path / "image"), 16 * MIB, sparse=True).section
    empty.write_bytes(b"content")
    fd = os.open(empty, os.O_RDONLY)
    with Writer(section, None) as writer:
        upper = writer.resolve(b"/upper")
        folder = writer.mkdir(upper, b"folder", FOLDER)
        inner = writer.mkdir(folder, b"inner", FOLDER)
        one = writer.create(inner, b"one", fd, PLAIN._replace(mtime_ns=7))
        writer.link(folder, b"two", one)
        writer.symlink(folder, b"s" * 255, b"\xff", PLAIN._replace(mode=stat.S_IFLNK | 0o777))
        writer.set_attributes(one, unchanged(writer.inode(one), {b"user.a": b"b"})._replace(uid=5))
        other = writer.mkdir(upper, b"other", FOLDER)
        writer.rename(folder, b"inner", other, b"moved")
        assert writer.resolve(b"/upper/other/moved/one") == one
        assert writer.xattrs(one) == {b"user.a": b"b"}
        assert writer.inode(one).links == 2
        writer.finish()
    sound(section)
    model = of_image(section)
    link = b"folder/" + b"s" * 255
    assert set(model) == {b"", b"folder", b"folder/two", link, b"other", b"other/moved", b"other/moved/one"}
    assert (model[b"folder/two"].content, model[b"folder/two"].owner[0]) == (b"content", 5)
    free = commit.free(section)
    with Writer(section, None) as writer:
        upper = writer.resolve(b"/upper")
        writer.unlink(upper, b"folder")
        assert writer.resolve(b"/upper/folder") == 0
        writer.unlink(upper, b"other")
        with pytest.raises(FileNotFoundError):
            writer.unlink(upper, b"other")
        writer.finish()
    sound(section)
    assert set(of_image(section)) == {b""}
    assert commit.free(section).inodes == free.inodes + 5
    os.close(fd)


@pytest.mark.parametrize("kept", [0, 1, 2, 200, 599])
@pytest.mark.parametrize("block_size", [1024, 4096])
def test_a_large_directory_loses_names(tmp_path: Path, empty: Path, block_size: int, kept: int) -> None:
    """All of them, nearly all, so many that it needs no index any more, one."""
    section = made(tmp_path / "image", 16 * MIB, "-O", "none,has_journal,filetype,dir_index", block_size=block_size)
    fd = os.open(empty, os.O_RDONLY)
    with Writer(section, None) as writer:
        folder = writer.mkdir(writer.resolve(b"/"), b"folder", FOLDER)
        for number in range(NAMES):
            writer.create(folder, b"some name %d" % number, fd, PLAIN)
        writer.finish()
    sound(section)
    with Writer(section, None) as writer:
        folder = writer.resolve(b"/folder")
        for number in range(kept, NAMES):
            writer.unlink(folder, b"some name %d" % number)
        writer.finish()
    os.close(fd)
    sound(section)
    names = {path for path in of_image(section, b"/folder") if path}
    assert names == {b"some name %d" % number for number in range(kept)}


def test_without_finish_nothing_happens(tmp_path: Path) -> None:
    section = create.create_ext3(str(tmp_path / "image"), 16 * MIB, sparse=True).section
    before = Path(section.path).read_bytes()
    with Writer(section, str(tmp_path / "undo")) as writer:
        writer.mkdir(writer.resolve(b"/upper"), b"folder", FOLDER)
    assert Path(section.path).read_bytes() == before
    assert not (tmp_path / "undo").exists()


def test_what_ext3_cannot_hold(tmp_path: Path, empty: Path) -> None:
    section = made(tmp_path / "image", 16 * MIB, "-O", create.FEATURES, "-I", "128", block_size=1024)
    fd = os.open(empty, os.O_RDWR)
    with Writer(section, None) as writer:
        for name, value in ((b"user.x", b"v" * 1000), (b"system.strange", b"")):
            with pytest.raises(OSError, match="extended attribute") as caught:
                writer.create(writer.root, b"x", fd, PLAIN._replace(xattrs={name: value}))
            assert caught.value.errno in (errno.ENOSPC, errno.ENOTSUP)
        with pytest.raises(OSError, match="longer than a block"):
            writer.symlink(writer.root, b"s", b"t" * 1024, PLAIN._replace(mode=stat.S_IFLNK | 0o777))
        os.truncate(fd, 2**40)
        with pytest.raises(OSError, match="larger than ext3"):
            writer.create(writer.root, b"big", fd, PLAIN)
        os.truncate(fd, 2**31)
        writer.create(writer.root, b"two GiB of nothing", fd, PLAIN)
    os.close(fd)


def test_images_that_are_not_written(tmp_path: Path) -> None:
    ext4 = made(tmp_path / "ext4", 16 * MIB, "-O", "none,has_journal,extent,filetype")
    with pytest.raises(ExtError, match="features that ext3 lacks: extent"):
        Writer(ext4, None)
    ours = create.create_ext3(str(tmp_path / "image"), 16 * MIB, sparse=True).section
    e2fsprogs.debugfs(ours, [[b"ssv", b"state", b"0"]], write=True)
    with pytest.raises(ExtError, match="not left clean"):
        Writer(ours, None)


def test_a_block_of_attributes_that_two_files_share(tmp_path: Path) -> None:
    """The kernel lets inodes share such a block; libext2fs and we do not make them, but must count right."""
    section = made(tmp_path / "image", 16 * MIB, "-O", create.FEATURES, "-I", "128", block_size=1024)
    source = os.open("/dev/null", os.O_RDONLY)
    with Writer(section, None) as writer:
        for name in (b"a", b"b"):
            shared = PLAIN._replace(xattrs={b"user.x": b"shared"})
            writer.create(writer.root, name, source, shared, os.stat("/dev/null"))
        writer.finish()
    os.close(source)
    with Writer(section, None) as writer:
        first, second = (writer.inode(writer.lookup(writer.root, name)) for name in (b"a", b"b"))
    # Let both use the block of the first, and free the other, as the kernel would have left it.
    place = first.acl_block * 1024
    e2fsprogs.debugfs(section, [
        [b"sif", b"/b", b"file_acl", b"%d" % first.acl_block],
        [b"freeb", b"%d" % second.acl_block],
    ], write=True)  # fmt: skip
    with open(section.path, "r+b") as file:
        file.seek(place + 4)
        file.write(struct.pack("<I", 2))
    assert e2fsprogs.e2fsck(section, "-fy", write=True).status == e2fsprogs.FSCK_MENDED  # debugfs leaves a count wrong
    sound(section)
    for name in (b"a", b"b"):
        free = commit.free(section).bytes
        with Writer(section, None) as writer:
            assert writer.xattrs(writer.lookup(writer.root, name)) == {b"user.x": b"shared"}
            writer.unlink(writer.root, name)
            writer.finish()
        sound(section)
        assert commit.free(section).bytes == free + (1024 if name == b"b" else 0)
