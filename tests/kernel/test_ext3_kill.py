"""Kills at random moments: nothing is left running or locked, and the next run works (B5)."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import images
import pytest
from images import Program
from probes import needs
from running import Running, Start

pytestmark = [
    pytest.mark.kernel,
    needs("userns", "overlayfs", "fuse2fs", "fuse-overlayfs", "mke2fs", "debugfs"),
    pytest.mark.limit(300),
]

WRITE = "i=0; while :; do i=$((i+1)); echo $i > /file$i; [ $i = 20 ] && echo up; done"


@pytest.mark.parametrize("victim", ["monitor", "init", "fuse2fs", "fuse-overlayfs"])
def test_a_kill_at_any_moment_costs_the_next_run_nothing(
    start: Start, sifkit: Program, rootfs: Path, tmp_path: Path, victim: str
) -> None:
    image = f"{tmp_path}/over.img"
    sifkit.ok("overlay", "create", image)
    env = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "loop"}
    chance = random.Random(victim)
    for _ in range(5):
        running = start("exec", "--overlay", f"{image}:fuse", str(rootfs), "sh", "-c", WRITE, env=env)
        running.expect("up")
        time.sleep(chance.uniform(0, 0.05))  # the moment is the point; nothing waits for it
        os.kill(_victim(running, victim), signal.SIGKILL)
        if victim.startswith("fuse"):
            running.signal(signal.SIGTERM)
        running.end()
        running.gone()
        done = sifkit("exec", "--overlay", image, str(rootfs), "sh", "-c", "rm -f /file*; echo alive", env=env)
        assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
        assert images.run("/usr/sbin/e2fsck", "-fn", image).returncode == 0


def _victim(running: Running, name: str) -> int:
    if name == "monitor":
        return running.pid
    return running.init() if name == "init" else running.named(name)
