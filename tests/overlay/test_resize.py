"""Resizing: sizes asked for, what is kept, and every call that could be the last one of a killed process."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killing import die, disk_full, outcome

from overlay import e2fsprogs, superblock, tools
from overlay.extread.reader import ExtReader
from overlay.extwrite import transaction as ext_transaction
from overlay.failure import Failure
from overlay.locks import lock
from overlay.manage import resize, resize_grow
from overlay.manage.check import Outcome, check
from overlay.manage.create import create_ext3, format_ext3
from overlay.manage.resize import Wish, resize_file
from overlay.section import Section

MIB = 2**20
CONTENT = bytes(range(256)) * 4096  # 1 MiB


def filled(section: Section, directory: Path) -> Section:
    """Put a file into the image's upper/."""
    (directory / "content").write_bytes(CONTENT)
    e2fsprogs.debugfs(
        section, [[b"cd", b"/upper"], [b"write", os.fsencode(directory / "content"), b"file"]], write=True
    )
    return section


@pytest.fixture
def image(tmp_path: Path) -> str:
    return filled(create_ext3(str(tmp_path / "a b.img"), 64 * MIB, sparse=True).section, tmp_path).path


def whole(section: Section) -> superblock.Superblock:
    """Check that the overlay in ``section`` is sound, after the mending that its next user does, and complete."""
    assert check(section, mend=True).usable
    verdict = check(section, mend=False)
    assert verdict.outcome is Outcome.CLEAN, verdict
    with ExtReader(section) as reader:
        inode = reader.lookup(b"/upper/file")
        assert inode is not None
        assert reader.read(inode, len(CONTENT)) == CONTENT
        return reader.superblock


def of(path: str) -> Section:
    return Section(path, 0, os.stat(path).st_size)


@pytest.mark.parametrize("size", [65, 100, 128, 200, 1000, 5_000])
def test_it_grows_in_place(image: str, size: int) -> None:
    before = os.stat(image)
    done = resize_file(image, Wish(size=size * MIB))
    assert done.in_place
    after = whole(of(image))
    assert size * MIB - 4 * MIB < after.size <= size * MIB  # a last group without room for its tables is left out
    assert os.stat(image).st_ino == before.st_ino
    assert os.stat(image).st_blocks * 512 < 80 * MIB
    assert after.uuid == done.before.uuid
    assert after.reserved_blocks == 1


def test_it_grows_again_and_again(image: str) -> None:
    for _ in range(4):
        assert resize_file(image, Wish(add=150 * MIB)).in_place
    assert whole(of(image)).size == 662 * MIB  # a group of 2 MiB was left out once


def test_reserved_space_stays_reserved(tmp_path: Path) -> None:
    made = create_ext3(str(tmp_path / "i"), 64 * MIB)
    if not made.reserved:
        pytest.skip("this file system reserves nothing")
    filled(made.section, tmp_path)
    resize_file(made.section.path, Wish(size=100 * MIB))
    whole(of(made.section.path))
    assert os.stat(made.section.path).st_blocks * 512 >= 100 * MIB
    resize_file(made.section.path, Wish(size=50 * MIB))
    assert os.stat(made.section.path).st_blocks * 512 >= 50 * MIB


def test_it_shrinks(image: str) -> None:
    os.chmod(image, 0o640)
    done = resize_file(image, Wish(size=40 * MIB))
    assert not done.in_place
    assert whole(of(image)).size == os.stat(image).st_size == 40 * MIB
    assert os.stat(image).st_mode & 0o777 == 0o640
    assert len(os.listdir(os.path.dirname(image))) == 2  # and the file of the content


def test_the_minimum(image: str) -> None:
    resize_file(image, Wish(minimum=True))
    assert whole(of(image)).size < 16 * MIB
    resize_file(image, Wish(size=64 * MIB))
    assert whole(of(image)).size == 64 * MIB


def test_too_small(image: str) -> None:
    before = Path(image).read_bytes()
    with pytest.raises(Failure, match=r"needs at least \d"):
        resize_file(image, Wish(size=5 * MIB))
    after = Path(image).read_bytes()
    # The check that comes first writes its time into the superblock, in whole seconds.
    assert (len(after), after[2048:] == before[2048:]) == (len(before), True)
    assert len(os.listdir(os.path.dirname(image))) == 2


def test_inodes(image: str) -> None:
    assert resize_file(image, Wish(size=900 * MIB, inodes=100_000)).in_place
    assert whole(of(image)).inodes >= 100_000
    assert not resize_file(image, Wish(inodes=200_000)).in_place  # which is what test_rebuild.py is about


def test_hard_links(image: str) -> None:
    os.link(image, image + "2")
    resize_file(image, Wish(size=100 * MIB))
    with pytest.raises(Failure, match="hard links"):
        resize_file(image, Wish(size=50 * MIB))
    whole(of(image + "2"))


def test_in_use(image: str) -> None:
    with lock.acquire(of(image), exclusive=False), pytest.raises(lock.InUse):
        resize_file(image, Wish(size=100 * MIB))


def test_a_symbolic_link_stays(image: str, tmp_path: Path) -> None:
    os.symlink(image, tmp_path / "link")
    resize_file(str(tmp_path / "link"), Wish(size=40 * MIB))
    assert os.path.islink(tmp_path / "link")
    assert whole(of(image)).size == 40 * MIB


@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ext3"),  # what Apptainer's is, and mke2fs.conf of this host
        ("-t", "ext3", "-b", "1024"),
        ("-t", "ext3", "-I", "128"),
        ("-t", "ext2"),
        ("-t", "ext4"),
        ("-t", "ext3", "-O", "^resize_inode"),
        ("-t", "ext3", "-b", "1024", "-E", "resize=70000"),
    ],
    ids=" ".join,
)
def test_images_of_others(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = str(tmp_path / "other.img")
    mke2fs = tools.find("mke2fs") or ""
    subprocess.run([mke2fs, "-q", "-F", *options, path, "64M"], check=True, stdin=subprocess.DEVNULL)
    e2fsprogs.debugfs(of(path), [[b"mkdir", b"/upper"]], write=True)
    filled(of(path), tmp_path)
    for wish in (Wish(size=300 * MIB), Wish(size=48 * MIB), Wish(size=90 * MIB)):
        resize_file(path, wish)
        assert abs(whole(of(path)).size - wish.size) < 9 * MIB


# -- every moment ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", [die, disk_full])
@pytest.mark.parametrize("size", [200, 40], ids=["grow", "shrink"])
def test_every_call_may_be_the_last(tmp_path: Path, image: str, size: int, then: Callable[[], Any]) -> None:
    seen = set()
    place = tmp_path / "place"
    for last in range(1, 300):
        place.mkdir()
        path = str(place / "o.img")
        subprocess.run(["cp", "--sparse=always", image, path], check=True)
        status = outcome(lambda path=path: resize_file(path, Wish(size=size * MIB)), last, then)  # type: ignore[misc]
        assert status in (0, 1 << 8, signal.SIGKILL), last
        found = whole(of(path)).size
        assert found in (64 * MIB, size * MIB), last
        seen.add(found)
        if then is disk_full:
            assert os.listdir(place) == ["o.img"], last
        assert len(os.listdir(place)) <= 2
        shutil.rmtree(place)
        if status == 0:
            break
    assert status == 0
    assert last > 25 or size == 40
    assert seen == {64 * MIB, size * MIB}


def test_killed_at_random_moments_with_its_tools(tmp_path: Path, image: str) -> None:
    chance = random.Random(5)
    for turn in range(30):
        path = str(tmp_path / f"{turn}.img")
        subprocess.run(["cp", "--sparse=always", image, path], check=True)
        child = os.fork()
        if child == 0:
            os.setsid()
            try:
                resize_file(path, Wish(size=(300, 40)[turn % 2] * MIB))
            finally:
                os._exit(0)
        time.sleep(chance.random() * 0.08)
        while os.getpgid(child) != child:  # it has not begun yet
            time.sleep(0.001)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert whole(of(path)).size in (64 * MIB, (300, 40)[turn % 2] * MIB)
        os.unlink(path)


# -- the transaction alone -----------------------------------------------------------------------------------


@pytest.fixture
def embedded(tmp_path: Path) -> Section:
    """A file system at an offset, with something behind it."""
    (tmp_path / "o").write_bytes(b"x" * 40960)
    os.truncate(tmp_path / "o", 40960 + 64 * MIB + 4096)
    section = format_ext3(Section(str(tmp_path / "o"), 40960, 64 * MIB), sparse=True).section
    return filled(section, tmp_path)


def test_a_transaction_is_all_or_nothing(embedded: Section, tmp_path: Path) -> None:
    sb_block = os.pread(os.open(embedded.path, os.O_RDONLY), 4096, embedded.offset)
    magic = bytes.fromhex("c03b3998")
    blocks = {0: sb_block, **{9000 + n: (magic if n % 3 else b"data") + bytes([n % 256]) * 4092 for n in range(700)}}
    for last in (1, 500, 702, 704, 705, 706, 707, 708, 709, 710, 900, 1400, 1414, 1500):
        status = outcome(lambda: ext_transaction.commit(embedded, 4096, blocks), last + 701, die)
        assert check(embedded, mend=True).usable
        with open(embedded.path, "rb") as file:
            file.seek(embedded.offset + 9000 * 4096)
            now = {9000 + n: file.read(4096) for n in range(700)}
        done = [now[n] == blocks[n] for n in now]
        assert all(done) or not any(done), last
        if all(done):
            break
        assert status
    assert all(done)
    whole(embedded)


def test_a_journal_that_is_too_small(embedded: Section) -> None:
    before = Path(embedded.path).read_bytes()
    blocks = {n: bytes(4096) for n in range(9000, 11000)}
    with pytest.raises(ext_transaction.NoRoom, match="too small"):
        ext_transaction.commit(embedded, 4096, blocks)
    assert Path(embedded.path).read_bytes() == before


def test_growing_at_an_offset_refuses_what_it_cannot(embedded: Section) -> None:
    e2fsprogs.debugfs(embedded, [[b"feature", b"-resize_inode"]], write=True)
    with pytest.raises(resize_grow.Unfit):
        resize_grow.grow(embedded._replace(size=100 * MIB), 100 * MIB)
    assert resize.grown(embedded._replace(size=100 * MIB), 100 * MIB, reserve=False) is None
