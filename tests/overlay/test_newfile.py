"""Nothing is ever replaced, no neighbour touched, and a kill leaves nothing that harms."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from overlay import e2fsprogs, linux_file, newfile
from overlay.manage.create import create_directory, create_ext3
from overlay.section import Section

MIB = 2**20
ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def occupy_file(path: Path) -> None:
    path.write_bytes(b"precious")


def occupy_read_only(path: Path) -> None:
    occupy_file(path)
    path.chmod(0o444)


def occupy_unreadable(path: Path) -> None:
    occupy_file(path)
    path.chmod(0o000)


def occupy_dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("occupy", [occupy_file, occupy_read_only, occupy_unreadable, occupy_dangling, Path.mkdir])
def test_existing_is_never_replaced(tmp_path: Path, occupy: object) -> None:
    """B1: Apptainer replaces what it may not write."""
    target = tmp_path / "a.img"
    assert callable(occupy)
    occupy(target)
    before = target.lstat()
    with pytest.raises(FileExistsError) as caught:
        create_ext3(str(target), 16 * MIB)
    assert caught.value.filename == str(target)
    after = target.lstat()
    assert (before.st_ino, before.st_size, before.st_mtime_ns, before.st_mode) == (
        after.st_ino, after.st_size, after.st_mtime_ns, after.st_mode
    )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["a.img"]


def test_neighbours_are_untouched(tmp_path: Path) -> None:
    """B27, B34: Apptainer overwrites and removes PATH.ext3."""
    for name in ("a.img.ext3", ".a.img.tmp", "a.img~"):
        (tmp_path / name).write_text(name)
    create_ext3(str(tmp_path / "a.img"), 16 * MIB)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.img.tmp", "a.img", "a.img.ext3", "a.img~"]
    assert (tmp_path / "a.img.ext3").read_text() == "a.img.ext3"


@pytest.fixture(params=["unnamed", "renameat2", "link", "placeholder"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The four ways to give a new file its name, each as on a file system that lacks the ones before."""
    name = str(request.param)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL if name == "link" else errno.EOPNOTSUPP, "not here")

    if name != "unnamed":
        monkeypatch.setattr(newfile, "_open_unnamed", newfile._open_named)
    if name in ("link", "placeholder"):
        monkeypatch.setattr(linux_file, "rename_new", refuse)
    if name == "placeholder":
        monkeypatch.setattr(os, "link", refuse)
    return name


def test_every_way_makes_the_file(tmp_path: Path, way: str) -> None:
    create_ext3(str(tmp_path / "a.img"), 16 * MIB, sparse=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.img"]
    assert (tmp_path / "a.img").stat().st_nlink == 1
    assert e2fsprogs.e2fsck(Section(str(tmp_path / "a.img"), 0, 16 * MIB), "-fn", write=False).status == 0


def test_every_way_loses_to_who_comes_first(tmp_path: Path, way: str) -> None:
    target = tmp_path / "a.img"
    with newfile.new_file(str(target), 0o600) as fresh:
        target.write_text("first")
        with pytest.raises(FileExistsError):
            fresh.publish()
    assert target.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.img"]


def test_error_leaves_nothing(tmp_path: Path, way: str) -> None:
    with pytest.raises(RuntimeError), newfile.new_file(str(tmp_path / "a.img"), 0o600):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_of_two_at_once_one_wins(tmp_path: Path) -> None:
    code = (
        "import sys; from overlay.manage.create import create_ext3\n"
        "sys.stdin.read()\n"
        f"create_ext3({str(tmp_path / 'a.img')!r}, 16*2**20, owner=(int(sys.argv[1]), 0))\n"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(i)], env=ENV, stdin=-1, stderr=-1, text=True)
        for i in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
        racer.stdin = None
    errors = [racer.communicate()[1] for racer in racers]
    assert [racer.returncode for racer in racers].count(0) == 1
    assert sum("FileExistsError" in text for text in errors) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.img"]


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """B34: and whatever was left does no harm to the next one."""
    code = f"from overlay.manage.create import create_ext3; create_ext3({str(tmp_path / 'a.img')!r}, 64*2**20)"
    complete = 0
    chance = random.Random(7)
    for _ in range(30):
        process = subprocess.Popen([sys.executable, "-c", code], env=ENV)
        time.sleep(chance.uniform(0.01, 0.12))  # not a wait for anything: the moment of the kill
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert {p.name for p in tmp_path.iterdir()} <= {"a.img"}
        if (tmp_path / "a.img").exists():
            complete += 1
            section = Section(str(tmp_path / "a.img"), 0, 64 * MIB)
            assert e2fsprogs.e2fsck(section, "-fn", write=False).status == 0
            said = e2fsprogs.debugfs(section, [[b"stat", b"/upper"], [b"stat", b"/work"]], write=False)
            assert said.count("Type: directory") == 2
            (tmp_path / "a.img").unlink()
    create_ext3(str(tmp_path / "a.img"), 16 * MIB)


def test_directory_overlay(tmp_path: Path) -> None:
    top = tmp_path / "d"
    create_directory(str(top) + "/", dirs=["opt/x y", "n\nl"])
    assert sorted(str(p.relative_to(top)) for p in top.rglob("*")) == [
        "upper", "upper/n\nl", "upper/opt", "upper/opt/x y", "work"
    ]  # fmt: skip
    assert all(p.stat().st_mode & 0o7777 == 0o755 for p in top.rglob("*"))
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_directory_overlay_in_an_empty_directory(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        create_directory(str(tmp_path))
    finally:
        os.umask(before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["upper", "work"]
    assert (tmp_path / "upper").stat().st_mode & 0o7777 == 0o755


def test_directory_overlay_refusals(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(OSError, match="not empty"):
        create_directory(str(tmp_path))
    with pytest.raises(FileExistsError):
        create_directory(str(tmp_path / "f"))
    with pytest.raises(ValueError, match="leads out"):
        create_directory(str(tmp_path / "d"), dirs=["../x"])
    with pytest.raises(FileNotFoundError):
        create_directory(str(tmp_path / "no/d"))
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_directory_overlay_failure_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    for target in ("d", "e"):
        with pytest.raises(OSError, match="too long"):
            create_directory(str(tmp_path / target), dirs=["/".join(["x" * 200] * 30)])
    assert [p.name for p in tmp_path.rglob("*")] == ["e"]
