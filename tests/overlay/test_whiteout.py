"""Whiteouts in directories: every spelling rewritten as one, which the kernel honours."""

from __future__ import annotations

import os
import stat
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from opaque_marks import tree
from probes import needs
from trees import dig

from overlay import whiteout

MIB = 2**20


def xattrs_work(path: Path) -> bool:
    try:
        os.setxattr(path, "user.sifkit.test", b"1")
    except OSError:
        return False
    os.removexattr(path, "user.sifkit.test")
    return True


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """An upper directory in every spelling at once."""
    if not xattrs_work(tmp_path):
        pytest.skip("this file system has no extended attributes")
    top = tmp_path / "upper"
    for name in ("dev", "file", "again", "opaque-fuse/full", "opaque-name", "opaque-kernel", "plain/deep"):
        (top / name).mkdir(parents=True)
    os.mknod(top / "dev/gone", stat.S_IFCHR, os.makedev(0, 0))
    (top / "file/.wh.gone").touch(mode=0o700)
    (top / "file/kept").write_text("kept")
    (top / "again/.wh.made").touch()
    (top / "again/made").write_text("made again")
    (top / "again/.wh.dir").touch()
    (top / "again/dir").mkdir()
    os.setxattr(top / "opaque-fuse", "user.fuseoverlayfs.opaque", b"y")
    (top / "opaque-fuse/.wh..wh..opq").touch()
    os.mknod(top / "opaque-fuse/.wh..opq", stat.S_IFCHR, os.makedev(0, 0))
    (top / "opaque-fuse/full/new").write_text("new")
    (top / "opaque-name/.wh..wh..opq").touch()
    os.setxattr(top / "opaque-kernel", "user.overlay.opaque", b"y")
    os.setxattr(top / "plain", "user.overlay.opaque", b"n")
    return top


NORMAL = {
    "dev": "d", "dev/gone": "c",
    "file": "d", "file/gone": "c", "file/kept": "-",
    "again": "d", "again/made": "-", "again/dir": "d overlay fuseoverlayfs",
    "opaque-fuse": "d overlay fuseoverlayfs", "opaque-fuse/full": "d", "opaque-fuse/full/new": "-",
    "opaque-name": "d overlay fuseoverlayfs", "opaque-kernel": "d overlay fuseoverlayfs",
    "plain": "d", "plain/deep": "d",
}  # fmt: skip


def test_normalise(upper: Path) -> None:
    os.utime(upper / "file", (1000, 2000))
    assert whiteout.normalise_directory(str(upper)) > 0
    assert tree(upper) == NORMAL
    assert (upper / "file").stat().st_mtime == 2000
    assert whiteout.normalise_directory(str(upper)) == 0
    assert tree(upper) == NORMAL


def test_normalise_in_directories_closed_to_their_owner(upper: Path) -> None:
    for name, mode in (("file", 0o500), ("opaque-fuse", 0o000), ("again/dir", 0o555), ("dev", 0o000)):
        (upper / name).chmod(mode)
    whiteout.normalise_directory(str(upper))
    for name, mode in (("file", 0o500), ("opaque-fuse", 0o000), ("again/dir", 0o555), ("dev", 0o000)):
        assert stat.S_IMODE((upper / name).stat().st_mode) == mode
        (upper / name).chmod(0o755)
    assert tree(upper) == NORMAL


def test_normalise_goes_on_after_a_kill(upper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before each of its changes in turn, and run again: always the same result."""
    real: dict[str, Callable[..., None]] = {name: getattr(os, name) for name in ("unlink", "mknod", "setxattr")}
    left = [0]

    def counted(name: str) -> Callable[..., None]:
        def act(*args: object, **named: object) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            real[name](*args, **named)
            left[0] -= 1  # what is refused changes nothing

        return act

    for name in real:
        monkeypatch.setattr(os, name, counted(name))
    kills = 0
    while kills < 100:
        left[0] = 1
        try:
            whiteout.normalise_directory(str(upper))
            break
        except KeyboardInterrupt:
            kills += 1
    assert 5 < kills < 100
    assert tree(upper) == NORMAL


def test_no_recursion_limit(tmp_path: Path) -> None:
    here = dig(str(tmp_path), "d", 300)
    os.close(os.open(".wh.x", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    assert whiteout.normalise_directory(str(tmp_path)) == 1
    assert os.listdir(here) == ["x"]
    os.close(here)


def test_names() -> None:
    assert whiteout.deleted_name(b".wh.a") == b"a"
    assert whiteout.deleted_name(b".wh..hidden") == b".hidden"
    for name in (b".wh.", b".wh..", b".wh...", b".wh..wh..opq", b".wh..opq", b".wh..wh.plnk", b"wh.a", b"a.wh.b"):
        assert whiteout.deleted_name(name) is None
    assert whiteout.is_whiteout(stat.S_IFCHR, (0, 0))
    assert not whiteout.is_whiteout(stat.S_IFCHR, (1, 3))
    assert not whiteout.is_whiteout(stat.S_IFBLK, (0, 0))
    assert whiteout.is_opaque({b"trusted.overlay.opaque": b"y"})
    assert not whiteout.is_opaque({b"user.overlay.opaque": b"x"})


@needs("userns", "overlayfs", "unshare")
def test_the_kernel_shows_what_the_directory_means(upper: Path, tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    for name in ("dev", "file", "again/dir", "opaque-fuse/full", "opaque-name", "opaque-kernel", "plain"):
        (lower / name).mkdir(parents=True)
        (lower / name / "old").write_text("old")
    for name in ("dev/gone", "file/gone"):
        (lower / name).write_text("lower")
    whiteout.normalise_directory(str(upper))
    (tmp_path / "work").mkdir()
    (tmp_path / "merged").mkdir()
    script = f"""
        set -e
        cd {tmp_path}
        mount -t overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work none merged
        cd merged
        find . ! -type d -printf '%P\\n' | sort
    """
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == sorted(
        ["again/made", "dev/old", "file/kept", "file/old", "opaque-fuse/full/new", "plain/old"]
    )
