"""Rows of Apptainer's own end-to-end tests, by their identifiers: 7.4 regressions, 7.5 binds, 7.6 actions."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from images import Program, make_ext3, make_squash, run
from probes import needs
from running import Start

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


@needs("squashfuse")
@pytest.mark.parametrize("kind", ["directory", "squashfs of root's"])
def test_7_4_issue5455(sifkit: Program, tree: Path, kind: str) -> None:
    """A directory that all may write in takes a new one, whosever it is."""
    (tree / "open").mkdir()
    (tree / "open").chmod(0o777)
    image = tree if kind == "directory" else make_squash(tree, tree.with_suffix(".sqfs"), "-all-root")
    sifkit.ok("exec", "--writable-tmpfs", str(image), "mkdir", "/open/new")
    assert not (tree / "open/new").exists()


@needs("setfacl")
def test_7_4_issue5399(sifkit: Program, tree: Path, tmp_path: Path) -> None:
    """Extended attributes of the name space system, here an ACL, are no reason to fail under --fakeroot."""
    assert run("setfacl", "-m", f"u::rw,g::r,o::r,m::r,u:{os.getuid()}:r", str(tree / "etc/hosts")).returncode == 0
    (tmp_path / "changes").mkdir()
    for words in (["--writable-tmpfs"], ["--overlay", f"{tmp_path}/changes"]):
        script = "echo more >> /etc/hostname.new && chmod 640 /usr/share/demo/greeting && echo more >> /etc/hosts"
        words = ["--fakeroot", "--no-mount", "/etc/hosts", *words, str(tree)]
        sifkit.ok("exec", *words, "sh", "-c", script)
    assert (tmp_path / "changes/upper/etc/hosts").read_text().endswith("more\n")


def test_7_5_issue619(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """Two levels of new mount points without overlayfs, as Apptainer's underlay has it."""
    for name in ("outer", "inner", "inmost"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    places = {"outer": "/new/a", "inner": "/new/a/b", "inmost": "/new/a/b/c"}
    binds = [word for name, place in places.items() for word in ("-B", f"{tmp_path}/{name}:{place}")]
    files = [f"{place}/{name}" for name, place in places.items()]
    env = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "overlay"}
    for words in ([], ["--contain"]):
        said = sifkit.ok("exec", *words, *binds, str(rootfs), "ls", *files, env=env)
        assert said.split() == sorted(files)
    assert sorted(os.listdir(tmp_path / "outer")) == ["b", "outer"]  # mount points in a bind are the host's


def test_7_7_runscript_timeout(start: Start, tree: Path, sifkit: Program) -> None:
    """There 60 s and a message; here a script takes as long as it takes, and a signal ends the run that waits."""
    (tree / ".singularity.d/env/50-slow.sh").write_text("echo ready\nwhile :; do sleep 1; done\n")
    running = start("exec", str(tree), "true")
    running.expect("ready")
    running.process.terminate()
    assert running.end() == 128 + signal.SIGTERM
    done = sifkit("exec", "--runscript-timeout", "1s", str(tree), "true")
    assert done.returncode == 2 and "timeout 60 sifkit" in done.stderr


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
