"""``sifkit sif dump``: the bytes of an object, where they are wanted, and nothing lost for them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sif_calls import call, failure

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def test_dump(image: str, tmp_path: Path, run: Run) -> None:
    assert run("dump", 1, image).stdout == b"bootstrap: scratch\n"
    out = tmp_path / "out"
    assert run("dump", 1, image, "-o", out).returncode == 0
    assert out.read_bytes() == b"bootstrap: scratch\n"
    out.write_bytes(b"a longer text than the object has")
    assert "exists already" in failure("dump", 1, image, "-o", out).brief
    assert call("dump", 1, image, "-o", out, "--force").exit_code == 0
    assert out.read_bytes() == b"bootstrap: scratch\n"
    before = Path(image).read_bytes()
    failure("dump", 1, image, "-o", image, "--force")
    assert Path(image).read_bytes() == before


def test_dump_into_a_pipe_needs_no_force(image: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        assert call("dump", 1, image, "-o", pipe).exit_code == 0
        assert reader.communicate(timeout=60)[0] == b"bootstrap: scratch\n"
    full = failure("dump", 1, image, "-o", "/dev/full")
    assert (full.cause, os.path.exists("/dev/full")) == ("No space left on device", True)


def test_dump_never_to_a_terminal(image: str) -> None:
    controller, terminal = pty.openpty()
    name = os.ttyname(terminal)
    code = "from sifkit.cli.sif_cmd import sif; sif()"
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", code, "dump", "1", image], stdout=terminal, stderr=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": root})  # fmt: skip
    os.close(terminal)
    assert done.returncode != 0 and b"not written to a terminal" in done.stderr
    os.set_blocking(controller, False)
    with pytest.raises(OSError):  # nothing was written: EIO from the closed terminal, or EAGAIN
        os.read(controller, 100)
    assert "terminal" in failure("dump", 1, image, "--force", "-o", name).brief
    os.close(controller)


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_dump_into_a_directory_names_no_force(image: str, tmp_path: Path, force: tuple[str, ...]) -> None:
    failed = failure("dump", 1, image, "-o", tmp_path, *force)
    assert "is a directory" in failed.brief and "--force" not in failed.hint
