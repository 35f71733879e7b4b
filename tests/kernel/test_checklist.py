"""Rows of Apptainer's own tests, on a directory and on a SIF image: 7.2 persistent overlays, 7.6 actions, and of 7.5
and 7.7 what an image's kind could matter for. Statuses are ours: 2 where Apptainer ends with 1 or 255 for a wrong
command line.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from images import MIB, Program, make_ext3, make_squash
from probes import needs, only_user

from sifkit import sif

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "squashfuse")]

USAGE, OURS = 2, 255
HERE = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}.get(os.uname().machine, "amd64")


@pytest.fixture(scope="module")
def sif_image(rootfs_squash: Path, built: Path) -> Path:
    """The test root file system as a SIF image."""
    path = built / "checklist.sif"
    sif.create(path, [sif.partition(rootfs_squash, sif.FsType.SQUASHFS, sif.PartType.PRIMARY, HERE)])
    return path


@pytest.fixture(params=["rootfs", "sif_image"], ids=["directory", "SIF"])
def image(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


# -- 7.2 -------------------------------------------------------------------------------------------


class Overlays:
    """What the rows of 7.2 share: an empty directory, a plain ext3 without upper/, a squashfs with one file."""

    def __init__(self, place: Path) -> None:
        self.dir, self.ext3, self.squash = place / "dir", place / "ext3.img", place / "squash.sqfs"
        self.dir.mkdir()
        make_ext3(self.ext3, size=64 * MIB)
        (place / "tree").mkdir()
        (place / "tree/squash_marker").touch()
        make_squash(place / "tree", self.squash)


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> Overlays:
    return Overlays(tmp_path_factory.mktemp("overlays"))


@needs("fuse2fs", "fuse-overlayfs", "mke2fs")
class TestPersistentOverlay:
    """7.2, row by row, in its order: what one leaves the next finds."""

    ROWS = (
        ("overlay_create", ["DIR"], ["touch", "/dir_overlay"], 0),
        ("overlay_ext3_create", ["EXT3"], ["touch", "/ext3_overlay"], 0),
        ("overlay_multiple_create", ["EXT3", "SQUASH:ro"], ["touch", "/multiple"], 0),
        ("overlay_find", ["DIR"], ["test", "-f", "/dir_overlay"], 0),
        ("overlay_find_with_writable_fail", ["DIR", "--writable"], ["true"], USAGE),
        ("overlay_find_with_writable_tmpfs", ["DIR:ro", "--writable-tmpfs"], ["test", "-f", "/dir_overlay"], 0),
        ("overlay_find_with_writable_tmpfs_fail", ["DIR", "--writable-tmpfs"], ["true"], USAGE),
        ("overlay_ext3_find", ["EXT3"], ["test", "-f", "/ext3_overlay"], 0),
        ("overlay_multiple_writable_fail", ["EXT3", "EXT3"], ["true"], USAGE),
        ("overlay_multiple_writable_fail_2", ["EXT3", "DIR"], ["true"], USAGE),
        ("overlay_squashFS_find", ["SQUASH:ro"], ["test", "-f", "/squash_marker"], 0),
        ("overlay_squashFS_find_without_ro", ["SQUASH"], ["test", "-f", "/squash_marker"], 0),
        ("overlay_multiple_find_ext3", ["EXT3", "SQUASH:ro"], ["test", "-f", "/multiple"], 0),
        ("overlay_multiple_find_squashfs", ["EXT3", "SQUASH:ro"], ["test", "-f", "/squash_marker"], 0),
        ("overlay_noroot", ["DIR"], ["test", "-f", "/dir_overlay"], 0),
        ("overlay_noflag", [], ["test", "-f", "/dir_overlay"], 1),
        ("overlay_remove", ["DIR"], ["rm", "/etc/group"], 0),
        ("overlay_check_removed", ["DIR", "--no-mount", "/etc/group"], ["test", "!", "-f", "/etc/group"], 0),
        ("overlay_ext3_remove", ["EXT3"], ["rm", "/bin/uptime"], 0),
        ("overlay_ext3_check_removed_2950", ["EXT3"], ["test", "!", "-e", "/bin/uptime"], 0),
    )

    @pytest.mark.parametrize(("options", "command", "status"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
    def test_7_2(
        self, sifkit: Program, rootfs: Path, overlays: Overlays, options: list[str], command: list[str], status: int
    ) -> None:
        paths = {"DIR": overlays.dir, "EXT3": overlays.ext3, "SQUASH": overlays.squash}
        words: list[str] = []
        for option in options:
            name, colon, mode = option.partition(":")
            words += ["-o", f"{paths[name]}{colon}{mode}"] if name in paths else [option]
        if command[0] == "rm":  # the caller's passwd and group would cover them
            words += ["--no-mount", "/etc/group"]
        done = sifkit("exec", *words, str(rootfs), *command)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr

    @only_user
    @needs("subids")
    def test_7_2_fakeroot(self, sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
        """The rows marked F, with --fakeroot; what they leave is then found without it."""
        overlays = Overlays(tmp_path)
        for name, options, command, status in self.ROWS:
            if not status and "--writable-tmpfs" not in options and not name.startswith("overlay_squashFS"):
                self.test_7_2(sifkit, rootfs, overlays, ["--fakeroot", *options], command, status)
        for options, command in ((["DIR"], ["rm", "/dir_overlay"]), (["EXT3"], ["rm", "/ext3_overlay", "/multiple"])):
            self.test_7_2(sifkit, rootfs, overlays, options, command, 0)

    def test_7_2_relative_4270(self, sifkit: Program, rootfs: Path, overlays: Overlays) -> None:
        words = ["--overlay", "dir", "--cwd", "/usr", str(rootfs), "test", "-f", "/dir_overlay"]
        sifkit.ok("exec", *words, cwd=overlays.dir.parent)

    def test_7_2_sif_writable_4329_and_embedded(self, sifkit: Program, sif_image: Path, tmp_path: Path) -> None:
        copy = str(shutil.copy(sif_image, tmp_path / "copy.sif"))
        assert sifkit("exec", "--writable", copy, "true").returncode == OURS
        sifkit.ok("overlay", "create", copy)
        sifkit.ok("exec", copy, "ps")


# -- 7.6 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ([], USAGE),
        (["true"], 0),
        (["false"], 1),
        (["/bin/true"], 0),
        (["/bin/false"], 1),
        (["sh", "-c", "exit 134"], 134),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", "kill -ABRT $$"], 134),
        (["test", "a b", "=", "a b"], 0),
    ],
    ids=["no_command", "true", "false", "true_path", "false_path", "exit_134", "SIGKILL", "SIGABRT", "spaces"],
)
def test_7_6_exec(sifkit: Program, image: str, words: list[str], status: int) -> None:
    assert sifkit("exec", image, *words).returncode == status


def test_7_6_run(sifkit: Program, image: str, tree: Path) -> None:
    """The runscript with its arguments; an image without one has a shell in its place, with a sentence under -v."""
    assert sifkit.ok("run", image, "a b", "c") == "runscript: a b c\n"
    shutil.rmtree(tree / ".singularity.d")
    assert sifkit("run", str(tree), "-c", "exit 3").returncode == 3


def test_7_6_shell(sifkit: Program, image: str) -> None:
    for text, status in (("true", 0), ("false", 1), ("exit", 0), ("no-such-command\nexit", 127)):
        assert sifkit("shell", image, input=f"{text}\n").returncode == status
    assert sifkit.ok("shell", image, input="hostname\n") == f"{os.uname().nodename}\n"


def test_7_6_bind_over_tmp(sifkit: Program, image: str, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    words = ["--cwd", "/etc", "--bind", f"{tmp_path}:/tmp", image, "sh", "-c", "pwd; ls /tmp"]
    assert sifkit.ok("exec", *words) == "/etc\nmine\n"


# -- 7.5 and 7.7, of a SIF image -------------------------------------------------------------------


def test_7_5_binds(sifkit: Program, sif_image: Path, tmp_path: Path) -> None:
    """Nested ones in the wrong order, read-only, a file, scratch, home; at places that a squashfs cannot make."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("a\n")
    (tmp_path / "home").mkdir()
    binds = (f"{tmp_path}/a:/new/b/c:ro", f"{tmp_path}/a:/new/b", f"{tmp_path}/a/file:/etc/one")
    words = [*(word for bind in binds for word in ("-B", bind)), "-S", "/s", "-H", f"{tmp_path}/home:/root"]
    script = 'cat /new/b/c/file /etc/one && touch /s/x "$HOME/h" && ! touch /new/b/c/y && echo "$HOME $APPTAINER_BIND"'
    said = sifkit.ok("exec", *words, str(sif_image), "sh", "-c", script)
    assert said == "a\na\n/root /new/b/c,/new/b,/etc/one\n"
    assert os.listdir(tmp_path / "home") == ["h"]


def test_7_7_environment(sifkit: Program, sif_image: Path) -> None:
    words = ["--env", "PATH=$PATH:/more", "--env", "V=a\nb", str(sif_image), "sh", "-c"]
    said = sifkit.ok("exec", *words, 'echo "$PATH|$IMAGE_GREETING|$V"', env={**os.environ, "IMAGE_GREETING": "host"})
    assert said == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/more|hello|a\nb\n"


def test_7_6_contain(sifkit: Program, sif_image: Path) -> None:
    script = "touch /tmp/x && ls -A /tmp && ls /dev | wc -l && mkdir /new"
    done = sifkit("exec", "--compat", str(sif_image), "sh", "-c", script)
    assert (done.returncode, done.stdout.split()[0]) == (0, "x"), done.stderr
