"""Images that our FUSE server shows in containers: the same as fuse2fs shows, and what happens when it is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import images
import pytest
from images import Program
from probes import IS_ROOT, needs
from running import Start

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "fuse2fs", "mke2fs", "debugfs", "xattr")]

WITHOUT = "root,loop," if IS_ROOT else "loop,"
FILL = """
mkdir /many /many/sub; cd /many; i=0
while [ $i -lt 300 ]; do echo $i > $i; i=$((i+1)); done
dd if=/dev/urandom of=big bs=64k count=50 2>/dev/null; ln big sub/other; ln -s ../big link; mkfifo fifo
touch -d '2001-02-03 04:05:06' sub; chmod 1750 sub; chmod 4711 0
"""
LOOK = """
cd /many && find . | sort | while read -r name; do
    stat -c '%n %f %s %h %u %g %b %Y' "$name"; [ -L "$name" ] && readlink "$name"
    [ -f "$name" ] && md5sum "$name"; done; :
"""


def env(absent: str = "") -> dict[str, str]:
    return {**os.environ, "SIFKIT_DEBUG_WITHOUT": WITHOUT + absent}


@pytest.fixture
def image(sifkit: Program, rootfs: Path, tmp_path: Path) -> str:
    path = f"{tmp_path}/over.img"
    sifkit.ok("overlay", "create", path)
    sifkit.ok("exec", "--overlay", path, str(rootfs), "sh", "-c", FILL, env=env())
    return path


@pytest.mark.parametrize("mode", ["", ":ro"])
def test_it_shows_what_fuse2fs_shows(sifkit: Program, rootfs: Path, image: str, mode: str) -> None:
    command = ("exec", "--debug", "--overlay", image + mode, str(rootfs), "sh", "-c", LOOK)
    ours, theirs = (sifkit(*command, env=env(absent)) for absent in ("", "ext_server"))
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    assert "(sifkit-ext3)" in ours.stderr and "(fuse2fs)" in theirs.stderr
    assert len(ours.stdout.splitlines()) > 600
    assert ours.stdout == theirs.stdout


def test_fractions_of_times_are_shown(sifkit: Program, rootfs: Path, image: str) -> None:
    images.run("/usr/sbin/debugfs", "-w", "-R", "sif /upper/many/7 mtime_extra 493827156", image)  # shifted by 2 bits
    said = sifkit.ok("exec", "--overlay", image, str(rootfs), "stat", "-c", "%y", "/many/7", env=env())
    assert said.split()[1].endswith(".123456789")


def test_copied_up_with_attributes(sifkit: Program, rootfs: Path, image: str) -> None:
    images.run("/usr/sbin/debugfs", "-w", "-R", "ea_set /upper/many/7 user.colour blue", image)
    command = ("exec", "--overlay", image, str(rootfs), "sh", "-c")
    for _ in range(2):  # as found by a look at the image, and as remembered
        sifkit.ok(*command, "echo more >> /many/7; cat /many/7", env=env())
        said = images.run("/usr/sbin/debugfs", "-R", "ea_get /upper/many/7 user.colour", image)
        assert "blue" in said.stdout


def test_a_known_difference(sifkit: Program, rootfs: Path, image: str) -> None:
    """docs/staged-writes.md: nothing in the image has attributes, so the kernel asks for none."""
    binds = [f"--bind={path}" for path in ("/usr", "/lib", "/lib64") if os.path.exists(path)]
    script = """
import os
def get(name):
    try: return os.getxattr("/many/7", name).decode()
    except OSError as error: return os.strerror(error.errno)
print(os.listxattr("/many/7"), get("user.a"))
os.setxattr("/many/7", "user.b", b"new")
print(os.listxattr("/many/7"), get("user.b"))
"""
    command = ("exec", *binds, "--overlay", image, str(rootfs), "/usr/bin/python3", "-c", script)
    assert sifkit.ok(*command, env=env()).splitlines() == ["[] Operation not supported", "['user.b'] new"]
    assert sifkit.ok(*command, env=env()).splitlines() == ["['user.b'] No data available", "['user.b'] new"]


def test_its_end_is_told_and_the_changes_are_kept(start: Start, sifkit: Program, rootfs: Path, image: str) -> None:
    script = "echo new > /new; echo up; read line; cat /many/big > /dev/null || echo gone"
    running = start("exec", "--overlay", image, str(rootfs), "sh", "-c", script, env=env(), stdin=-1)
    running.expect("up")
    called = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in running.processes()}
    os.kill(next(pid for pid, name in called.items() if name == "sifkit-ext3"), signal.SIGKILL)
    running.process.stdin.close()
    running.end()
    assert "gone" in running.said["stdout"]
    assert "sifkit-ext3 ended unexpectedly" in running.said["stderr"]
    assert sifkit.ok("exec", "--overlay", image, str(rootfs), "cat", "/new", "/many/9", env=env()) == "new\n9\n"
    assert images.run("/usr/sbin/e2fsck", "-fn", image).returncode == 0


def test_an_image_that_is_damaged(sifkit: Program, rootfs: Path, image: str) -> None:
    block = images.run("/usr/sbin/debugfs", "-R", "blocks /upper/many/sub", image).stdout.split()[0]
    with open(image, "r+b") as file:
        file.seek(int(block) * 4096 + 4)
        file.write(b"\0\0")  # the length of its first name
    command = ("exec", "--overlay", f"{image}:ro", str(rootfs), "cat", "/many/9")
    done = sifkit(*command, env=env())  # all names are read, for nothing is remembered of it as it is now
    assert (done.returncode, "damaged directory" in done.stderr) == (255, True), done.stderr
    assert f"sifkit overlay check {image}" in done.stderr
    script = "cat /many/9; cat /many/sub/other"
    done = sifkit("exec", "--overlay", image, str(rootfs), "sh", "-c", script, env=env())
    assert (done.stdout, done.returncode == 0) == ("9\n", False)
    assert "sifkit-ext3: inode" in done.stderr and "damaged directory" in done.stderr
