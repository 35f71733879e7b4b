"""What a payload must not get: rights, descriptors, and a way out of its root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import leftovers
import pytest
from images import Program, make_rootfs, make_squash
from probes import needs, only_root, only_user
from running import Running, Start, options_of, status

pytestmark = [pytest.mark.kernel, needs("userns")]

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
KINDS = [[], ["--writable-tmpfs"], ["--contain"]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system to spoil."""
    return make_rootfs(tmp_path / "image")


# -- rights ----------------------------------------------------------------------------------------


@only_user
@pytest.mark.parametrize("options", KINDS, ids=" ".join)
def test_a_user_gains_nothing(sifkit: Program, rootfs: Path, options: list[str]) -> None:
    text = sifkit.ok("exec", *options, str(rootfs), "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1"
    assert {fields[name] for name in SETS} == {"0" * 16}
    assert fields["Uid"].split() == [str(os.getuid())] * 4
    assert fields["Gid"].split() == [str(os.getgid())] * 4


@only_user
def test_a_user_can_neither_mount_nor_open_devices(sifkit: Program, rootfs: Path) -> None:
    for command in (["mount", "-t", "tmpfs", "none", "/tmp"], ["chroot", "/", "true"], ["mknod", "/n", "c", "1", "3"]):
        assert sifkit("exec", "--writable-tmpfs", str(rootfs), *command).returncode != 0


@only_user
def test_it_stays_so_in_a_namespace_that_the_payload_makes(sifkit: Program, rootfs: Path) -> None:
    """Nested, what was mounted read-only or without set-uid cannot be had otherwise."""
    script = "unshare -rm sh -c 'mount -o remount,rw,suid,bind / && touch /new'"
    assert sifkit("exec", str(rootfs), "sh", "-c", script).returncode != 0


@only_root
@needs("privileged")
def test_root_keeps_what_it_has(sifkit: Program, rootfs: Path) -> None:
    mine = status(os.getpid())
    text = sifkit.ok("exec", str(rootfs), "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert {name: fields[name] for name in SETS} == {name: mine[name] for name in SETS}
    assert fields["NoNewPrivs"] == mine["NoNewPrivs"]


@only_user
@pytest.mark.parametrize("form", ["directory", "squashfs"])
def test_set_uid_programs_of_the_image_give_nothing(sifkit: Program, tree: Path, form: str) -> None:
    """In the directory they are the caller's own, in the squashfs root's."""
    (tree / "powerful").mkdir()
    shutil.copy(tree / "bin/busybox", tree / "powerful/busybox")
    (tree / "powerful/busybox").chmod(0o6755)
    image = tree
    if form == "squashfs":
        image = make_squash(tree, tree.with_suffix(".sqfs"), "-all-root")
    said = sifkit.ok("exec", str(image), "/powerful/busybox", "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == [str(os.getuid())] * 4
    assert fields["Gid"].split() == [str(os.getgid())] * 4
    assert {fields[name] for name in SETS} == {"0" * 16}


# -- mounts ----------------------------------------------------------------------------------------


@needs("fuse-overlayfs")
def test_fuse_mounts_give_neither_set_uid_nor_devices(start: Start, rootfs: Path, rootfs_squash: Path) -> None:
    """In the payload's namespace and in that of init, where the servers mount."""
    environment = {**os.environ, "SIFKIT_OVERLAY_DRIVER": "fuse-overlayfs", "SIFKIT_DEBUG_WITHOUT": "loop"}
    for image in (rootfs, rootfs_squash):
        script = "cat /proc/self/mountinfo; echo ready; read line"
        running = start("exec", "--writable-tmpfs", str(image), "sh", "-c", script, env=environment,
                        stdin=subprocess.PIPE)  # fmt: skip
        inside = running.expect("ready\n").removesuffix("ready\n")
        around = Path(f"/proc/{running.init()}/mountinfo").read_text()
        kinds = ("fuse", "fuse.fuse-overlayfs", "fuse.squashfuse", "fuse.squashfuse_ll")
        root = [options for point, options in options_of(inside, kinds) if point == "/"]
        scratch = [options for point, options in options_of(around, kinds) if "/scratch/" in point]
        assert root and scratch
        assert all({"nosuid", "nodev"} <= options for options in root + scratch)
        finish(running)


def finish(running: Running) -> None:
    """Let a payload that waits for a line go on, to its end."""
    running.process.stdin.close()
    running.process.stdin = None
    running.end()


@pytest.mark.parametrize("options", KINDS, ids=" ".join)
def test_an_image_without_a_writable_layer_is_read_only(sifkit: Program, rootfs: Path, options: list[str]) -> None:
    done = sifkit("exec", *options, str(rootfs), "touch", "/usr/new")
    assert (done.returncode == 0) == ("--writable-tmpfs" in options)
    assert not (rootfs / "usr/new").exists()


def test_the_old_root_is_gone(sifkit: Program, rootfs: Path) -> None:
    """Nothing of the host is mounted but what the plan says."""
    text = sifkit.ok("exec", "--contain", "--no-home", str(rootfs), "cat", "/proc/self/mountinfo")
    points = {line.split(" ")[4] for line in text.splitlines()}
    allowed = ("/dev", "/proc", "/sys", "/tmp", "/var/tmp", "/etc/")
    assert [point for point in points if point != "/" and not point.startswith(allowed)] == []


# -- descriptors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [*KINDS, ["--overlay", "{overlay}"]], ids=" ".join)
def test_no_descriptor_above_two_is_passed_on(
    sifkit: Program, rootfs: Path, overlay_dir: Path, tmp_path: Path, options: list[str]
) -> None:
    """Neither ours nor one that the caller left open."""
    (tmp_path / "secret").write_text("secret")
    words = [word.format(overlay=overlay_dir) for word in options]
    with (tmp_path / "secret").open() as secret:
        high = os.dup2(secret.fileno(), 300)
        done = sifkit("exec", *words, str(rootfs), "ls", "/proc/self/fd", pass_fds=(secret.fileno(), high))
        os.close(high)
    assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is what ls reads


@needs("squashfuse")
def test_fuse_servers_get_no_descriptor_of_the_callers(start: Start, rootfs_squash: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "loop"}
    (tmp_path / "secret").write_text("secret")
    with (tmp_path / "secret").open() as secret:
        running = start("exec", str(rootfs_squash), "sh", "-c", "echo ready; read line", env=environment,
                        stdin=subprocess.PIPE, pass_fds=(secret.fileno(),))  # fmt: skip
    running.expect("ready\n")
    servers = [pid for pid, line in running.processes().items() if "squashfuse" in line.split(" ")[0]]
    assert servers
    links = [os.readlink(link) for pid in servers for link in Path(f"/proc/{pid}/fd").iterdir()]
    assert f"{tmp_path}/secret" not in links
    finish(running)


# -- the way out -----------------------------------------------------------------------------------


def host_listing(*places: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below ``places`` with what would tell of a change."""
    found = {}
    for place in places:
        for directory, _, names in os.walk(place):
            for name in [".", *names]:
                entry = os.lstat(f"{directory}/{name}")
                found[f"{directory}/{name}"] = (entry.st_mode, entry.st_size, entry.st_mtime_ns)
    return found


LINKS = {
    "etc/resolv.conf": "../../../../../../../../{outside}/resolv.conf",
    "etc/hosts": "{outside}/hosts",
    "etc/localtime": "/../../..{outside}/new/localtime",
    "etc/passwd": "{outside}/file",
    "etc/group": "/proc/self/root{outside}/group",
    "tmp": "/../..{outside}/tmp",
    "var/tmp": "../../../../../..{outside}/directory",
    "dev": "/proc/self/cwd/../../..{outside}/dev",
    "sys": "{outside}/sys",
    "proc": "{outside}/proc",
    "home": "{outside}/home",
}


@pytest.mark.parametrize("options", [[], ["--writable-tmpfs"], ["--overlay", "{overlay}"], ["--contain"]], ids=" ".join)
@pytest.mark.parametrize("chosen", [*LINKS, "all"])
def test_links_of_the_image_never_lead_out(
    sifkit: Program, tree: Path, tmp_path: Path, overlay_dir: Path, chosen: str, options: list[str]
) -> None:
    """Mount points are made where the links lead inside the root; on the host nothing is made or touched."""
    outside = tmp_path / "outside"
    (outside / "directory").mkdir(parents=True)
    (outside / "file").write_text("the host's")
    for name, target in LINKS.items():
        if chosen in (name, "all"):
            path = tree / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path.symlink_to(target.format(outside=outside))
    before, mounts = host_listing(outside), leftovers.mounts()
    words = [word.format(overlay=overlay_dir) for word in options]
    done = sifkit("exec", *words, str(tree), "true")
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 255)
    assert host_listing(outside) == before
    assert leftovers.mounts() == mounts


@pytest.mark.parametrize("destination", ["/link/new", "/link/{outside}/new", "/up/{outside}/new", "/up/new", "/in/new"])
@pytest.mark.parametrize("options", [[], ["--writable-tmpfs"]], ids=" ".join)
def test_binds_through_links_of_the_image_stay_inside(
    sifkit: Program, tree: Path, tmp_path: Path, destination: str, options: list[str]
) -> None:
    outside, source = tmp_path / "outside", tmp_path / "source"
    for path in (outside, source):
        path.mkdir()
    (source / "file").write_text("bound")
    (tree / "link").symlink_to("/")
    (tree / "up").symlink_to("../../../../../../../../..")
    (tree / "in").symlink_to(outside)
    path = destination.format(outside=outside).replace("//", "/")
    before, mounts = host_listing(outside), leftovers.mounts()
    words = ["--contain", "--no-home", *options, "--bind", f"{source}:{path}"]
    assert sifkit.ok("exec", *words, str(tree), "cat", f"{path}/file") == "bound"
    assert host_listing(outside) == before
    assert leftovers.mounts() == mounts


@pytest.mark.parametrize("options", [[], ["--writable-tmpfs"], ["--writable"]], ids=" ".join)
def test_in_host_directories_that_are_shown_only_mount_points_asked_for_are_made(
    sifkit: Program, tree: Path, tmp_path: Path, options: list[str]
) -> None:
    """Not through a link of the image into one of them; for a bind below them, which is the user's own wish."""
    shown = tmp_path / "shown"
    shown.mkdir()
    words = [*options, "--bind", f"{shown}:/mnt"]
    (tree / "mnt").mkdir()
    (tree / "etc/resolv.conf").unlink()
    (tree / "etc/resolv.conf").symlink_to(f"{shown}/made")
    assert sifkit("exec", *words, "--cwd", "/", str(tree), "true", cwd=shown).returncode == 0
    assert list(shown.iterdir()) == []
    (tree / "link").symlink_to("/mnt")
    done = sifkit("exec", *words, "--bind", f"{tmp_path}:/link/new", str(tree), "true")
    assert done.returncode == 255
    assert "try: make the mount point first" in done.stderr
    assert list(shown.iterdir()) == []
    sifkit.ok("exec", *words, "--bind", f"{tmp_path}:/mnt/new", str(tree), "true")
    assert [path.name for path in shown.iterdir()] == ["new"] and list((shown / "new").iterdir()) == []


def test_writing_to_generated_files_does_not_reach_the_host(sifkit: Program, rootfs: Path) -> None:
    before = {name: Path(name).read_bytes() for name in ("/etc/passwd", "/etc/group", "/etc/resolv.conf")}
    script = "for file in passwd group resolv.conf; do echo changed >> /etc/$file; done"
    sifkit("exec", "--writable-tmpfs", str(rootfs), "sh", "-c", script)
    sifkit("exec", str(rootfs), "sh", "-c", script)
    assert {name: Path(name).read_bytes() for name in before} == before


def test_names_with_control_characters_are_shown_as_text(sifkit: Program, rootfs: Path) -> None:
    done = sifkit("exec", "--overlay", "/nowhere/\x1b[31mred\nline", str(rootfs), "true")
    assert "\x1b" not in done.stderr and "\\x1b" in done.stderr


def test_the_hosts_table_of_mounts_is_the_same_before_and_after(sifkit: Program, rootfs: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    sifkit.ok("exec", "--writable-tmpfs", "--contain", str(rootfs), "true")
    assert Path("/proc/self/mountinfo").read_text() == before
