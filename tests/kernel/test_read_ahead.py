"""What FUSE unpacks for a start: each block of the shell once, though its pages are touched in no order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images import Program, make_squash
from probes import needs
from running import Start

pytestmark = [pytest.mark.kernel, needs("userns", "fuse", "squashfuse")]


def bytes_read(start: Start, image: Path, *without: str) -> int:
    """What the FUSE server of a run on ``image`` has read of it when the payload runs (proc_pid_io(5))."""
    environment = {**os.environ, "SIFKIT_DEBUG_WITHOUT": ",".join(("loop", *without))}
    running = start("exec", str(image), "sh", "-c", "echo ready; sleep 1000", env=environment)
    running.expect("ready\n")
    fields = dict(line.split(": ") for line in Path(f"/proc/{running.server()}/io").read_text().splitlines())
    running.close()
    return int(fields["rchar"])


def test_blocks_of_the_shell_are_unpacked_once(start: Start, rootfs_squash: Path) -> None:
    ahead, as_touched = bytes_read(start, rootfs_squash), bytes_read(start, rootfs_squash, "read-ahead")
    assert ahead < 0.8 * as_touched
    assert ahead < 1.2 * rootfs_squash.stat().st_size


@pytest.mark.parametrize("kind", ["nothing", "a pipe", "a link to nothing", "a link out of it", "a directory"])
def test_an_image_runs_whatever_its_shell_is(sifkit: Program, bare: Path, kind: str) -> None:
    shell = bare / "bin/sh"
    if kind == "a pipe":
        os.mkfifo(shell, 0o755)
    elif kind == "a directory":
        shell.mkdir()
    elif kind != "nothing":
        shell.symlink_to("/nowhere" if kind == "a link to nothing" else "../../../../../../bin/true")
    image = make_squash(bare, bare.with_name("image.sqfs"))
    environment = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "loop"}
    done = sifkit("exec", str(image), "env", env=environment, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
