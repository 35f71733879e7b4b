"""Inside another container: one of our own, one that Apptainer would make, one that may do little."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from images import Program, run
from probes import needs, only_root, only_user

pytestmark = [pytest.mark.kernel, needs("userns")]

# What the program needs of the host: itself, and what runs it.
TREES = (str(Path(sys.prefix)), "/usr", *(name for name in ("/lib", "/lib64") if os.path.exists(name)))


def around(sifkit: Program, rootfs: Path, *options: str) -> list[str]:
    """The words before a command that run it in a container of ours with the program in it.

    ``nonested``: containers inside are not to have the host's /usr in the place of their own.
    """
    shown = [f"--mount=type=bind,src={path},dst={path},nonested" for path in TREES]
    return [sifkit.path, "exec", *shown, *options, str(rootfs)]


NAME = 'NAME="busybox"\n'
INNER = {
    "": "Read-only file system",
    "--writable-tmpfs": "",
    "--overlay={changes}": "",
    "--overlay={changes} --pid --ipc --net": "",
    "--contain": "Read-only file system",
}


OUTER = ["--pid --ipc", "--writable-tmpfs", "--contain"]
PAIRS = [("", inner) for inner in INNER] + [(outer, "--overlay={changes} --pid --ipc --net") for outer in OUTER]


@needs("overlayfs")
@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_inside_ourselves(
    sifkit: Program, rootfs: Path, overlay_dir: Path, tmp_path: Path, outer: str, inner: str
) -> None:
    options = [f"--bind={tmp_path}", f"--bind={rootfs}", *outer.split()]
    words = inner.format(changes=overlay_dir).split()
    script = "mkdir /usr/new; head -n 1 /etc/os-release"
    done = run(*around(sifkit, rootfs, *options), sifkit.path, "exec", *words, str(rootfs), "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, NAME), done.stderr
    assert INNER[inner] in done.stderr
    assert bool(done.stderr) == bool(INNER[inner]), done.stderr
    assert (overlay_dir / "upper/usr/new").is_dir() == ("--overlay" in inner)


@needs("overlayfs")
def test_three_deep(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    shell = around(sifkit, rootfs, f"--bind={rootfs}")
    inner = ["exec", "--writable-tmpfs", str(rootfs), "sh", "-c", "mkdir /usr/new && echo deep"]
    assert run(*shell, *shell, sifkit.path, *inner).stdout == "deep\n"


@needs("squashfuse", "mksquashfs", "mke2fs")
def test_images_inside_ourselves(sifkit: Program, rootfs: Path, rootfs_squash: Path, tmp_path: Path) -> None:
    sifkit.ok("overlay", "create", "--sparse", f"{tmp_path}/changes.img")
    shell = around(sifkit, rootfs, f"--bind={tmp_path}", f"--bind={rootfs_squash}")
    inner = ["exec", f"--overlay={tmp_path}/changes.img", str(rootfs_squash), "sh", "-c"]
    for script, said in (("echo kept > /usr/new; head -n 1 /etc/os-release", NAME), ("cat /usr/new", "kept\n")):
        done = run(*shell, sifkit.path, *inner, script)
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


NO_RIGHTS = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]


@only_user
@needs("unshare", "setpriv", "overlayfs")
@pytest.mark.parametrize("fakeroot", [False, True])
def test_inside_what_apptainer_makes(sifkit: Program, rootfs: Path, overlay_dir: Path, fakeroot: bool) -> None:
    """Namespaces of mounts, processes and one user, no_new_privs, and but for --fakeroot no capabilities."""
    outer = ["unshare", "--user", "--map-root-user" if fakeroot else "--map-current-user", "--mount", "--pid", "--fork"]
    drop = NO_RIGHTS[:2] if fakeroot else NO_RIGHTS
    inner = [sifkit.path, "exec", f"--overlay={overlay_dir}", str(rootfs), "sh", "-c", "mkdir /usr/new && id -u"]
    done = run(*outer, "--mount-proc", *drop, *inner)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("0\n" if fakeroot else f"{os.getuid()}\n")


@only_user
@needs("unshare", "setpriv")
def test_where_namespaces_are_forbidden(sifkit: Program, rootfs: Path) -> None:
    """As in a container whose security module forbids them: one sentence, and doctor's name."""
    inner = f"echo 0 > /proc/sys/user/max_user_namespaces && exec '{sifkit.path}' exec --userns '{rootfs}' true"
    done = run("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inner)
    assert done.returncode == 255
    assert "this host does not let you make namespaces" in done.stderr and "sifkit doctor" in done.stderr
    assert "user.max_user_namespaces is 0" in done.stderr


@only_root
@needs("setpriv", "overlayfs")
def test_root_without_rights_is_as_anybody(sifkit: Program, rootfs: Path, overlay_dir: Path) -> None:
    """As in a container that was started without CAP_SYS_ADMIN."""
    words = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", sifkit.path, "exec"]
    script = "mkdir /usr/new && grep CapEff /proc/self/status"
    done = run(*words, f"--overlay={overlay_dir}", str(rootfs), "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.split()[1], 16) == 0


@only_root
@needs("setpriv")
def test_root_without_any_cannot_be_mapped(sifkit: Program, rootfs: Path) -> None:
    done = run("setpriv", "--bounding-set=-all", "--inh-caps=-all", sifkit.path, "exec", str(rootfs), "true")
    assert done.returncode == 255
    assert "root without CAP_SETFCAP may not be mapped into one; an ordinary user may" in done.stderr
