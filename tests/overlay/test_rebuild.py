"""Overlays rebuilt with more inodes: everything is carried over, and no moment is the wrong one to be killed in."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import images
import pytest
from images import Program
from killing import die, disk_full, outcome
from probes import needs

from overlay import e2fsprogs, superblock
from overlay.extread.reader import ExtReader
from overlay.failure import Failure
from overlay.locks import lock
from overlay.manage.check import Outcome, check
from overlay.manage.create import create_ext3
from overlay.manage.resize import Wish, resize_file
from overlay.section import Section
from overlay.tree.image import ExtTree
from sifkit import sif
from sifkit.image.resize import resize_embedded
from sifkit.image.target import resolve

MIB = 2**20


def of(path: str | Path) -> Section:
    return Section(str(path), 0, os.stat(path).st_size)


def everything(section: Section) -> dict[bytes, object]:
    """All that an ext image says of every inode, whatever its number; hard links by their first name."""
    first: dict[int, bytes] = {}
    told: dict[bytes, object] = {}
    with ExtReader(section) as reader, ExtTree(section) as tree:
        for path, entry in [(b"", tree.top), *tree.walk()]:
            inode = reader.inode(entry.inode)
            contents: object = None
            if entry.is_file:
                with tree.open(entry) as stream:
                    contents = stream.read()
            elif entry.is_symlink:
                contents = tree.readlink(entry)
            links = 0 if inode.is_directory and path != b"" else inode.links
            whiteout = stat.S_ISCHR(inode.mode) and not entry.device
            size = 0 if inode.is_directory else inode.size
            told[path] = (
                inode.mode, inode.uid, inode.gid, size, 0 if whiteout else links, inode.mtime_ns, inode.atime_ns,
                0 if inode.is_directory else inode.ctime_ns, entry.device, reader.xattrs(inode), contents,
                None if whiteout else first.setdefault(entry.inode, path),
            )  # fmt: skip
    return told


def whole(section: Section) -> superblock.Superblock:
    """The superblock of an image that is sound."""
    assert check(section, mend=True).usable
    assert check(section, mend=False).outcome is Outcome.CLEAN
    with ExtReader(section) as reader:
        return reader.superblock


def superblock_of(path: Path) -> superblock.Superblock:
    with ExtReader(of(path)) as reader:
        return reader.superblock


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, awkward: Path) -> Path:
    """An overlay image by hand, of 1 KiB blocks: the awkward tree, marks of every spelling, a record beside upper/."""
    top = tmp_path_factory.mktemp("full")
    tree = top / "tree"
    shutil.copytree(awkward, tree / "upper", symlinks=True, ignore=lambda *_: ["fifo", "socket"])
    (tree / "work").mkdir()
    (tree / "sifkit.json").write_text('{"base": "/images/base"}\n')
    (tree / "upper/.wh.gone").touch()
    images.make_ext3(top / "o.img", tree)
    (top / "value").write_bytes(b"y")
    e2fsprogs.debugfs(
        of(top / "o.img"),
        [
            [b"cd", b"/upper/kinds"], [b"mknod", b"deleted", b"c", b"0", b"0"], [b"mknod", b"tty", b"c", b"5", b"0"],
            [b"mknod", b"pipe", b"p"], [b"ea_set", b"/upper/names", b"user.overlay.opaque", b"y"],
            [b"ea_set", b"/upper/names", b"trusted.overlay.opaque", b"y"],
            [b"ea_set", b"/upper/kinds/old", b"security.capability", bytes.fromhex("0100000200040000").hex().encode()],
            [b"set_inode_field", b"/upper/kinds/old", b"uid", b"70000"],
            [b"set_inode_field", b"/upper/kinds/old", b"ctime_extra", b"400"],
        ],
        write=True,
    )  # fmt: skip
    shutil.rmtree(tree)
    return top / "o.img"


def copied(image: Path, path: Path) -> str:
    subprocess.run(["cp", "--sparse=always", str(image), str(path)], check=True)
    return str(path)


def test_everything_is_kept(full: Path, tmp_path: Path) -> None:
    path = copied(full, tmp_path / "o.img")
    before, old = everything(of(path)), whole(of(path))
    os.chmod(path, 0o640)
    done = resize_file(path, Wish(inodes=60_000))
    assert not done.in_place
    new = whole(of(path))
    assert 60_000 <= new.inodes < 62_000
    assert (new.uuid, new.label, new.block_size, new.reserved_blocks) == (old.uuid, old.label, 4096, 1)
    assert new.refused_by_apptainer == ()
    assert 64 * MIB < new.size == os.stat(path).st_size < 80 * MIB
    assert everything(of(path)) == before
    assert os.stat(path).st_mode & 0o777 == 0o640
    assert os.stat(path).st_blocks * 512 < 40 * MIB
    assert os.listdir(tmp_path) == ["o.img"]


def test_a_size_that_gives_them_needs_no_rebuilding(tmp_path: Path) -> None:
    path = create_ext3(str(tmp_path / "o.img"), 64 * MIB, sparse=True).section.path
    assert resize_file(path, Wish(size=700 * MIB, inodes=70_000)).in_place
    assert resize_file(path, Wish(inodes=1000)).in_place
    done = resize_file(path, Wish(size=100 * MIB, inodes=99_000))
    assert not done.in_place
    assert (whole(of(path)).size, whole(of(path)).inodes >= 99_000) == (100 * MIB, True)


def test_what_does_not_fit_is_refused(full: Path, tmp_path: Path) -> None:
    path = copied(full, tmp_path / "o.img")
    before = everything(of(path))
    with pytest.raises(Failure, match=r"what is in it does not fit beside 60000 inodes"):
        resize_file(path, Wish(size=20 * MIB, inodes=60_000))
    with pytest.raises(lock.InUse), lock.acquire(of(path), exclusive=False):
        resize_file(path, Wish(inodes=60_000))
    os.link(path, tmp_path / "other")
    with pytest.raises(Failure, match="hard links"):
        resize_file(path, Wish(inodes=60_000))
    assert (everything(of(path)), whole(of(path)).size) == (before, 64 * MIB)
    assert sorted(os.listdir(tmp_path)) == ["o.img", "other"]


@pytest.fixture
def embedded(full: Path, tmp_path: Path) -> str:
    """A SIF image with that overlay and something behind it."""
    path = str(tmp_path / "i.sif")
    objects = [
        sif.partition(full, sif.FsType.EXT3, sif.PartType.OVERLAY, "amd64"),
        sif.NewObject(sif.DataType.GENERIC_JSON, b"{}" * 1000),
    ]
    sif.create(path, objects)
    return path


def test_inside_a_sif_image(embedded: str, full: Path) -> None:
    before = everything(of(full))
    done = resize_embedded(embedded, 1, Wish(inodes=60_000))
    assert (done.resized.in_place, done.gap) == (False, "")
    section = resolve(f"{embedded}#1").section
    assert whole(section).inodes >= 60_000
    assert everything(section) == before
    assert not list(sif.check(embedded))
    with sif.open(embedded) as opened:
        assert opened.read(next(d for d in opened.objects if d.id == 2)) == b"{}" * 1000


# -- every moment ------------------------------------------------------------------------------------------


def rebuilt_until(image: Path, place: Path, last: int, then: Callable[[], Any], *, in_sif: bool) -> tuple[int, Section]:
    """The status of a child whose call number ``last`` was ``then``, and where the overlay is afterwards."""
    place.mkdir()
    path = copied(image, place / "o")
    work = (lambda: resize_embedded(path, 1, Wish(inodes=60_000))) if in_sif else (
        lambda: resize_file(path, Wish(inodes=60_000))
    )  # fmt: skip
    status = outcome(work, last, then)
    return status, resolve(f"{path}#1" if in_sif else path).section


@pytest.mark.limit(600)
@pytest.mark.parametrize("then", [die, disk_full])
@pytest.mark.parametrize("kind", ["file", "sif"])
def test_the_old_or_the_new_is_there(tmp_path: Path, kind: str, then: Callable[[], Any]) -> None:
    """At every fifth of its calls that change something; the bench tries more, with the tools it runs."""
    image = tmp_path / "o.img"
    create_ext3(str(image), 64 * MIB, sparse=True, dirs=["opt/x"], label="old")
    if kind == "sif":
        image = tmp_path / "i.sif"
        sif.create(image, [sif.partition(tmp_path / "o.img", sif.FsType.EXT3, sif.PartType.OVERLAY, "amd64")])
    seen = set()
    place = tmp_path / "place"
    status, last = 1, 1
    while status:
        status, section = rebuilt_until(image, place, last, then, in_sif=kind == "sif")
        assert status in (0, 1 << 8, signal.SIGKILL), last
        seen.add(whole(section).inodes >= 60_000)
        with ExtReader(section) as reader:
            assert reader.lookup(b"/upper/opt/x") is not None
        if kind == "sif":
            assert not [found for found in sif.check(section.path) if "gap" not in str(found)]
        shutil.rmtree(place)
        last += 5
    assert seen == {False, True}


def test_killed_at_random_moments_with_its_tools(tmp_path: Path, full: Path) -> None:
    chance = random.Random(3)
    before, old = everything(of(full)), superblock_of(full).inodes
    for _ in range(10):
        path = copied(full, tmp_path / "o.img")
        child = os.fork()
        if child == 0:
            os.setsid()
            try:
                resize_file(path, Wish(inodes=60_000))
            finally:
                os._exit(0)
        while os.getpgid(child) != child:  # it has not begun yet
            time.sleep(0.001)
        time.sleep(chance.random() * 0.3)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        inodes = whole(of(path)).inodes
        assert inodes == old or inodes >= 60_000
        assert everything(of(path)) == before
        os.unlink(path)


@needs("userns", "overlayfs", "fuse2fs")
def test_it_is_used_afterwards(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "o.img")
    sifkit.ok("overlay", "create", path)
    script = "rm /etc/os-release; rm -r /usr/share; mkdir /usr/share"
    sifkit.ok("exec", "--overlay", path, str(rootfs), "sh", "-c", script)
    said = sifkit.ok("overlay", "resize", "--inodes", "40000", path)
    assert " inodes" in said
    script = "ls /etc/os-release /usr/share 2>&1; touch /x; echo"
    shown = sifkit.ok("exec", "--overlay", path, str(rootfs), "sh", "-c", script)
    assert "No such file" in shown
    assert "demo" not in shown
