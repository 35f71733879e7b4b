"""A directory overlay has many readers or one writer; who comes too late is told who has it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from images import Program
from probes import needs
from running import Running, Start, wait_for

from overlay.locks import lock

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs")]

OURS = 255


@pytest.fixture
def writer(start: Start, rootfs: Path, overlay_dir: Path) -> Running:
    """A run that writes into the overlay, as long as the test likes."""
    running = start("exec", "--overlay", str(overlay_dir), str(rootfs), "sh", "-c", "echo ready; exec sleep 1000")
    running.expect("ready\n")
    return running


def end(running: Running) -> None:
    """End the run in the orderly way."""
    running.signal(signal.SIGTERM)
    assert running.end() == 143


def test_a_second_writer_is_told_who_has_it(sifkit: Program, rootfs: Path, overlay_dir: Path, writer: Running) -> None:
    """B7: host, pid, since when; and at once."""
    done = sifkit("exec", "--overlay", str(overlay_dir), str(rootfs), "true", timeout=10)
    assert done.returncode == OURS
    assert re.search(rf"\bpid {writer.pid} on {re.escape(os.uname().nodename)}\b", done.stderr)
    assert len(re.findall(r"\bpid \d+", done.stderr)) == 1  # one run, though its init holds the lock as well
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", done.stderr)
    assert str(overlay_dir) in done.stderr and "try:" in done.stderr and "Traceback" not in done.stderr
    end(writer)
    assert sifkit("exec", "--overlay", str(overlay_dir), str(rootfs), "true").returncode == 0


def test_by_whatever_name(sifkit: Program, rootfs: Path, overlay_dir: Path, writer: Running) -> None:
    other = overlay_dir.with_name("link")
    other.symlink_to(overlay_dir)
    assert sifkit("exec", "--overlay", f"{other}:rw", str(rootfs), "true").returncode == OURS
    assert sifkit("exec", "--overlay", "changes/", str(rootfs), "true", cwd=overlay_dir.parent).returncode == OURS
    end(writer)


def test_two_readers_share_it(start: Start, rootfs: Path, overlay_dir: Path, sifkit: Program) -> None:
    sifkit.ok("exec", "--overlay", str(overlay_dir), str(rootfs), "sh", "-c", "echo kept > /kept")
    words = ["exec", "--overlay", f"{overlay_dir}:ro", str(rootfs), "sh", "-c", "cat /kept; exec sleep 1000"]
    readers = [start(*words) for _ in range(2)]
    for reader in readers:
        reader.expect("kept\n")
    for reader in readers:
        end(reader)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_is_free_when_the_writer_has_ended(
    sifkit: Program, rootfs: Path, overlay_dir: Path, writer: Running, number: int
) -> None:
    """B5: however it ended; the record that a killed one left names nobody any more."""
    writer.signal(number)
    assert writer.end() == 128 + number
    wait_for(lambda: lock.in_use(str(overlay_dir)) == "", "the lock", 5)
    assert lock.holders(str(overlay_dir)) == []
    assert sifkit("exec", "--overlay", str(overlay_dir), str(rootfs), "true").stderr == ""


def test_it_is_held_until_the_last_process_has_ended(start: Start, rootfs: Path, overlay_dir: Path) -> None:
    """After SIGKILL of the monitor too: what still writes keeps it."""
    script = "(trap '' TERM; echo ready; exec sleep 1000) & sleep 0.1"
    running = start("exec", "--overlay", str(overlay_dir), str(rootfs), "sh", "-c", script)
    running.expect("left behind", "stderr")
    assert lock.in_use(str(overlay_dir)) == "write"
    running.signal(signal.SIGKILL)
    wait_for(lambda: lock.in_use(str(overlay_dir)) == "", "the lock", 5)
    running.gone(0.5)
    assert running.end() == 137


def test_the_payload_does_not_hold_it(start: Start, rootfs: Path, overlay_dir: Path) -> None:
    """Nor could it give it away."""
    running = start("exec", "--overlay", str(overlay_dir), str(rootfs), "sleep", "1000")
    sleeping = running.named("sleep")
    links = {os.readlink(link) for link in Path(f"/proc/{sleeping}/fd").iterdir()}
    assert not [link for link in links if str(overlay_dir) in link]
    end(running)


def test_a_run_without_it_needs_no_lock(sifkit: Program, rootfs: Path, writer: Running) -> None:
    assert sifkit("exec", str(rootfs), "true").returncode == 0
    assert sifkit("exec", "--writable-tmpfs", str(rootfs), "true").returncode == 0
    end(writer)


def test_waiting_for_the_lock(start: Start, rootfs: Path, overlay_dir: Path, writer: Running) -> None:
    words = ["--overlay", str(overlay_dir), str(rootfs), "echo", "mine"]
    waiting = start("exec", "--wait-lock", "20", *words)
    late = start("exec", "--wait-lock", "0.1", *words)
    assert late.end() == OURS
    assert waiting.process.poll() is None
    end(writer)
    assert waiting.end() == 0
    assert waiting.said["stdout"] == "mine\n"


def test_an_image_given_by_two_of_its_names_is_one(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """Else this run would find it in use by itself."""
    sifkit.ok("overlay", "create", f"{tmp_path}/a.img")
    os.link(tmp_path / "a.img", tmp_path / "b.img")
    done = sifkit("exec", "--overlay", f"{tmp_path}/a.img", "--overlay", f"{tmp_path}/b.img:ro", str(rootfs), "true")
    assert (done.returncode, "b.img is given twice" in done.stderr) == (0, True), done.stderr
