"""`sifkit overlay resize` and `chown` on files and partitions of SIF images."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from overlay_calls import failure, run, section_of

from overlay import superblock
from overlay.extread.reader import ExtReader
from overlay.locks import lock
from overlay.manage import resize
from overlay.manage.check import Outcome, check
from overlay.manage.create import create_ext3
from overlay.section import Section
from sifkit import sif
from sifkit.image.resize import resize_embedded

MIB = 2**20
OTHERS = {1: b"bootstrap: scratch\n", 3: b"{}" * 1000, 4: random.Random(1).randbytes(3 * MIB)}


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
