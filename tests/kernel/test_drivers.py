"""Every way to mount, tried on one kernel: what is missing on older ones is made absent by the environment."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from images import CvmfsHosts, Program
from probes import IS_ROOT, needs, only_root, only_user

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs")]

CHANGES = """set -e
echo more >> /etc/os-release; chmod 600 /etc/os-release; echo new > /etc/new
rm -r /usr; mkdir /usr; echo own > /usr/own; rm /bin/ls; mkdir -p /opt/x/y; mv /etc/new /opt/x/y/moved"""
CHECK = """cat /usr/own /opt/x/y/moved; tail -n 1 /etc/os-release; stat -c %a /etc/os-release
ls -a /usr; test ! -e /bin/ls && test ! -e /etc/new"""
CHECKED = "own\nnew\nmore\n600\n.\n..\nown\n"

ABSENT = ["", "lowerdir_append", "tmpfs_xattr", "mount_setattr", "openat2", "lowerdir_append,mount_setattr,openat2"]


def without(features: str) -> dict[str, str]:
    return {**os.environ, "SIFKIT_DEBUG_WITHOUT": features}


@pytest.fixture
def overlay(tmp_path: Path) -> str:
    (tmp_path / "overlay").mkdir()
    return str(tmp_path / "overlay")


@pytest.mark.parametrize("absent", ABSENT)
def test_older_kernels_change_everything(sifkit: Program, rootfs: Path, overlay: str, absent: str) -> None:
    command = ("exec", "--overlay", overlay, str(rootfs), "sh", "-c")
    sifkit.ok(*command, CHANGES, env=without(absent))
    assert sifkit.ok(*command, CHECK, env=without(absent)) == CHECKED
    throwaway = ("exec", "--writable-tmpfs", str(rootfs), "sh", "-c", f"{CHANGES}\n{CHECK}")
    assert sifkit.ok(*throwaway, env=without(absent)) == CHECKED


@needs("fuse-overlayfs")
@pytest.mark.parametrize("absent", ["overlay", "upper_xattr", "root"])
def test_without_kernel_overlayfs_there_is_fuse(sifkit: Program, rootfs: Path, overlay: str, absent: str) -> None:
    command = ("exec", "--overlay", overlay, str(rootfs), "sh", "-c")
    sifkit.ok(*command, CHANGES, env=without(absent))
    assert sifkit.ok(*command, CHECK, env=without(absent)) == CHECKED


def test_a_throwaway_overlay_on_disk_is_removed(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """Before Linux 6.6, tmpfs takes no user xattrs."""
    (tmp_path / "sessions").mkdir()
    env = {**without("tmpfs_xattr"), "SIFKIT_SESSION_DIR": f"{tmp_path}/sessions"}
    script = f"touch /x; ls {tmp_path}/sessions | wc -l"
    assert sifkit.ok("exec", "--writable-tmpfs", str(rootfs), "sh", "-c", script, env=env).strip() == "1"
    assert os.listdir(tmp_path / "sessions") == []


@needs("fuse-overlayfs")
@pytest.mark.parametrize(("first", "second"), [("kernel", "fuse-overlayfs"), ("fuse-overlayfs", "kernel")])
def test_what_one_driver_wrote_the_other_shows(
    sifkit: Program, rootfs: Path, overlay: str, first: str, second: str
) -> None:
    """B13: with Apptainer deleted files come back and markers show."""
    command = ("exec", "--overlay", overlay, str(rootfs), "sh", "-c")
    sifkit.ok(*command, CHANGES, env={**os.environ, "SIFKIT_OVERLAY_DRIVER": first})
    assert sifkit.ok(*command, CHECK, env={**os.environ, "SIFKIT_OVERLAY_DRIVER": second}) == CHECKED
    sifkit.ok(*command, "rm -r /opt/x; mkdir /opt/x", env={**os.environ, "SIFKIT_OVERLAY_DRIVER": second})
    assert sifkit.ok(*command, "ls -A /opt/x", env={**os.environ, "SIFKIT_OVERLAY_DRIVER": first}) == ""
    assert sifkit.ok(*command, CHECK.splitlines()[1], env=without("")) == ".\n..\nown\n"


@needs("fuse-overlayfs")
def test_a_driver_that_cannot_be_had_is_an_error(sifkit: Program, rootfs: Path, overlay: str) -> None:
    env = {**without("overlay"), "SIFKIT_OVERLAY_DRIVER": "kernel"}
    done = sifkit("exec", "--overlay", overlay, str(rootfs), "true", env=env)
    assert (done.returncode, "SIFKIT_OVERLAY_DRIVER=kernel" in done.stderr) == (255, True)
    done = sifkit("exec", "--overlay", overlay, str(rootfs), "true", env=without("overlay,fuse-overlayfs"))
    assert (done.returncode, "install fuse-overlayfs" in done.stderr) == (255, True)


def test_the_plan_says_which_driver_and_why(sifkit: Program, rootfs: Path, overlay: str) -> None:
    def plan(absent: str, *options: str) -> dict[str, object]:
        text = sifkit.ok("exec", "--dry-run", "--json", *options, str(rootfs), "true", env=without(absent))
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    assert plan("", "--overlay", overlay)["driver"] == "kernel"
    assert "lowerdir+" in str(plan("", "--overlay", overlay)["reason"])
    assert "mount(2)" in str(plan("lowerdir_append", "--overlay", overlay)["reason"])
    assert plan("overlay", "--overlay", overlay)["driver"] == "fuse-overlayfs"
    assert os.listdir(overlay) == []


def test_a_path_longer_than_fsconfig_takes(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """255 bytes; such layers are mounted by short names."""
    place = tmp_path.joinpath(*["d" * 100] * 3)
    shutil.copytree(rootfs, place / "base", symlinks=True)
    (place / "over").mkdir()
    command = ("exec", "--overlay", f"{place}/over", f"{place}/base", "sh", "-c")
    done = sifkit(*command, CHANGES)
    assert (done.returncode, done.stderr) == (0, "")
    assert sifkit.ok(*command, CHECK) == CHECKED


@only_user
def test_a_base_of_another_group_can_be_changed(sifkit: Program, rootfs: Path, overlay: str, tmp_path: Path) -> None:
    """Project directories on clusters: one's own files, a group that a user namespace cannot map."""
    others = [gid for gid in os.getgroups() if gid != os.getgid()]
    if not others:
        pytest.skip("this user is in one group only")
    base = tmp_path / "base"
    shutil.copytree(rootfs, base, symlinks=True)
    for directory, names, files in os.walk(base):
        for name in (".", *names, *files):
            os.chown(f"{directory}/{name}", -1, others[0], follow_symlinks=False)
    sifkit.ok("exec", "--overlay", overlay, str(base), "sh", "-c", CHANGES)
    assert sifkit.ok("exec", "--overlay", overlay, str(base), "sh", "-c", CHECK) == CHECKED


@needs("cvmfs-host", "squashfuse")
def test_an_own_base_on_cvmfs_is_written_at_kernel_speed(sifkit: Program, cvmfs_host: CvmfsHosts, overlay: str) -> None:
    host = cvmfs_host.own()
    plan = host.run(sifkit.path, "exec", "--dry-run", "--json", "--overlay", overlay, host.mountpoint, "true")
    assert json.loads(plan.stdout)["driver"] == "kernel", plan.stderr
    done = host.run(sifkit.path, "exec", "--overlay", overlay, host.mountpoint, "sh", "-c", CHANGES)
    assert (done.returncode, done.stderr) == (0, "")
    done = host.run(sifkit.path, "exec", "--overlay", overlay, host.mountpoint, "sh", "-c", CHECK)
    assert done.stdout == CHECKED, done.stderr


@needs("cvmfs-host", "squashfuse")
@pytest.mark.parametrize("whose", ["own", "foreign"])
def test_a_base_on_cvmfs_runs_read_only(sifkit: Program, cvmfs_host: CvmfsHosts, whose: str) -> None:
    host = getattr(cvmfs_host, whose)()
    done = host.run(sifkit.path, "exec", host.mountpoint, "sh", "-c", "cat /etc/os-release >/dev/null && id -u")
    assert (done.stdout, done.returncode) == (f"{host.uid}\n", 0), done.stderr


@only_root
def test_root_without_its_rights_goes_the_way_of_users(sifkit: Program, rootfs: Path, overlay: str) -> None:
    """As in Docker or Kubernetes: uid 0 without CAP_SYS_ADMIN, no loop devices."""
    assert IS_ROOT
    command = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sifkit.path)
    done = Program(command[0])(*command[1:], "exec", "--dry-run", "--json", "--overlay", overlay, str(rootfs), "true")
    assert json.loads(done.stdout)["namespaces"] == "user, mount", done.stderr
    run = ("exec", "--overlay", overlay, str(rootfs), "sh", "-c")
    assert Program(command[0])(*command[1:], *run, CHANGES).returncode == 0
    assert Program(command[0])(*command[1:], *run, CHECK).stdout == CHECKED


@only_root
@needs("squashfuse")
@pytest.mark.parametrize("absent", ["", "loop"])
def test_root_reads_squashfs_with_its_owners(sifkit: Program, rootfs_squash: Path, absent: str) -> None:
    done = sifkit("-d", "exec", str(rootfs_squash), "stat", "-c", "%u", "/bin/busybox", env=without(absent))
    assert done.stdout == "0\n", done.stderr
    assert ("squashfuse" if absent else "loop device") in done.stderr


def test_a_base_in_which_the_host_has_mounts(sifkit: Program) -> None:
    """The host's own root: in a user namespace the kernel binds it with what is mounted below, or not at all."""
    script = "test -e /proc/self && ! touch /usr/sifkit-test 2>/dev/null && echo as it should be"
    assert sifkit.ok("exec", "--userns", "/", "sh", "-c", script) == "as it should be\n"
