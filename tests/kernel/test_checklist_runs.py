"""Rows of Apptainer's own end-to-end tests, by the identifiers of its suite: 7.4 regressions, 7.6 actions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images import Program, make_ext3, make_squash
from probes import needs

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs")]


@needs("mke2fs", "fuse2fs")
def test_7_4_overlays_in_a_user_namespace(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    sifkit.ok("overlay", "create", "--size", "64", f"{tmp_path}/overlay.img")
    (tmp_path / "dir").mkdir()
    for words in (["--writable-tmpfs"], ["--overlay", f"{tmp_path}/overlay.img"], ["--overlay", f"{tmp_path}/dir"]):
        sifkit.ok("exec", "--no-home", "--userns", *words, str(rootfs), "touch", "/new")


@needs("squashfuse", "fuse2fs", "mke2fs")
def test_7_4_fuse_mounts(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/input").touch()
    data = tmp_path / "data"
    for image in (make_squash(data, tmp_path / "a.sqfs"), make_ext3(tmp_path / "a.img", data)):
        mount = f"type=bind,src={image},dst=/input-data,image-src=/"
        assert "input" in sifkit.ok("exec", "--mount", mount, str(rootfs), "ls", "/input-data").split()


def test_7_4_issue5271(sifkit: Program, rootfs: Path) -> None:
    sifkit.ok("exec", "--writable-tmpfs", str(rootfs), "mkdir", "/e2e-dir")


def test_7_6_processes(sifkit: Program, rootfs: Path) -> None:
    echo = [str(rootfs), "sh", "-c", "echo $$"]
    assert sifkit.ok("exec", "--containall", "--no-init", *echo) == "1\n"
    assert sifkit.ok("exec", "--containall", "--no-pid", *echo) != "1\n"
    assert sifkit.ok("exec", "--compat", *echo) == "1\n"


def test_7_6_umask(sifkit: Program, rootfs: Path) -> None:
    old = os.umask(0)
    try:
        for option, umask in (([], "0000"), (["--no-umask"], "0022"), (["--compat"], "0022")):
            assert sifkit.ok("exec", *option, str(rootfs), "sh", "-c", "umask") == f"{umask}\n"
    finally:
        os.umask(old)


def test_7_6_compat(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    environment = {**os.environ, "HOME": str(tmp_path)}
    script = 'ls -A "$HOME"; mkdir /new; echo "$LEFT_OUT"'
    assert sifkit.ok("exec", "--compat", str(rootfs), "sh", "-c", script, env={**environment, "LEFT_OUT": "x"}) == "\n"


@pytest.mark.parametrize("relative", [False, True])
def test_7_6_workdir(sifkit: Program, rootfs: Path, tmp_path: Path, relative: bool) -> None:
    """Without --contain it is of no use to /tmp; with it all three lie there; scratch does always."""
    (tmp_path / "w").mkdir()
    workdir = ["--workdir", "w" if relative else f"{tmp_path}/w"]
    write = [str(rootfs), "sh", "-c", 'touch /tmp/t /var/tmp/v "$HOME/h"']
    sifkit.ok("exec", *workdir, str(rootfs), "true", cwd=tmp_path)
    assert os.listdir(tmp_path / "w") == []
    scratch = ["--scratch", "s" if relative else "/s"]
    sifkit.ok("exec", *workdir, "--contain", *scratch, *write, cwd=tmp_path)
    found = {str(path.relative_to(tmp_path / "w")) for path in (tmp_path / "w").rglob("*")}
    assert {"tmp/t", "var_tmp/v", "home/h", "scratch/s"} <= found


def test_7_6_home(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    for spec, place in ((str(tmp_path), str(tmp_path)), (f"{tmp_path}:/at/home", "/at/home")):
        said = sifkit.ok("exec", "--home", spec, str(rootfs), "sh", "-c", 'echo "$HOME"; ls "$HOME/mine"')
        assert said == f"{place}\n{place}/mine\n"
