"""`sifkit overlay resize`, `check`, `chown`, `ps` on files, directories and partitions of SIF images."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result

from overlay import lock, resize, superblock
from overlay.check import Outcome, check
from overlay.create import create_ext3
from overlay.e2fsprogs import debugfs
from overlay.extread import ExtReader
from overlay.failure import Failure
from overlay.section import Section
from sifkit import sif
from sifkit.cli.main import cli
from sifkit.image.resize import resize_embedded

MIB = 2**20
OTHERS = {1: b"bootstrap: scratch\n", 3: b"{}" * 1000, 4: random.Random(1).randbytes(3 * MIB)}


def run(*words: str) -> Result:
    """``sifkit overlay WORDS``; a `Failure` is the result's exception."""
    return CliRunner().invoke(cli, ["overlay", *words])


def failure(*words: str) -> str:
    done = run(*words)
    assert isinstance(done.exception, Failure), done.output
    return str(done.exception)


@pytest.fixture
def image(tmp_path: Path) -> str:
    made = create_ext3(str(tmp_path / "o.img"), 64 * MIB, sparse=True, dirs=["opt/x"])
    return made.section.path


class Embedded(NamedTuple):
    path: str
    behind: bool


@pytest.fixture(params=[True, False], ids=["earlier", "last"])
def embedded(request: pytest.FixtureRequest, tmp_path: Path, image: str) -> Embedded:
    """A SIF image whose object 2 is the overlay."""
    path = str(tmp_path / "i.sif")
    objects = [
        sif.NewObject(sif.DataType.DEFFILE, OTHERS[1]),
        sif.partition(image, sif.FsType.EXT3, sif.PartType.OVERLAY, "amd64"),
    ]
    if request.param:
        objects.append(sif.NewObject(sif.DataType.GENERIC_JSON, OTHERS[3]))
        objects.append(sif.partition(OTHERS[4], sif.FsType.RAW, sif.PartType.DATA, "amd64"))
    sif.create(path, objects)
    return Embedded(path, request.param)


def section_of(path: str, number: int = 2) -> Section:
    with sif.open(path) as opened:
        found = next(d for d in opened.objects if d.id == number)
        return Section(path, found.offset, found.size)


def whole(embedded: Embedded) -> superblock.Superblock:
    """The image is sound, the other objects are as they were, and so is what is in the overlay."""
    assert not list(sif.check(embedded.path))
    with sif.open(embedded.path) as opened:
        others = {d.id: opened.read(d) for d in opened.objects if d.id != 2}
    assert others == {number: data for number, data in OTHERS.items() if embedded.behind or number == 1}
    section = section_of(embedded.path)
    assert section.offset % 4096 == 0
    assert check(section, mend=True).usable
    assert check(section, mend=False).outcome is Outcome.CLEAN
    with ExtReader(section) as reader:
        assert reader.lookup(b"/upper/opt/x")
        return reader.superblock


# -- resize ------------------------------------------------------------------------------------------------


def test_resize_prints_what_it_did(image: str) -> None:
    done = run("resize", "--size", "+64M", image)
    assert done.output == f"{image}: 64 MiB -> 128 MiB, 16384 inodes, 16369 of them free\n"
    assert run("resize", "-s", "20", image).exit_code == 0
    assert os.stat(image).st_size == 20 * MIB


@pytest.mark.parametrize("words", [[], ["--minimum", "--size", "1G"], ["--size", "many"], ["--size", "+0"]])
def test_resize_wants_one_size(image: str, words: list[str]) -> None:
    assert run("resize", *words, image).exit_code == 2


def test_resize_refuses(tmp_path: Path, image: str, awkward_squash: Path) -> None:
    (tmp_path / "d/upper").mkdir(parents=True)
    assert "no size of its own" in failure("resize", "--size", "1G", str(tmp_path / "d"))
    assert "squashfs, which is read-only" in failure("resize", "--size", "1G", str(awkward_squash))
    assert "no overlay" in failure("resize", "--size", "1G", str(tmp_path / "none"))
    assert "inodes alone take 2.4 GiB" in failure("resize", "--size", "100M", "--inodes", "9999999", image)
    with lock.acquire(Section(image, 0, 64 * MIB), exclusive=False):
        assert f"pid {os.getpid()}" in failure("resize", "--size", "1G", image)


def test_resize_inside_a_sif(embedded: Embedded) -> None:
    assert run("resize", "--size", "300M", f"{embedded.path}#2").exit_code == 0
    assert whole(embedded).size == 300 * MIB
    assert run("resize", "--size", "+84M", embedded.path).exit_code == 0
    assert whole(embedded).size == 384 * MIB
    assert os.stat(embedded.path).st_blocks * 512 < 40 * MIB
    assert run("resize", "--size", "32M", embedded.path).exit_code == 0
    assert whole(embedded).size == 32 * MIB
    assert os.stat(embedded.path).st_size < 40 * MIB
    assert run("resize", "--minimum", embedded.path).exit_code == 0
    assert whole(embedded).size < 16 * MIB
    assert "no partition" in failure("resize", "--minimum", f"{embedded.path}#1")


def test_resize_of_what_is_in_use(embedded: Embedded) -> None:
    with lock.acquire(section_of(embedded.path), exclusive=False):
        assert f"pid {os.getpid()}" in failure("resize", "--size", "1G", embedded.path)
    if embedded.behind:
        with lock.acquire(section_of(embedded.path, 4), exclusive=False):
            assert "in use" in failure("resize", "--size", "1G", embedded.path)
            done = run("resize", "--size", "32M", embedded.path)
            assert "gap" in done.output + done.stderr or done.exit_code == 0
    whole(embedded)


def test_resize_and_signatures(embedded: Embedded) -> None:
    sif.add(embedded.path, sif.NewObject(sif.DataType.GENERIC, b"signed", group=2))
    sif.add(embedded.path, sif.signature(b"of group 2", 5, link_group=2))
    sif.change(embedded.path, 2, name="grows")
    assert run("resize", "--size", "300M", embedded.path).exit_code == 0
    assert section_of(embedded.path).size == 300 * MIB
    sif.add(embedded.path, sif.signature(b"of group 1", 5, link_group=1), force=True)
    assert "signed" in failure("resize", "--size", "400M", embedded.path)
    assert section_of(embedded.path).size == 300 * MIB


def test_resize_inside_a_sif_killed(embedded: Embedded, tmp_path: Path) -> None:
    chance = random.Random(7)
    data = Path(embedded.path).read_bytes()
    seen = set()
    for turn in range(16):
        size = (300, 40)[turn % 2] * MIB
        Path(embedded.path).write_bytes(data)
        child = os.fork()
        if child == 0:
            os.setsid()
            try:
                resize_embedded(embedded.path, 2, resize.Wish(size=size))
            finally:
                os._exit(0)
        while os.getpgid(child) != child:  # it has not begun yet
            time.sleep(0.001)
        time.sleep(chance.random() * 0.15)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with sif.editing(embedded.path):  # waits for the guard, which undoes what was half done
            pass
        found = whole(embedded).size
        assert found in (64 * MIB, size)
        seen.add(found)
    assert 64 * MIB in seen


# -- chown -------------------------------------------------------------------------------------------------


def test_chown(image: str, embedded: Embedded, tmp_path: Path, awkward_squash: Path) -> None:
    done = run("chown", "--to", "70000:70001", image)
    assert done.output == f"{image}: 4 changed, all of it belongs to 70000:70001\n"
    assert run("chown", "--to", "7", embedded.path).exit_code == 0
    whole(embedded)
    with ExtReader(section_of(embedded.path)) as reader:
        found = reader.lookup(b"/upper/opt/x")
        assert found is not None
        assert (found.uid, found.gid) == (7, 7)
    (tmp_path / "d/upper").mkdir(parents=True)
    assert run("chown", str(tmp_path / "d")).exit_code == 0
    assert run("chown", "--to", "nobody", image).exit_code == 2
    assert "squashfs, which is read-only" in failure("chown", str(awkward_squash))
    with lock.acquire(Section(image, 0, 64 * MIB), exclusive=False):
        assert f"pid {os.getpid()}" in failure("chown", image)


# -- check -------------------------------------------------------------------------------------------------


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
    sif.create(path, [sif.NewObject(sif.DataType.DEFFILE, OTHERS[1]), overlay])
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
