"""Bad input and poor hosts: one clear sentence (what, why, what to try), never a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images import Program, run
from probes import needs, only_user

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs")]


def refused(done: object, *words: str) -> None:
    """``done`` failed by our own fault-finding, in at most three lines that hold ``words``."""
    status, err = done.returncode, done.stderr  # type: ignore[attr-defined]
    assert status in (2, 255), (status, err)
    assert "Traceback" not in err
    assert "defect" not in err
    for word in words:
        assert word in err
    if status == 255:
        assert len(err.splitlines()) <= 3, err


def without(features: str) -> dict[str, str]:
    return {**os.environ, "SIFKIT_DEBUG_WITHOUT": features}


def test_images_that_cannot_be_run(sifkit: Program, tmp_path: Path, awkward_ext3: Path) -> None:
    refused(sifkit("exec", f"{tmp_path}/none", "true"), "no image", "no such file")
    refused(sifkit("exec", "", "true"), "IMAGE is empty")
    (tmp_path / "text").write_text("hello\n" * 999)
    refused(sifkit("exec", f"{tmp_path}/text", "true"), "neither a directory nor")
    (tmp_path / "empty").touch()
    refused(sifkit("exec", f"{tmp_path}/empty", "true"), "empty")
    refused(sifkit("exec", "/dev/null", "true"), "character device")
    refused(sifkit("exec", "/cvmfs/no.such.repo/image", "true"), "no image", "ls /cvmfs")


def test_a_truncated_squashfs_says_so(sifkit: Program, rootfs_squash: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.sqfs").write_bytes(rootfs_squash.read_bytes()[:5000])
    refused(sifkit("exec", f"{tmp_path}/cut.sqfs", "true"), "truncated")
    refused(sifkit("exec", "--overlay", f"{tmp_path}/cut.sqfs", str(rootfs_squash), "true"), "truncated")


@only_user
def test_what_may_not_be_read(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    refused(sifkit("exec", f"{tmp_path}/closed", "true"), "may not read")
    refused(sifkit("exec", "--overlay", f"{tmp_path}/closed", str(rootfs), "true"), "Permission denied")
    (tmp_path / "closed.img").touch(mode=0)
    refused(sifkit("exec", "--overlay", f"{tmp_path}/closed.img", str(rootfs), "true"), "Permission denied", "try:")


def test_overlays_that_cannot_be_used(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    image = str(rootfs)
    refused(sifkit("exec", "--overlay", f"{tmp_path}/none", image, "true"), "no overlay", "sifkit overlay create")
    refused(sifkit("exec", "--overlay", f"{tmp_path}:foo", image, "true"), "':foo' is not known", "':ro'", "':rw'")
    refused(sifkit("exec", "--overlay", "", image, "true"), "empty")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    both = ("--overlay", f"{tmp_path}/one", "--overlay", f"{tmp_path}/two")
    refused(sifkit("exec", *both, image, "true"), "two writable overlays", f"{tmp_path}/two:ro")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/upper").touch()
    refused(sifkit("exec", "--overlay", f"{tmp_path}/odd", image, "true"), "upper is not a directory")
    refused(sifkit("exec", "--overlay", "/dev/null", image, "true"), "character device")


def test_a_slash_behind_the_name_of_a_file(sifkit: Program, rootfs: Path, awkward_ext3: Path) -> None:
    """It says that a directory is meant. Taken for the file, what is wrong would seem to be its mode."""
    words = (f"{awkward_ext3} is a file, not a directory", "try: leave out the / at its end")
    for mode in ("", ":ro", ":rw"):
        refused(sifkit("exec", "--overlay", f"{awkward_ext3}/{mode}", str(rootfs), "true"), *words)
    for verb in (["info"], ["check"], ["ls"], ["resize", "--size", "1G"]):
        refused(sifkit("overlay", *verb, f"{awkward_ext3}/"), *words)
    refused(sifkit("overlay", "cp", f"{awkward_ext3}/:/file", "."), *words)


def test_binds_that_cannot_be_made(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    image = str(rootfs)
    refused(sifkit("exec", "--bind", f"{tmp_path}:relative", image, "true"), "absolute path")
    refused(sifkit("exec", "--bind", f"{tmp_path}/none", image, "true"), "no such file")
    refused(sifkit("exec", "--bind", f"{tmp_path}:/x:bad", image, "true"), "'bad'")
    sifkit.ok("exec", "--bind", f"{tmp_path}:/x/../../y", image, "ls", "-d", "/y")
    refused(sifkit("exec", "--bind", f"{tmp_path}:/etc/os-release", image, "true"), "/etc/os-release", "directory")
    refused(sifkit("exec", "--cwd", "/no/such", image, "true"), "--cwd /no/such")


@needs("squashfuse")
def test_a_host_without_fuse(sifkit: Program, rootfs: Path, rootfs_squash: Path) -> None:
    done = sifkit("exec", "--overlay", str(rootfs_squash), str(rootfs), "true", env=without("fuse,loop"))
    refused(done, "/dev/fuse", "unpacked directory")


@only_user
def test_a_host_with_no_overlay_at_all_runs_what_needs_none(sifkit: Program, rootfs: Path) -> None:
    """Kernels before 5.11 without fuse-overlayfs: mount points that an image lacks are left out, if it can be."""
    env = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "overlay,fuse-overlayfs", "HOME": "/no/such/place"}
    done = sifkit("exec", "-v", str(rootfs), "echo", "ran", env=env, cwd=str(rootfs))
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    assert ("no overlay can be mounted" in done.stderr, "left out" in done.stderr) == (True, True)
    done = sifkit("exec", "--bind", "/etc:/nowhere", str(rootfs), "true", env=env)
    assert (done.returncode, "install fuse-overlayfs" in done.stderr) == (255, True)


def test_the_plan_of_what_cannot_run_is_a_sentence_too(sifkit: Program, rootfs: Path) -> None:
    env = {**os.environ, "SIFKIT_OVERLAY_DRIVER": "aufs"}
    for options, words in (((), "not known"), (("--silent",), "")):
        done = sifkit("exec", *options, "--dry-run", str(rootfs), "true", env=env)
        assert (done.returncode, words in done.stderr, done.stderr == words) == (255, True, not words), done.stderr
    with open("/dev/full", "w") as full:
        done = sifkit("exec", "--dry-run", str(rootfs), "true", stdout=full)
    assert (done.returncode, "No space left" in done.stderr) == (255, True), done.stderr


@needs("squashfuse")
def test_a_helper_that_is_missing(sifkit: Program, rootfs_squash: Path, tmp_path: Path) -> None:
    (tmp_path / "sifkit").mkdir()
    (tmp_path / "sifkit/config.toml").write_text('[helpers]\nsquashfuse = "/no/such/squashfuse"\n')
    env = {**without("loop"), "XDG_CONFIG_HOME": str(tmp_path)}
    done = sifkit("exec", str(rootfs_squash), "true", env=env)
    refused(done, "/no/such/squashfuse", "install the package squashfuse")


def test_a_host_without_user_namespaces(sifkit: Program, rootfs: Path) -> None:
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    inside = ("sh", "-c", script, "sh", sifkit.path, "exec", str(rootfs), "true")
    refused(
        run("unshare", "--map-root-user", *inside, env=without("root")),
        "does not let you make namespaces", "user.max_user_namespaces is 0", "sifkit doctor",
    )  # fmt: skip


def test_a_full_disk_reaches_the_payload(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    script = (
        f"mount -t tmpfs -o size=256k tmpfs {tmp_path} && mkdir {tmp_path}/over && "
        f"{sifkit.path} exec --overlay {tmp_path}/over {rootfs} dd if=/dev/zero of=/big bs=64k count=16"
    )
    done = run("unshare", "--map-root-user", "--mount", "sh", "-c", script)
    assert (done.returncode, "No space left" in done.stderr) == (1, True), done.stderr


def test_a_full_disk_at_the_start_is_a_sentence(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    script = (
        f"mount -t tmpfs -o nr_inodes=3 tmpfs {tmp_path} && mkdir {tmp_path}/over && touch {tmp_path}/last; "
        f"{sifkit.path} exec --overlay {tmp_path}/over {rootfs} true"
    )
    refused(run("unshare", "--map-root-user", "--mount", "sh", "-c", script), "No space left", "free space")


def test_configuration_mistakes_name_the_file_and_the_key(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "sifkit").mkdir()
    file = tmp_path / "sifkit/config.toml"
    env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    for text, words in (
        ("bind = 3\n", ("bind", "list of strings")),
        ("nonsense = 1\n", ("nonsense",)),
        ('helpers = {squashfues = "/x"}\n', ("squashfues", "squashfuse")),
        ('bind = ["/etc:relative"]\n', ("/etc:relative", "absolute")),
        ("= broken", ("cannot read",)),
        ('tmpfs_size = "much"\n', ("tmpfs_size", "not a size")),
    ):
        file.write_text(text)
        refused(sifkit("exec", "--writable-tmpfs", str(rootfs), "true", env=env), str(file), *words)


def test_a_default_bind_that_this_host_lacks_is_left_out(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """One configuration serves many hosts; on the command line the same is an error."""
    (tmp_path / "sifkit").mkdir()
    (tmp_path / "sifkit/config.toml").write_text('bind = ["/no/such:/place", "/etc:/from/config"]\n')
    env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    done = sifkit("exec", str(rootfs), "ls", "-d", "/from/config", env=env)
    assert (done.returncode, done.stderr.count("WARNING: bind in")) == (0, 1), done.stderr
    refused(sifkit("exec", "--bind", "/no/such:/place", str(rootfs), "true"), "--bind", "/no/such", "SRC:DEST")


def test_configuration_is_used(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "sifkit").mkdir()
    (tmp_path / "data").write_text("bound\n")
    text = f'bind = ["{tmp_path}/data:/from/config"]\ntmpfs_size = "70M"\n'
    (tmp_path / "sifkit/config.toml").write_text(text)
    env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    script = "cat /from/config; df -m / | tail -n 1 | awk '{print $2}'"
    assert sifkit.ok("exec", "--writable-tmpfs", str(rootfs), "sh", "-c", script, env=env) == "bound\n70\n"
