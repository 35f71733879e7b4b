"""kill -9 at random moments: what a payload had written is in the image or in its session, and the image is sound."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import images
import pytest
from images import Program
from probes import IS_ROOT, needs
from running import Running, Start, children

from sifkit import sif

# The bench asks for more of them, and for a file with how many were recovered.
ROUNDS = int(os.environ.get("SIFKIT_TEST_KILLS", "10"))
REPORT = os.environ.get("SIFKIT_TEST_KILLS_REPORT", "")

pytestmark = [
    pytest.mark.kernel,
    needs("userns", "overlayfs", "fuse2fs", "mke2fs", "debugfs"),
    pytest.mark.limit(max(300, 10 * ROUNDS)),
]

ORDINARY = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "root,loop"} if IS_ROOT else dict(os.environ)

# Round N writes /rN, and says so when it is done; the tree of two rounds before goes.
ROUND = """
mkdir /r$1; i=0
while [ $i -lt 40 ]; do echo $i > /r$1/$i; i=$((i+1)); done
ln /r$1/1 /r$1/link; rm -rf /r$(($1 - 2)); echo $1 >> /log; echo written
"""
LOOK = 'cd /; cat log; for d in r[0-9]*; do echo $d: $(ls $d | wc -l); done; head -c 200 /r"$1"/39 /r"$1"/link'


class Shop:
    """One image, and what its runs have written."""

    def __init__(self, sifkit: Program, start: Start, rootfs: Path, target: list[str], image: str) -> None:
        self.sifkit, self.start, self.rootfs, self.target, self.image = sifkit, start, rootfs, target, image
        self.number = 100  # of three digits, so that `ls` sorts them as numbers
        self.put_in = 0

    def command(self, script: str) -> tuple[str, ...]:
        return ("exec", *self.target, "sh", "-c", script, "sh", str(self.number))

    def kill_one(self, victim: str, seconds: float) -> None:
        """A run whose ``victim`` is killed ``seconds`` after its payload has written everything."""
        self.number += 1
        running = self.start(*self.command(ROUND), env=ORDINARY)
        running.expect("written")
        time.sleep(seconds)  # the moment is the point; nothing waits for it
        self.kill(running, victim)
        running.end()
        running.gone()

    def kill(self, running: Running, victim: str) -> None:
        init = next(iter(children(running.pid)), 0)
        commit = next(iter(children(init)), 0) if init else 0
        chosen = {"monitor": running.pid, "init": init, "commit": commit}[victim]
        with contextlib.suppress(ProcessLookupError):
            os.kill(chosen or running.pid, signal.SIGKILL)

    def kill_recovery(self, seconds: float) -> None:
        """A run that puts in what the last one left, killed meanwhile."""
        running = self.start("exec", *self.target, "true", env=ORDINARY)
        time.sleep(seconds)
        for pid in running.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.end()
        running.gone()

    def check(self) -> None:
        """That nothing is lost. What was not in the image yet is put into it by this run, or was by the one before."""
        done = self.sifkit(*self.command(LOOK), env=ORDINARY)
        assert done.returncode == 0, done.stderr
        said = done.stdout
        self.put_in += "have been put into it" in done.stderr
        log = [str(n) for n in range(101, self.number + 1)]
        there = [f"r{n}: 41" for n in range(max(101, self.number - 1), self.number + 1)]
        lines = said.split("\n")
        assert lines[: len(log)] == log, said
        assert [line for line in lines if line.startswith("r") and ":" in line] == there, said
        self.sound()

    def sound(self) -> None:
        section = images.run(self.sifkit.path, "overlay", "check", self.image)
        assert section.returncode == 0, section.stdout + section.stderr


@pytest.fixture(params=["standalone", "embedded"])
def shop(
    request: pytest.FixtureRequest, sifkit: Program, start: Start, rootfs: Path, rootfs_squash: Path, tmp_path: Path
) -> Shop:
    if request.param == "standalone":
        image = f"{tmp_path}/over.img"
        sifkit.ok("overlay", "create", image)
        return Shop(sifkit, start, rootfs, ["--overlay", image, str(rootfs)], image)
    image = f"{tmp_path}/image.sif"
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "amd64")
    sif.create(image, [sif.partition(rootfs_squash, sif.FsType.SQUASHFS, sif.PartType.PRIMARY, arch)])
    sifkit.ok("overlay", "create", image)
    return Shop(sifkit, start, rootfs, [image], image)


def test_a_kill_loses_nothing(shop: Shop) -> None:
    chance = random.Random(str(shop.target))
    for turn in range(ROUNDS):
        victim = ("monitor", "init", "commit")[turn % 3]
        shop.kill_one(victim, chance.uniform(0, 0.15))
        if turn % 2:
            shop.kill_recovery(chance.uniform(0.05, 0.6))
        shop.check()
        if REPORT:
            Path(REPORT).write_text(f"{turn + 1} {shop.put_in}")
