"""`overlay create` with options of which some are for images only."""

from __future__ import annotations

import os
from pathlib import Path

from images import Program
from probes import needs


@needs("userns", "overlayfs")
def test_a_directory_for_fakeroot(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """It belongs to its maker, who is root in a --fakeroot run."""
    changes = f"{tmp_path}/changes/"
    sifkit.ok("overlay", "create", "--fakeroot", "--create-dir", "/opt/new", changes)
    assert (os.stat(changes + "upper/opt/new").st_uid, os.listdir(changes + "work")) == (os.geteuid(), [])
    said = sifkit.ok("exec", "--fakeroot", "--overlay", changes, str(rootfs), "sh", "-c", "echo x >/opt/new/f; id -u")
    assert said == "0\n"
    assert Path(changes, "upper/opt/new/f").read_text() == "x\n"


def test_a_label_is_for_images(sifkit: Program, tmp_path: Path) -> None:
    done = sifkit("overlay", "create", "--fakeroot", "--label", "name", f"{tmp_path}/changes/")
    assert done.returncode == 2
    assert "Error: --label: only for images" in done.stderr
    assert list(tmp_path.iterdir()) == []
    sifkit.ok("overlay", "create", "--fakeroot", "--label", "a name", f"{tmp_path}/changes.img")
    said = sifkit.ok("overlay", "info", f"{tmp_path}/changes.img")
    assert "label       a name\n" in said
    assert "owner       0:0 (of upper/)\n" in said
