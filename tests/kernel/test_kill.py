"""B5: however a run is killed, no process, mount, temporary directory or lock of it is left; the next run works."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from pathlib import Path

import images
import probes
import pytest
from images import Program
from probes import needs
from running import Start, options_of, wait_for

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs")]

ROUNDS = 20
SLOWEST = 0.15  # seconds; a start takes about half of it, so that half of the rounds hit a running payload

# Busy in its overlay, with a child in a session of its own.
BUSY = "(setsid sleep 1000 &); i=0; while :; do i=$((i + 1)); echo $i > /busy.$((i % 50)); rm -f /busy.$((i % 7)); done"


def words_for(kind: str, rootfs: Path, squash: Path, overlay: Path) -> list[str]:
    """Options and image of a run of each kind."""
    if kind == "squashfs":
        probes.require("squashfuse")
    elif kind == "fuse-overlayfs":
        probes.require("fuse-overlayfs")
    return {
        "directory": ["--overlay", str(overlay), str(rootfs)],
        "squashfs": ["--overlay", str(overlay), str(squash)],
        "fuse-overlayfs": ["--overlay", str(overlay), str(rootfs)],
        "tmpfs": ["--writable-tmpfs", str(rootfs)],
        "on disk": ["--writable-tmpfs", str(rootfs)],
    }[kind]


def environment_for(kind: str) -> dict[str, str]:
    """What makes a run of that kind here."""
    extra = {
        "squashfs": {"SIFKIT_DEBUG_WITHOUT": "loop"},  # root too would not use squashfuse else
        "fuse-overlayfs": {"SIFKIT_OVERLAY_DRIVER": "fuse-overlayfs"},
        "on disk": {"SIFKIT_DEBUG_WITHOUT": "tmpfs_xattr"},
    }
    return {**os.environ, **extra.get(kind, {})}


KINDS = ["directory", "squashfs", "fuse-overlayfs", "tmpfs"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_of_the_monitor_at_any_moment(
    start: Start, sifkit: Program, rootfs: Path, rootfs_squash: Path, overlay_dir: Path, kind: str
) -> None:
    words, environment = words_for(kind, rootfs, rootfs_squash, overlay_dir), environment_for(kind)
    chance = random.Random(kind)
    for number in range(ROUNDS):
        running = start("exec", *words, "sh", "-c", BUSY, env=environment)
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(chance.uniform(0, SLOWEST))
        running.signal(signal.SIGKILL)
        assert running.process.wait() == -signal.SIGKILL
        running.gone(10)
        if number % 5 == 4:
            done = sifkit("exec", *words, "true", env=environment)
            assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", [*KINDS, "on disk"])
@pytest.mark.parametrize("name", ["KILL", "TERM", "INT", "HUP"])
def test_an_end_of_a_running_one(
    start: Start, sifkit: Program, rootfs: Path, rootfs_squash: Path, overlay_dir: Path, kind: str, name: str
) -> None:
    words, environment = words_for(kind, rootfs, rootfs_squash, overlay_dir), environment_for(kind)
    number = getattr(signal, f"SIG{name}")
    running = start("exec", *words, "sh", "-c", f"echo ready; {BUSY}", env=environment)
    running.expect("ready\n")
    running.signal(number)
    assert running.end(10) == 128 + number
    running.gone(10)
    assert sifkit.ok("exec", *words, "cat", "/usr/share/demo/greeting", env=environment) == "hello from the base\n"


@pytest.mark.parametrize("kind", [*KINDS, "on disk"])
def test_a_kill_of_init(
    start: Start, sifkit: Program, rootfs: Path, rootfs_squash: Path, overlay_dir: Path, kind: str
) -> None:
    words, environment = words_for(kind, rootfs, rootfs_squash, overlay_dir), environment_for(kind)
    running = start("exec", *words, "sh", "-c", f"echo ready; {BUSY}", env=environment)
    running.expect("ready\n")
    os.kill(running.init(), signal.SIGKILL)
    assert running.end(10) == 137
    # The payload may come to say that its files are gone.
    ours = [line for line in running.said["stderr"].splitlines() if line.startswith("sifkit: ")]
    assert len(ours) == 1 and "init" in ours[0]
    running.gone(10)
    assert sifkit.ok("exec", *words, "cat", "/usr/share/demo/greeting", env=environment) == "hello from the base\n"


@pytest.mark.parametrize("options", [[], ["--pid"]], ids=" ".join)
def test_a_kill_of_all_while_the_scripts_of_the_image_are_sourced(start: Start, tree: Path, options: list[str]) -> None:
    """Their shell ends by stopping: one that is left would stay for ever, and with it the end of the output."""
    (tree / ".singularity.d/env/90-wait.sh").write_text("echo sourced\nwhile kill -0 $PPID; do :; done\n")
    running = start("exec", *options, str(tree), "true")
    running.expect("sourced\n")
    for pid in sorted(running.processes(), reverse=True):  # not the shell, which has none of the host's variables
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert running.end(10) == 137


@pytest.mark.parametrize("name", ["KILL", "TERM"])
@pytest.mark.parametrize("kind", ["squashfs", "fuse-overlayfs"])
def test_a_kill_of_the_fuse_server(
    start: Start, sifkit: Program, rootfs: Path, rootfs_squash: Path, overlay_dir: Path, kind: str, name: str
) -> None:
    """The payload sees errors, nothing hangs, one line says what happened."""
    words, environment = words_for(kind, rootfs, rootfs_squash, overlay_dir), environment_for(kind)
    script = "echo ready; while ls /usr/share/demo/ >/dev/null 2>&1; do :; done; echo failed; exit 5"
    running = start("exec", *words, "sh", "-c", script, env=environment)
    running.expect("ready\n")
    os.kill(running.server(), getattr(signal, f"SIG{name}"))
    running.expect("failed\n")
    assert running.end(10) == 5
    assert running.said["stderr"].count("\n") == 1
    assert "ended unexpectedly" in running.said["stderr"]
    running.gone(10)
    assert sifkit("exec", *words, "true", env=environment).returncode == 0


@needs("squashfuse")
def test_a_server_that_is_stopped_and_goes_on_has_not_ended(start: Start, rootfs_squash: Path) -> None:
    script = "echo ready; read line; cat /usr/share/demo/greeting"
    environment = environment_for("squashfs")
    running = start("exec", str(rootfs_squash), "sh", "-c", script, env=environment, stdin=subprocess.PIPE)
    running.expect("ready\n")
    server = running.server()
    for number in (signal.SIGSTOP, signal.SIGCONT):
        os.kill(server, number)
    running.process.stdin.write(b"\n")
    running.process.stdin.close()
    running.process.stdin = None
    assert running.end() == 0
    assert running.said == {"stdout": "ready\nhello from the base\n", "stderr": ""}


def test_a_kill_while_left_overs_are_being_ended(start: Start, rootfs: Path) -> None:
    running = start("exec", str(rootfs), "sh", "-c", "(trap '' TERM; exec sleep 1000) & sleep 0.1")
    running.expect("left behind", "stderr")
    running.signal(signal.SIGKILL)
    running.gone(3)
    assert running.end() == 137


def test_a_kill_of_everything_at_once(start: Start, sifkit: Program, rootfs: Path, overlay_dir: Path) -> None:
    """As batch systems end jobs."""
    words = ["exec", "--overlay", str(overlay_dir), str(rootfs)]
    for _ in range(5):
        running = start(*words, "sh", "-c", f"echo ready; {BUSY}")
        running.expect("ready\n")
        os.killpg(running.pid, signal.SIGKILL)
        assert running.end(10) == 137
        running.gone(5)
        assert sifkit(*words, "true").returncode == 0


def test_a_kill_while_it_is_stopped(start: Start, rootfs: Path) -> None:
    running = start("exec", "--writable-tmpfs", str(rootfs), "sh", "-c", f"echo ready; {BUSY}")
    running.expect("ready\n")
    payload = running.named("sh")
    os.kill(payload, signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "a stop")
    running.signal(signal.SIGKILL)
    running.gone(10)
    assert running.end() == 137


def test_the_host_sees_nothing_of_a_runs_mounts(start: Start, rootfs: Path, overlay_dir: Path) -> None:
    """Not while it runs either; what is left of it goes with its last process."""
    before = Path("/proc/self/mountinfo").read_text()
    script = "echo ready; cat /proc/self/mountinfo"
    running = start("exec", "--overlay", str(overlay_dir), str(rootfs), "sh", "-c", script)
    running.expect("ready\n")
    assert Path("/proc/self/mountinfo").read_text() == before
    assert running.end() == 0
    assert options_of(running.said["stdout"].removeprefix("ready\n"), ["overlay"])[0][0] == "/"
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_killed_run_leaves_an_overlay_that_can_be_deleted(start: Start, rootfs: Path, overlay_dir: Path) -> None:
    """B40: work/work has mode 000 as the kernel makes it."""
    running = start("exec", "--overlay", str(overlay_dir), str(rootfs), "sh", "-c", f"echo ready; {BUSY}")
    running.expect("ready\n")
    running.signal(signal.SIGKILL)
    running.gone(10)
    assert images.run("rm", "-rf", str(overlay_dir)).returncode == 0
    assert not overlay_dir.exists()
