"""`sifkit overlay check` of directories, files and partitions of SIF images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from overlay_calls import failure, run, section_of

from overlay.e2fsprogs import debugfs
from overlay.extread.reader import ExtReader
from overlay.locks import lock
from overlay.manage.create import create_ext3
from overlay.section import Section
from sifkit import sif

MIB = 2**20


@pytest.fixture
def image(tmp_path: Path) -> str:
    made = create_ext3(str(tmp_path / "o.img"), 64 * MIB, sparse=True, dirs=["opt/x"])
    return made.section.path


def spoil_tree(upper: Path) -> None:
    """Every oddity, as a directory overlay."""
    (upper / "d").mkdir(parents=True)
    (upper / "d/.wh.gone away").touch()
    (upper / "new").mkdir()
    (upper / "new/.wh..wh..opq").touch()
    (upper / "again").mkdir()
    (upper / ".wh.again").touch()
    (upper / "closed").mkdir()
    (upper / "closed/secret").touch(0o200)
    (upper.parent / "work/work").mkdir(parents=True)
    (upper.parent / "work" / "work/#12").mkdir()
    (upper.parent / "work" / "work/#12/x").touch()
    (upper.parent / "work" / "work/#13").touch()
    os.chmod(upper / "closed", 0o300)
    os.chmod(upper.parent / "work" / "work/#12", 0)


INNER = os.path.join(b"/", b"work", b"work")
ODD = ("whiteout: upper/d/.wh.gone away", "whiteout: upper/new/.wh..wh..opq", "whiteout: upper/.wh.again",
       "closed: upper/closed", *(f"left over: {os.fsdecode(INNER)[1:]}/#{n}" for n in (12, 13)))  # fmt: skip


def is_mended(text: str) -> None:
    for line in ODD:
        assert f"mended: {line} " in text


def test_check_of_a_directory(tmp_path: Path) -> None:
    spoil_tree(tmp_path / "o/upper")
    seen = run("check", str(tmp_path / "o"))
    assert seen.exit_code == 1
    for line in ODD:
        assert f"{line} " in seen.output
    done = run("check", "--fix", str(tmp_path / "o"))
    assert done.exit_code == 0, done.output
    is_mended(done.output)
    gone = os.lstat(tmp_path / "o/upper/d/gone away")
    assert (gone.st_mode, gone.st_rdev) == (0o020000 | gone.st_mode & 0o777, 0)
    for name in ("new", "again"):
        assert os.getxattr(tmp_path / "o/upper" / name, "user.overlay.opaque") == b"y"
    assert os.listdir(tmp_path / "o" / "work" / "work") == []
    assert os.stat(tmp_path / "o/upper/closed/secret").st_mode & 0o777 == 0o600
    again = run("check", str(tmp_path / "o"))
    assert again.exit_code == 0
    assert "nothing odd" in again.output


@pytest.mark.parametrize("inside", [False, True], ids=["file", "SIF"])
def test_check_of_an_image(tmp_path: Path, inside: bool) -> None:
    path = odd_image(tmp_path, inside)
    before = Path(path).read_bytes()
    seen = run("check", path)
    assert seen.exit_code == 1
    assert f"{path}: no errors found" in seen.output
    for line in ODD:
        assert f"{line} " in seen.output
    assert Path(path).read_bytes() == before
    done = run("check", "--fix", path)
    assert done.exit_code == 0, done.output
    is_mended(done.output)
    section = section_of(path) if inside else Section(path, 0, os.stat(path).st_size)
    with ExtReader(section) as reader:
        gone = reader.lookup(b"/upper/d/gone away")
        assert gone is not None
        assert (gone.mode & 0o170000, gone.device, gone.uid) == (0o020000, (0, 0), os.geteuid())
        for name in (b"/upper/new", b"/upper/again"):
            directory = reader.lookup(name)
            assert directory is not None
            assert reader.xattrs(directory)[b"user.overlay.opaque"] == b"y"
            assert not list(reader.listdir(directory))
        secret = reader.lookup(b"/upper/closed/secret")
        assert secret is not None
        assert secret.mode == 0o100600
        assert [path for path, _ in reader.walk(b"/work")] == [b"", b"work"]
    again = run("check", path)
    assert again.exit_code == 0, again.output


def odd_image(tmp_path: Path, inside: bool) -> str:
    """`spoil_tree` in an ext3 image."""
    image = create_ext3(str(tmp_path / "odd.img"), 64 * MIB, sparse=True, dirs=["d", "new", "again", "closed"]).section
    (tmp_path / "empty").touch()
    empty = os.fsencode(tmp_path / "empty")
    commands = [[b"mkdir", INNER], [b"mkdir", INNER + b"/#12"]]
    for directory, name in (
        (b"/upper/d", b".wh.gone away"), (b"/upper/new", b".wh..wh..opq"), (b"/upper", b".wh.again"),
        (b"/upper/closed", b"secret"), (INNER + b"/#12", b"x"), (INNER, b"#13"),
    ):  # fmt: skip
        commands += [[b"cd", directory], [b"write", empty, name]]
    commands += [[b"set_inode_field", b"/upper/closed", b"mode", b"040300"]]
    commands += [[b"set_inode_field", b"/upper/closed/secret", b"mode", b"0100200"]]
    debugfs(image, commands, write=True)
    if not inside:
        return image.path
    path = str(tmp_path / "odd.sif")
    overlay = sif.partition(image.path, sif.FsType.EXT3, sif.PartType.OVERLAY, "amd64")
    sif.create(path, [sif.NewObject(sif.DataType.DEFFILE, b"bootstrap: scratch\n"), overlay])
    return path


def test_check_of_a_damaged_image(image: str) -> None:
    section = Section(image, 0, 64 * MIB)
    debugfs(section, [[b"ssv", b"state", b"0"], [b"ssv", b"free_blocks_count", b"7"]], write=True)
    assert run("check", image).exit_code == 1
    done = run("check", "--fix", image)
    assert done.exit_code == 0
    assert "its last writer was killed" in done.output
    assert run("check", image).output.startswith(f"{image}: no errors found\n")


def test_check_refuses(image: str, awkward_squash: Path) -> None:
    assert run("check", str(awkward_squash)).exit_code == 0
    assert "squashfs, which is read-only" in failure("check", "--fix", str(awkward_squash))
    with lock.acquire(Section(image, 0, 64 * MIB), exclusive=True):
        assert f"pid {os.getpid()}" in failure("check", image)
    with lock.acquire(Section(image, 0, 64 * MIB), exclusive=False):
        assert run("check", image).exit_code == 0
