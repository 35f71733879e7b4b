"""Whiteouts in images: every spelling read, said again in layers beside the image, and honoured by the kernel."""

from __future__ import annotations

import os
import stat
import subprocess
import textwrap
from pathlib import Path

import pytest
from opaque_marks import tree
from probes import needs

from overlay import e2fsprogs, whiteout
from overlay.extread.reader import ExtError, ExtReader
from overlay.manage.create import create_ext3
from overlay.section import Section
from overlay.stack import whiteout_layer

MIB = 2**20


@pytest.fixture
def image(tmp_path: Path) -> Section:
    """What `upper` is as a directory, as an image; made by debugfs, with odd names."""
    section = create_ext3(str(tmp_path / "i"), 16 * MIB, sparse=True).section
    empty = tmp_path / "empty"
    empty.touch()
    none = os.fsencode(empty)
    commands = [
        [b"cd", b"/upper"], [b"mkdir", b"dev"], [b"cd", b"dev"], [b"mknod", b"gone", b"c", b"0", b"0"],
        [b"mknod", b"null", b"c", b"1", b"3"],
        [b"cd", b"/upper"], [b"mkdir", b"file"], [b"cd", b"file"], [b"write", none, b".wh.gone"],
        [b"write", none, b".wh.with space"], [b"write", none, b"kept"],
        [b"cd", b"/upper"], [b"mkdir", b"again"], [b"cd", b"again"], [b"write", none, b".wh.made"],
        [b"write", none, b"made"], [b"write", none, b".wh.dir"], [b"mkdir", b"dir"],
        [b"cd", b"/upper"], [b"mkdir", b"opaque"], [b"cd", b"opaque"], [b"write", none, b".wh..wh..opq"],
        [b"mknod", b".wh..opq", b"c", b"0", b"0"], [b"write", none, b"new"], [b"mkdir", b"both"],
        [b"ea_set", b"/upper/opaque", b"user.fuseoverlayfs.opaque", b"y"],
        [b"cd", b"/upper"], [b"mkdir", b"root"], [b"ea_set", b"/upper/root", b"trusted.overlay.opaque", b"y"],
        [b"mkdir", b"kernel"], [b"ea_set", b"/upper/kernel", b"user.overlay.opaque", b"y"],
        [b"set_inode_field", b"file", b"mode", b"040750"], [b"set_inode_field", b"file", b"mtime", b"@1500000000"],
    ]  # fmt: skip
    commands += [
        [b"sif", os.fsencode(f"/upper/{name}"), field, b"%d" % value]
        for name in ("dev", "file", "again", "again/dir", "opaque", "opaque/both", "root", "kernel", "opaque/new")
        for field, value in ((b"uid", os.geteuid()), (b"gid", os.getegid()))
    ]
    e2fsprogs.debugfs(section, commands, write=True)
    return section


def test_scan(image: Section) -> None:
    with ExtReader(image) as reader:
        found = whiteout.scan_image(reader)
    assert set(found.deleted) == {b"dev/gone", b"file/gone", b"file/with space"}
    assert found.devices == {b"dev/gone"}
    assert found.opaque == {
        b"again/dir": frozenset(),
        b"opaque": {whiteout.FUSE_MARK},
        b"root": {whiteout.ROOT_MARK},
        b"kernel": {whiteout.KERNEL_MARK},
    }
    assert set(found.markers) == {
        b"file/.wh.gone", b"file/.wh.with space", b"again/.wh.made", b"again/.wh.dir",
        b"opaque/.wh..wh..opq", b"opaque/.wh..opq",
    }  # fmt: skip
    assert not found.empty


def test_scan_without_types_in_directories(tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(b"")
    os.truncate(tmp_path / "i", 16 * MIB)
    section = Section(str(tmp_path / "i"), 0, 16 * MIB)
    e2fsprogs.mke2fs(section, "-O", "none,ext_attr", block_size=4096)
    commands = [[b"mkdir", b"/d"], [b"cd", b"/d"], [b"mknod", b"gone", b"c", b"0", b"0"], [b"mkdir", b"e"]]
    commands += [[b"cd", b"e"], [b"mknod", b".wh.x", b"p"], [b"ea_set", b".", b"user.overlay.opaque", b"y"]]
    e2fsprogs.debugfs(section, commands, write=True)
    with ExtReader(section) as reader:
        found = whiteout.scan_image(reader, b"/d")
        assert (found.deleted, found.devices) == ((b"gone", b"e/x"), {b"gone"})
        assert found.opaque == {b"e": {whiteout.KERNEL_MARK}}
        with pytest.raises(ExtError, match="loop"):
            e2fsprogs.debugfs(section, [[b"link", b"/d", b"/d/e/d"]], write=True)
            whiteout.scan_image(reader, b"/d")


def test_nothing_to_say_makes_nothing(tmp_path: Path) -> None:
    section = create_ext3(str(tmp_path / "i"), 16 * MIB, sparse=True).section
    with ExtReader(section) as reader:
        found = whiteout.scan_image(reader)
        assert found.empty
        above, below = str(tmp_path / "a"), str(tmp_path / "b")
        made = whiteout_layer.build(reader, found, above, below, typed=False, mark=whiteout.KERNEL_MARK)
    assert made == ("", "")
    assert sorted(os.listdir(tmp_path)) == ["i"]


def build(image: Section, place: Path, typed: bool) -> whiteout_layer.Layers:
    with ExtReader(image) as reader:
        return whiteout_layer.build(
            reader, whiteout.scan_image(reader), str(place / "above"), str(place / "below"),
            typed=typed, mark=whiteout.KERNEL_MARK,
        )  # fmt: skip


@needs("xattr")
def test_layers(image: Section, tmp_path: Path) -> None:
    build(image, tmp_path, typed=False)
    assert tree(tmp_path / "above") == {
        "dev": "d", "dev/gone": "c",
        "file": "d", "file/gone": "c", "file/with space": "c", "file/.wh.gone": "c", "file/.wh.with space": "c",
        "again": "d", "again/.wh.made": "c", "again/.wh.dir": "c",
        "opaque": "d", "opaque/.wh..wh..opq": "c", "opaque/.wh..opq": "c",
    }  # fmt: skip
    assert tree(tmp_path / "below") == {
        "again": "d", "again/dir": "d overlay fuseoverlayfs",
        "opaque": "d overlay fuseoverlayfs", "root": "d overlay fuseoverlayfs",
    }  # fmt: skip
    status = (tmp_path / "above/file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o750, 1_500_000_000)


def test_devices_are_left_to_the_kernel_where_it_sees_them(image: Section, tmp_path: Path) -> None:
    build(image, tmp_path, typed=True)
    assert not (tmp_path / "above/dev").exists()


@needs("userns", "overlayfs", "fuse2fs", "unshare")
def test_the_kernel_shows_what_the_image_means(image: Section, tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    for name in ("dev", "file", "again/dir", "opaque/both", "root", "kernel"):
        (lower / name).mkdir(parents=True)
        (lower / name / "old").write_text("old")
    for name in ("dev/gone", "file/gone", "file/with space", "file/other", "again/made"):
        (lower / name).write_text("lower")
    (tmp_path / "fuse").mkdir()
    (tmp_path / "merged").mkdir()
    build(image, tmp_path, typed=False)
    script = f"""
        set -e
        cd {tmp_path}
        fuse2fs -o ro,norecovery i fuse
        mount -t overlay -o userxattr,lowerdir=above:fuse/upper:below:lower none merged
        cd merged
        find . ! -type d -printf '%P\\n' | sort
        echo --
        cat again/made file/other opaque/new
        stat -c %a file
        cd ..; umount -l merged fuse
    """
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", textwrap.dedent(script)],
        capture_output=True, text=True, env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names, _, rest = done.stdout.partition("--\n")
    assert names.splitlines() == sorted(
        ["again/made", "dev/null", "dev/old", "file/kept", "file/old", "file/other", "opaque/new"]
    )
    assert rest == "lower750\n"
