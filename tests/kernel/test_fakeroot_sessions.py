"""Sessions of --fakeroot runs that were killed: their files belong to subordinate ids, and no second run is needed."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from images import Program
from probes import needs, only_user
from running import Start

pytestmark = [pytest.mark.kernel, only_user, needs("userns", "overlayfs", "subids", "mke2fs", "debugfs")]

CLOSED = "mkdir -m 700 /private; echo secret > /private/file; chown -R 33:34 /private"


@pytest.fixture
def place(sifkit: Program, start: Start, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `over.img` and a session of a killed --fakeroot run on it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    sifkit.ok("overlay", "create", "over.img")
    command = ("exec", "-f", "--overlay", "over.img", str(rootfs), "sh", "-c", f"{CLOSED}; echo up; sleep 1000")
    begun = start(*command, env={**os.environ, "HOME": str(tmp_path)})
    begun.expect("up")
    begun.signal(signal.SIGKILL)
    begun.end()
    begun.gone()
    return tmp_path / "here"


def left(sifkit: Program) -> dict[str, str]:
    (found,) = json.loads(sifkit.ok("session", "list", "--json"))
    assert os.path.isdir(f"{found['path']}/upper/private") and not os.access(f"{found['path']}/upper/private", os.R_OK)
    assert (found["files"], found["bytes"]) == (2, 7)  # in spite of that
    return {key: str(found[key]) for key in ("name", "path", "state")}


def assert_committed(sifkit: Program, path: str) -> None:
    assert re.search(r" 33 +34 .*private/file\n", sifkit.ok("overlay", "ls", "-lR", "over.img"))
    assert not os.path.exists(path)
    assert json.loads(sifkit.ok("session", "list", "--json")) == []


def test_it_is_committed(sifkit: Program, place: Path) -> None:
    found = left(sifkit)
    assert "A /private/file\n" in sifkit.ok("session", "show", found["name"])
    sifkit.ok("session", "commit", found["name"])
    assert_committed(sifkit, found["path"])


def test_it_is_dropped(sifkit: Program, place: Path) -> None:
    found = left(sifkit)
    sifkit.ok("session", "drop", found["name"])
    assert not os.path.exists(found["path"])
    assert sifkit.ok("overlay", "ls", "-R", "over.img") == ""


def test_the_next_run_puts_it_in_also_without_fakeroot(sifkit: Program, rootfs: Path, place: Path) -> None:
    found = left(sifkit)
    assert sifkit.ok("exec", "--overlay", "over.img", str(rootfs), "cat", "/private/file") == "secret\n"
    assert_committed(sifkit, found["path"])


def test_what_is_done_is_cleared_away(sifkit: Program, place: Path) -> None:
    """A commit that was killed just before it removed the session."""
    found = left(sifkit)
    record = Path(found["path"], "record")
    record.write_text(record.read_text().replace('"open"', '"done"'))
    sifkit.ok("session", "recover")
    assert not os.path.exists(found["path"])
