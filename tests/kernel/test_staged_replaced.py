"""An image whose name leads elsewhere when a run wants to put its changes in: that other file is not locked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from images import Program
from probes import IS_ROOT, needs

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "fuse2fs", "mke2fs", "xattr")]

ENV = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "root,loop" if IS_ROOT else ""}


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the sessions that are left are noted."""
    monkeypatch.setitem(ENV, "XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


def run(sifkit: Program, rootfs: Path, place: Path, script: str) -> tuple[int, str]:
    """Run ``script`` over a new image ``place``/over.img, which it finds in its directory; status and complaints."""
    sifkit.ok("overlay", "create", f"{place}/over.img")
    options = ("--bind", f"{place}:/here", "--cwd", "/here", "--overlay", f"{place}/over.img")
    done = sifkit("exec", *options, str(rootfs), "sh", "-c", script, env=ENV)
    return done.returncode, done.stderr


@pytest.mark.parametrize("other", ["another", "a copy"])
def test_what_takes_its_name_is_left_alone(sifkit: Program, rootfs: Path, tmp_path: Path, other: str) -> None:
    if other == "another":
        sifkit.ok("overlay", "create", f"{tmp_path}/new.img")
    script = """echo mine > /mine; [ -e new.img ] || cp over.img new.img
    cp new.img as-it-was; mv over.img old.img; mv new.img over.img"""
    status, complaint = run(sifkit, rootfs, tmp_path, script)
    assert status == 255 and f"{tmp_path}/over.img is another file now" in complaint
    assert (tmp_path / "over.img").read_bytes() == (tmp_path / "as-it-was").read_bytes()
    found = json.loads(sifkit.ok("session", "list", "--json", env=ENV))
    [name] = [one["name"] for one in found if one["image"] == f"{tmp_path}/over.img"]
    sifkit.ok("session", "commit", name, "--image", f"{tmp_path}/old.img", env=ENV)
    assert sifkit.ok("overlay", "cat", f"{tmp_path}/old.img", "mine") == "mine\n"


def test_one_that_is_removed(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    assert run(sifkit, rootfs, tmp_path, "rm over.img") == (0, "")
    status, complaint = run(sifkit, rootfs, tmp_path, "echo mine > /mine; rm over.img")
    assert status == 255 and complaint.count("sifkit:") == 1, complaint
    assert f"{tmp_path}/over.img is not there any more" in complaint
