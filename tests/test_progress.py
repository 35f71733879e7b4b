"""What takes its time says so on a terminal, and only there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading, time
from sifkit.cli import progress
from sifkit.cli.console import CONSOLE
progress.MOMENT = float(sys.argv[1])


def shows():
    made = getattr(sys.modules.get("rich.live"), "_RefreshThread", ())  # it may be being imported
    return any(isinstance(thread, made) for thread in threading.enumerate())


with CONSOLE.task("Working on it") as update:
    update(1)
    while progress.MOMENT < 1 and sys.stderr.isatty() and not shows():
        time.sleep(0.01)
    update(2)
"""


def on_a_terminal(moment: str) -> str:
    main, terminal = os.openpty()
    try:
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        done = subprocess.run([sys.executable, "-c", SCRIPT, moment], stderr=terminal, timeout=60, env=env)
        os.close(terminal)
        assert done.returncode == 0
        said = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed, and all is read
            while part := os.read(main, 65536):
                said += part
        return said.decode()
    finally:
        os.close(main)


def test_a_moment_later_it_shows() -> None:
    assert "Working on it" in on_a_terminal("0.01")


def test_what_is_quick_shows_nothing() -> None:
    assert on_a_terminal("50") == ""


@pytest.mark.parametrize("moment", ["0.01", "50"])
def test_elsewhere_it_is_quiet(moment: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, moment], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
