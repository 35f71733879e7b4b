"""Changes that do not fit: an overlay inside a SIF image grows there, one without inodes is rebuilt with more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import images
import pytest
from images import MIB, Program
from probes import IS_ROOT, needs, only_root
from running import Start
from sif_parts import HERE, make_sif

from sifkit import sif

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "squashfuse", "fuse2fs", "mke2fs", "debugfs", "xattr")]

ORDINARY = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "root,loop"} if IS_ROOT else dict(os.environ)
BIG = "dd if=/dev/urandom of=/big bs=1M count=80 2>/dev/null; md5sum < /big; exit 3"
MANY = "mkdir /d; i=0; while [ $i -lt 200 ]; do echo $i > /d/$i; i=$((i+1)); done; exit 3"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setitem(ORDINARY, "HOME", str(tmp_path / "home"))


def with_overlay(sifkit: Program, squash: Path, directory: Path, *options: str) -> str:
    """A SIF image with a small ext3 overlay behind its root, in a directory of its own."""
    directory.mkdir()
    path = str(make_sif(directory / "image.sif", squash))
    sifkit.ok("overlay", "create", "--sparse", *options, path)
    return path


@pytest.fixture
def image(sifkit: Program, rootfs_squash: Path, tmp_path: Path) -> str:
    """A SIF image with a small ext3 overlay."""
    return with_overlay(sifkit, rootfs_squash, tmp_path / "here")


def overlay(image: str) -> sif.Descriptor:
    with sif.open(image) as opened:
        return next(d for d in opened.objects if d.partition and d.partition.fs == sif.FsType.EXT3)


def sound(sifkit: Program, image: str) -> bool:
    """Whether the SIF image is in order, and e2fsck says so of the overlay in it, and nothing lies beside it."""
    sifkit.ok("sif", "check", image)
    place = f"{image}?offset={overlay(image).offset}"
    alone = os.listdir(os.path.dirname(image)) == [os.path.basename(image)]
    return alone and images.run("/usr/sbin/e2fsck", "-fn", place).returncode == 0


# -- inside a SIF image ----------------------------------------------------------------------------------


def test_the_last_partition_grows(sifkit: Program, image: str) -> None:
    before = overlay(image)
    done = sifkit("exec", image, "sh", "-c", BIG, env=ORDINARY)
    assert (done.returncode, done.stderr) == (3, "")
    after = overlay(image)
    assert (after.offset, after.size > before.size) == (before.offset, True)
    assert sifkit.ok("exec", image, "sh", "-c", "md5sum < /big", env=ORDINARY) == done.stdout
    assert sound(sifkit, image)


def test_what_lies_behind_it_is_moved(sifkit: Program, image: str, tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    added = sif.add(image, sif.NewObject(sif.DataType.GENERIC, data)).ids[0]
    before = overlay(image)
    done = sifkit("exec", image, "sh", "-c", BIG, env=ORDINARY)
    assert (done.returncode, done.stderr) == (3, "")
    assert overlay(image).offset == before.offset
    assert sifkit.ok("exec", image, "sh", "-c", "md5sum < /big", env=ORDINARY) == done.stdout
    with sif.open(image) as opened:
        moved = next(d for d in opened.objects if d.id == added)
        assert moved.offset >= overlay(image).end
        assert opened.read(moved) == data
    assert sound(sifkit, image)


def test_what_the_run_itself_uses_is_not_moved(sifkit: Program, image: str, tmp_path: Path) -> None:
    """A layer behind it is mounted until the run has ended; the command that is named then does it."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/layer").write_text("layer\n")
    squash = images.make_squash(tmp_path / "tree", tmp_path / "layer.sqfs")
    sif.add(image, sif.partition(squash, sif.FsType.SQUASHFS, sif.PartType.OVERLAY, HERE, group=1))
    done = sifkit("exec", image, "sh", "-c", BIG, env=ORDINARY)
    assert (done.returncode, "payload's status was 3" in done.stderr) == (255, True), done.stderr
    sifkit.ok(*command(done.stderr), env=ORDINARY)
    assert sifkit.ok("exec", image, "sh", "-c", "cat /layer; md5sum < /big", env=ORDINARY) == f"layer\n{done.stdout}"
    assert sound(sifkit, image)


def command(said: str) -> list[str]:
    """The arguments of the command that finishes the job, as the message names it."""
    argv = said.partition("try: ")[2].partition("\n")[0].split()
    assert argv[:3] == ["sifkit", "session", "commit"], said
    return argv[1:]


def test_a_signed_one_does_not_grow(sifkit: Program, image: str) -> None:
    """Not even for who asks to write into it."""
    sif.add(image, sif.signature(b"signature", 1, link_group=1))
    before = Path(image).read_bytes()
    done = sifkit("exec", "--writable", image, "sh", "-c", BIG, env=ORDINARY)
    assert (done.returncode, "it cannot grow: it is signed" in done.stderr) == (255, True), done.stderr
    assert Path(image).read_bytes() == before
    for part in done.stderr.partition("try: ")[2].split(", then "):
        sifkit.ok(*part.split()[1:], env=ORDINARY)
    assert sifkit.ok("exec", image, "sh", "-c", "md5sum < /big", env=ORDINARY) == done.stdout
    assert sound(sifkit, image)


def test_what_a_killed_run_left_does_not_break_a_signature_made_since(
    start: Start, sifkit: Program, image: str
) -> None:
    begun = start("exec", "--writable", image, "sh", "-c", "echo late > /late; echo up; sleep 1000", env=ORDINARY)
    begun.expect("up")
    begun.signal(signal.SIGKILL)
    begun.end()
    begun.gone()
    sif.add(image, sif.signature(b"signature", 1, link_group=1))
    before = Path(image).read_bytes()
    (one,) = json.loads(sifkit.ok("session", "list", "--json"))
    done = sifkit("session", "commit", one["name"], env=ORDINARY)
    assert (done.returncode, "it is signed" in done.stderr) == (255, True), done.stderr
    assert Path(image).read_bytes() == before
    sifkit.ok(*done.stderr.partition("same: ")[2].split()[1:], env=ORDINARY)
    assert sifkit.ok("exec", image, "cat", "/late", env=ORDINARY) == "late\n"
    assert sound(sifkit, image)


# -- inodes ----------------------------------------------------------------------------------------------


def test_a_file_without_free_inodes_is_rebuilt(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    image = f"{tmp_path}/here/over.img"
    sifkit.ok("overlay", "create", "--inodes", "16", image)
    fill = "cd /; i=0; while [ $i -lt 64 ]; do echo old > /old$i; i=$((i+1)); done"
    run = ("exec", "--overlay", image, str(rootfs), "sh", "-c")
    sifkit("exec", "--overlay", f"{image}:fuse", *run[3:], fill, env=ORDINARY)  # until there are none left
    before = Path(image).read_bytes()
    done = sifkit("exec", "--no-grow", *run[1:], MANY, env=ORDINARY)
    assert (done.returncode, "payload's status was 3" in done.stderr) == (255, True), done.stderr
    assert "it has 0 inodes free, and the changes need 20" in done.stderr
    assert Path(image).read_bytes() == before
    sifkit.ok(*command(done.stderr), env=ORDINARY)
    look = "cat /d/199; ls /d | wc -l; cat /old0"
    assert sifkit.ok(*run, look, env=ORDINARY) == "199\n200\nold\n"
    assert os.path.getsize(image) < 80 * MIB  # by growing it would have become much larger
    assert images.run("/usr/sbin/e2fsck", "-fn", image).returncode == 0
    assert os.listdir(tmp_path / "here") == ["over.img"]


def test_the_run_itself_rebuilds_it(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    image = f"{tmp_path}/here/over.img"
    sifkit.ok("overlay", "create", "--inodes", "64", image)
    before = os.stat(image)
    for first in (0, 1000):  # the second time it is not empty, and shown by fuse2fs meanwhile
        loop = f"i={first}; while [ $i -lt {first + 500} ]; do echo $i > $i; i=$((i+1)); done"
        script = f"mkdir /d{first}; cd /d{first}; {loop}; exit 3"
        done = sifkit("exec", "--overlay", image, str(rootfs), "sh", "-c", script, env=ORDINARY)
        assert (done.returncode, done.stderr) == (3, "")
    after = os.stat(image)
    assert (after.st_ino != before.st_ino, after.st_mode, after.st_uid) == (True, before.st_mode, before.st_uid)
    said = sifkit.ok("exec", "--overlay", image, str(rootfs), "sh", "-c", "cat /d0/499 /d1000/1499", env=ORDINARY)
    assert (said, after.st_size < 80 * MIB) == ("499\n1499\n", True)
    assert images.run("/usr/sbin/e2fsck", "-fn", image).returncode == 0
    assert os.listdir(tmp_path / "here") == ["over.img"]


def test_who_rebuilds_it_for_a_killed_run_keeps_it_locked(
    sifkit: Program, start: Start, rootfs: Path, tmp_path: Path
) -> None:
    """As long as its own run goes on, on the new file, whose name others open."""
    (tmp_path / "here").mkdir()
    image = f"{tmp_path}/here/over.img"
    sifkit.ok("overlay", "create", "--inodes", "64", image)
    before = os.stat(image)
    run = ("exec", "--overlay", image, str(rootfs), "sh", "-c")
    running = start(*run, f"({MANY}); echo up; sleep 1000", env=ORDINARY)
    running.expect("up")
    running.signal(signal.SIGKILL)
    running.end()
    running.gone()
    running = start(*run, "ls /d | wc -l; echo up; read line", env=ORDINARY, stdin=subprocess.PIPE)
    running.expect("200")
    running.expect("up")
    after = os.stat(image)
    assert (after.st_ino != before.st_ino, after.st_size < 80 * MIB) == (True, True)
    other = sifkit(*run, "true", env=ORDINARY)
    assert (other.returncode, "is in use for writing by" in other.stderr) == (255, True), other.stderr
    running.process.stdin.write(b"done\n")
    running.process.stdin.flush()
    assert running.end() == 0
    assert sifkit.ok(*run, "cat /d/199", env=ORDINARY) == "199\n"
    assert images.run("/usr/sbin/e2fsck", "-fn", image).returncode == 0


@only_root
def test_the_group_of_an_image_is_kept(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """The namespace of a run does not know it; the command that finishes the job is outside."""
    (tmp_path / "here").mkdir()
    image = f"{tmp_path}/here/over.img"
    sifkit.ok("overlay", "create", "--inodes", "64", image)
    os.chown(image, 0, 5)
    done = sifkit("exec", "--max-size", "80M", "--overlay", image, str(rootfs), "sh", "-c", MANY, env=ORDINARY)
    assert (done.returncode, "its group cannot be kept" in done.stderr) == (255, True), done.stderr
    sifkit.ok(*command(done.stderr), env=ORDINARY)
    assert (os.stat(image).st_gid, os.path.getsize(image) < 80 * MIB) == (5, True)
    assert images.run("/usr/sbin/e2fsck", "-fn", image).returncode == 0


# -- and inside a SIF image ------------------------------------------------------------------------------


@pytest.fixture
def without_inodes(sifkit: Program, rootfs_squash: Path, tmp_path: Path) -> str:
    """A SIF image with an overlay for hardly any files, and an object behind it."""
    path = with_overlay(sifkit, rootfs_squash, tmp_path / "here", "--inodes", "64")
    sif.add(path, sif.NewObject(sif.DataType.GENERIC, b"behind it"))
    return path


def test_the_partition_is_written_anew_and_switched_to(sifkit: Program, without_inodes: str) -> None:
    image, before = without_inodes, overlay(without_inodes)
    for first in (0, 1000):  # the second time it is not empty, and shown by FUSE meanwhile
        loop = f"i={first}; while [ $i -lt {first + 500} ]; do echo $i > $i; i=$((i+1)); done"
        done = sifkit("exec", image, "sh", "-c", f"mkdir /d{first}; cd /d{first}; {loop}; exit 3", env=ORDINARY)
        assert (done.returncode, done.stderr) == (3, "")
    after = overlay(image)
    assert (after.id, after.offset != before.offset, after.size < 80 * MIB) == (before.id, True, True)
    assert sifkit.ok("exec", image, "sh", "-c", "cat /d0/499 /d1000/1499", env=ORDINARY) == "499\n1499\n"
    with sif.open(image) as opened:
        assert opened.read(opened.one(sif.of_type(sif.DataType.GENERIC))) == b"behind it"
    assert sound(sifkit, image)
    sifkit.ok("sif", "compact", image)
    assert sifkit.ok("exec", image, "cat", "/d0/499", env=ORDINARY) == "499\n"
    assert sound(sifkit, image)


def test_for_a_killed_run_too_and_it_is_locked_where_it_is_then(
    sifkit: Program, start: Start, without_inodes: str
) -> None:
    image, before = without_inodes, overlay(without_inodes)
    run = ("exec", image, "sh", "-c")
    running = start(*run, f"({MANY}); echo up; sleep 1000", env=ORDINARY)
    running.expect("up")
    running.signal(signal.SIGKILL)
    running.end()
    running.gone()
    running = start(*run, "ls /d | wc -l; echo more > /more; echo up; read line", env=ORDINARY, stdin=subprocess.PIPE)
    running.expect("200")
    running.expect("up")
    assert overlay(image).offset != before.offset
    other = sifkit("exec", "--writable", image, "true", env=ORDINARY)
    assert (other.returncode, "is in use for writing by" in other.stderr) == (255, True), other.stderr
    running.process.stdin.write(b"done\n")
    running.process.stdin.flush()
    assert running.end() == 0
    assert sifkit.ok(*run, "cat /d/199 /more", env=ORDINARY) == "199\nmore\n"
    assert sound(sifkit, image)


def test_what_may_not_be_rebuilt_says_what_to_do(sifkit: Program, without_inodes: str) -> None:
    image = without_inodes
    sif.add(image, sif.signature(b"signature", 1, link_group=1))
    before = Path(image).read_bytes()
    done = sifkit("exec", "--writable", "--max-size", "80M", image, "sh", "-c", MANY, env=ORDINARY)
    assert (done.returncode, "payload's status was 3" in done.stderr) == (255, True), done.stderr
    assert "it is signed" in done.stderr
    assert Path(image).read_bytes() == before
    for part in done.stderr.partition("try: ")[2].partition("; or ")[0].split(", then "):
        sifkit.ok(*part.split()[1:], env=ORDINARY)
    assert sifkit.ok("exec", image, "sh", "-c", "ls /d | wc -l", env=ORDINARY) == "200\n"
    assert sound(sifkit, image)
