"""What can stand between a session and its image: each has its sentence, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import images
import pytest
from images import MIB, Program
from probes import IS_ROOT, needs, only_root
from running import Start

from overlay.manage.create import create_ext3

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "fuse2fs", "mke2fs", "debugfs", "xattr")]

WITHOUT = "root,loop" if IS_ROOT else ""


def env(**more: str) -> dict[str, str]:
    return {**os.environ, "SIFKIT_DEBUG_WITHOUT": WITHOUT, **more}


class Shop:
    """An image in a directory of its own, on one of several hosts."""

    def __init__(self, sifkit: Program, start: Start, rootfs: Path, place: Path, local: Path) -> None:
        self.sifkit, self.start, self.rootfs, self.local = sifkit, start, str(rootfs), local
        self.image = f"{place}/over.img"
        sifkit.ok("overlay", "create", self.image)

    def run(self, script: str, *options: str, mode: str = "", **more: str) -> tuple[int, str, str]:
        command = ("exec", *options, "--overlay", self.image + mode, self.rootfs, "sh", "-c", script)
        done = self.sifkit(*command, env=env(**more))
        return done.returncode, done.stdout, done.stderr

    def ok(self, script: str, mode: str = "", **more: str) -> str:
        status, said, complaints = self.run(script, mode=mode, **more)
        assert (status, complaints) == (0, "")
        return said

    def killed(self, script: str, *options: str, **more: str) -> None:
        """A run that is killed when ``script`` is done."""
        command = ("exec", *options, "--overlay", self.image, self.rootfs, "sh", "-c", f"{script}; echo up; sleep 1000")
        running = self.start(*command, env=env(**more))
        running.expect("up")
        running.signal(signal.SIGKILL)
        running.end()
        running.gone()

    def sessions(self, **more: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(
            self.sifkit.ok("session", "list", "--json", cwd=os.path.dirname(self.image), env=env(**more))
        )
        return found

    def sound(self) -> bool:
        return images.run("/usr/sbin/e2fsck", "-fn", self.image).returncode == 0


@pytest.fixture
def shop(sifkit: Program, start: Start, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    for name in ("home", "here", "local"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return Shop(sifkit, start, rootfs, tmp_path / "here", tmp_path / "local")


# -- two hosts -------------------------------------------------------------------------------------------


def test_changes_on_another_hosts_disk(shop: Shop, tmp_path: Path) -> None:
    """Out of reach they are named with their host; back again they are put in; what was changed since decides."""
    shop.ok("echo one > /one; echo two > /two")
    shop.killed("echo node7 > /one", SIFKIT_DEBUG_HOST="node7", SIFKIT_SESSION_DIR=str(shop.local))
    (left,) = os.listdir(shop.local)
    away = tmp_path / "away"
    os.rename(shop.local, away)  # the disk of another host
    for mode in ("", ":ro"):
        status, said, complaints = shop.run("cat /one", mode=mode)
        assert (status, said, complaints.count("WARNING"), "node7" in complaints) == (0, "one\n", 1, True), complaints
    assert shop.run("echo here > /three")[0] == 0
    os.rename(away, shop.local)
    status, said, complaints = shop.run("cat /one /two /three", SIFKIT_DEBUG_HOST="node7")
    assert (status, said) == (0, "node7\ntwo\nhere\n"), complaints
    assert "have been put into it" in complaints
    assert os.listdir(shop.local) == []
    assert left.startswith("sifkit-session-node7-")
    assert shop.sound()


def test_the_same_path_changed_on_two_hosts(shop: Shop, tmp_path: Path) -> None:
    shop.ok("echo one > /one; echo two > /two")
    shop.killed("echo node7 > /one; rm /two", SIFKIT_DEBUG_HOST="node7", SIFKIT_SESSION_DIR=str(shop.local))
    away = tmp_path / "away"
    os.rename(shop.local, away)
    assert shop.run("echo here > /one")[0] == 0
    os.rename(away, shop.local)
    status, said, complaints = shop.run("cat /one; ls /two", SIFKIT_DEBUG_HOST="node7")
    assert (status, said, complaints.count("WARNING")) == (0, "here\n/two\n", 1), complaints
    assert "/one" in complaints
    assert "--force" in complaints
    name = str(shop.sessions(SIFKIT_SESSION_DIR=str(shop.local))[0]["name"])
    commit = ("session", "commit", name)
    assert shop.sifkit(*commit, env=env()).returncode == 255
    shop.sifkit.ok(*commit, "--force", env=env())
    assert shop.ok("cat /one; test ! -e /two") == "node7\n"


def test_another_host_takes_back_a_commit_that_was_cut_off(shop: Shop, tmp_path: Path) -> None:
    """The undo log lies beside the image, the session on a disk that is out of reach."""
    shop.ok("echo one > /one")
    name = cut_off(shop, "echo node7 > /one; echo node7 > /two")
    away = tmp_path / "away"
    os.rename(shop.local, away)
    status, said, complaints = shop.run("cat /one; test ! -e /two")
    assert (status, said) == (0, "one\n"), complaints
    assert "has been taken back" in complaints
    assert shop.sound()
    os.rename(away, shop.local)
    assert [one["name"] for one in shop.sessions(SIFKIT_SESSION_DIR=str(shop.local))] == [name]
    status, said, complaints = shop.run("cat /one /two")
    assert (status, said) == (0, "node7\nnode7\n"), complaints
    assert shop.sound()


def cut_off(shop: Shop, script: str) -> str:
    """A session on node7 whose commit changed half of the image when it was killed; its name."""
    from overlay.commit import carry as commit
    from overlay.section import Section
    from overlay.session import marker as session_marker
    from overlay.session import state as session

    shop.killed(script, SIFKIT_DEBUG_HOST="node7", SIFKIT_SESSION_DIR=str(shop.local))
    (entry,) = os.listdir(shop.local)
    one = session.read(f"{shop.local}/{entry}")
    assert one is not None
    undo = f"{os.path.dirname(shop.image)}/.over.img.sifkit-undo-{one.record.name}"
    one = one.put(state=session.INTENT, undo=undo)
    session_marker.put(shop.image, one.record, one.path)
    section = Section(shop.image, 0, os.path.getsize(shop.image))
    commit.commit(section, one.upper, None, undo, lambda text: None)
    with open(shop.image, "r+b") as file:  # as if the superblock had not been reached
        file.seek(1024 + 12)
        file.write(b"\1\0\0\0")
    return one.record.name


def test_recover_takes_it_back_without_a_run(shop: Shop) -> None:
    shop.ok("echo one > /one")
    name = cut_off(shop, "echo node7 > /one")
    assert shop.sifkit.ok("overlay", "cat", f"{shop.image}:/one") == "node7\n"
    said = shop.sifkit.ok("session", "recover", env=env(SIFKIT_SESSION_DIR=str(shop.local)))
    assert name in said
    assert shop.sifkit.ok("overlay", "cat", f"{shop.image}:/one") == "one\n"
    assert shop.sound()
    assert shop.run("cat /one", mode=":ro")[1] == "node7\n"  # shown, not in it
    shop.sifkit.ok("session", "drop", name, env=env(SIFKIT_SESSION_DIR=str(shop.local)))
    assert shop.ok("cat /one") == "one\n"


# -- images that changed ---------------------------------------------------------------------------------


def test_the_image_was_replaced(shop: Shop) -> None:
    shop.killed("echo lost? > /one")
    os.unlink(shop.image)
    shop.sifkit.ok("overlay", "create", shop.image)
    status, _, complaints = shop.run("test ! -e /one")
    assert (status, complaints.count("WARNING"), "another overlay that had this name" in complaints) == (0, 1, True)
    assert len(shop.sessions()) == 1
    name = str(shop.sessions()[0]["name"])
    done = shop.sifkit("session", "commit", name, env=env())
    assert (done.returncode, "another file system" in done.stderr) == (255, True)


def test_the_image_was_cut(shop: Shop) -> None:
    shop.killed("echo kept > /one")
    whole = Path(shop.image).read_bytes()
    os.truncate(shop.image, 40 * MIB)
    status, _, complaints = shop.run("true")
    assert (status, "truncated" in complaints) == (255, True), complaints
    with open(shop.image, "r+b") as file:
        file.write(whole)
    assert shop.run("cat /one")[1] == "kept\n"


@pytest.mark.parametrize("inside", ["one", "other"])
def test_another_tool_changed_the_image(shop: Shop, inside: str, tmp_path: Path) -> None:
    shop.ok("echo one > /one")
    shop.killed("echo session > /one")
    (tmp_path / "file").write_text("tool\n")
    commands = f"cd /upper\nrm {inside}\nwrite {tmp_path}/file {inside}\n"
    (tmp_path / "commands").write_text(commands)
    images.run("/usr/sbin/debugfs", "-w", "-f", str(tmp_path / "commands"), shop.image)
    status, said, complaints = shop.run("cat /one")
    assert (status, said) == (0, "tool\n" if inside == "one" else "session\n"), complaints
    assert ("--force" in complaints) == (inside == "one")
    assert len(shop.sessions()) == (inside == "one")


def test_the_session_was_removed_by_hand(shop: Shop) -> None:
    shop.killed("echo x > /one")
    shutil.rmtree(str(shop.sessions()[0]["path"]), ignore_errors=True)
    images.run("chmod", "-R", "u+rwX", os.path.dirname(shop.image))
    images.run("sh", "-c", f"rm -rf {os.path.dirname(shop.image)}/sifkit-session-*")
    status, _, complaints = shop.run("test ! -e /one")
    assert (status, complaints.count("WARNING"), "are lost" in complaints) == (0, 1, True), complaints
    assert shop.ok("true") == ""


def test_an_image_that_may_not_be_written(shop: Shop) -> None:
    if not os.geteuid():
        pytest.skip("root may write in every file")
    shop.killed("echo x > /one")
    os.chmod(shop.image, 0o444)
    status, said, complaints = shop.run("cat /one", mode=":ro")
    assert (status, said, complaints) == (0, "x\n", "")
    name = str(shop.sessions()[0]["name"])
    done = shop.sifkit("session", "commit", name, env=env())
    assert (done.returncode, "Permission denied" in done.stderr) == (255, True), done.stderr
    os.chmod(shop.image, 0o644)
    assert shop.run("cat /one")[1] == "x\n"


# -- no room ---------------------------------------------------------------------------------------------


@only_root
@needs("privileged")
def test_a_full_disk(sifkit: Program, start: Start, rootfs: Path, tmp_path: Path) -> None:
    """A sparse image on a disk that ends before it does."""
    disk, local = tmp_path / "disk", tmp_path / "local"
    disk.mkdir()
    local.mkdir()
    images.run("mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk))
    try:
        image = f"{disk}/over.img"
        create_ext3(image, 64 * MIB, sparse=True)
        command = ("exec", "--session-dir", str(local), "--overlay", image, str(rootfs), "sh", "-c")
        sifkit.ok(*command, "echo one > /one", env=env())
        script = "dd if=/dev/urandom of=/big bs=1M count=50 2>/dev/null; md5sum < /big"
        done = sifkit(*command, script, env=env())
        assert (done.returncode, "No space left" in done.stderr) == (255, True), done.stderr
        assert images.run("/usr/sbin/e2fsck", "-fn", image).returncode == 0
        assert sifkit.ok("overlay", "cat", f"{image}:/one") == "one\n"
        images.run("mount", "-o", "remount,size=200m", str(disk))
        again = sifkit(*command, "md5sum < /big", env=env())
        assert again.stdout == done.stdout, again.stderr
        assert images.run("/usr/sbin/e2fsck", "-fn", image).returncode == 0
    finally:
        images.run("umount", str(disk))


def test_inodes_run_out(shop: Shop) -> None:
    """An image made with few of them grows until there are enough."""
    os.unlink(shop.image)
    shop.sifkit.ok("overlay", "create", "--inodes", "64", shop.image)
    status, _, complaints = shop.run("mkdir /d; i=0; while [ $i -lt 200 ]; do : > /d/$i; i=$((i+1)); done", "--no-grow")
    assert (status, "inodes free, and the changes need 20" in complaints) == (255, True), complaints
    status, said, complaints = shop.run("ls /d | wc -l")
    assert (status, said) == (0, "200\n"), complaints
    assert shop.sound()
    assert not shop.sessions()
