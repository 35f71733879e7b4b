"""A new image appears under its name complete or not at all, and never in place of anything."""

from __future__ import annotations

import errno
import os
import signal
import stat
from pathlib import Path
from typing import Any

import killing
import pytest

from sifkit import sif
from sifkit.sif import nameless
from sifkit.sif.records import ZERO_TIME

PARTS = [
    sif.NewObject(sif.DataType.GENERIC, b"text"),
    sif.partition(b"p" * 9000, sif.FsType.RAW, sif.PartType.PRIMARY, "amd64"),
]


def _no_tmpfile(patch: pytest.MonkeyPatch) -> None:
    """A file system without O_TMPFILE, as NFS and many FUSE ones are."""
    real = os.open

    def without(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        return real(path, flags, *rest, **options)

    patch.setattr(os, "open", without)


@pytest.mark.parametrize("tmpfile", [True, False])
def test_killed_at_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmpfile: bool) -> None:
    if not tmpfile:
        _no_tmpfile(monkeypatch)
    path, killed = tmp_path / "new.sif", 0
    for last in range(1, 100):
        status = killing.outcome(lambda: sif.create(path, PARTS), last, killing.die)
        if path.exists():
            assert sif.check(path) == []
            with sif.open(path) as image:
                assert len(image.objects) == 2
            path.unlink()
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        killed += 1
        left = list(tmp_path.iterdir())
        assert not left if tmpfile else all(p.name.startswith(".new.sif.") for p in left)
    assert killed > 5


@pytest.mark.parametrize("tmpfile", [True, False])
def test_a_name_taken_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmpfile: bool) -> None:
    if not tmpfile:
        _no_tmpfile(monkeypatch)
    path = tmp_path / "new.sif"

    def arrive(at: str, offset: int) -> None:
        assert os.path.getsize(at) >= offset + 4096  # other programs reach it, though it has no name
        path.write_bytes(b"precious")

    with pytest.raises(FileExistsError) as caught:
        sif.create(path, [sif.NewObject(sif.DataType.GENERIC, sif.Fill(4096, arrive))])
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfat, exFAT and some FUSE file systems have neither."""
    _no_tmpfile(monkeypatch)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "new.sif"
    sif.create(path, PARTS)
    assert sif.check(path) == []
    assert list(tmp_path.iterdir()) == [path]


def test_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bare chroot nothing could give the nameless file its name."""
    monkeypatch.setattr(nameless, "_OURS", str(tmp_path / "proc"))
    path = tmp_path / "new.sif"
    sif.create(path, PARTS)
    assert sif.check(path) == []
    assert list(tmp_path.iterdir()) == [path]


def test_new_is_as_the_go_library_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "new.sif"
    before = os.umask(0o022)
    try:
        sif.create(path, deterministic=True)
    finally:
        os.umask(before)
    assert path.stat().st_size == 32176
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    with sif.open(path) as image:
        assert image.header.deterministic
        assert image.header[6:] == (ZERO_TIME, 48, 48, 4096, 28080, 32176, 0)


def test_new_never_touches_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        sif.create(path)
    assert path.read_bytes() == b"precious"


def test_new_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "new.sif"
    with pytest.raises(FileNotFoundError):
        sif.create(path, [sif.NewObject(sif.DataType.GENERIC, str(tmp_path / "missing"))])
    with pytest.raises(sif.BadValue):
        sif.create(path, launch="x" * 32)
    with pytest.raises(sif.BadValue):
        sif.create(path, capacity=-1)
    assert not path.exists()


@pytest.mark.parametrize("capacity", [0, 1, 53, 10000])
def test_new_of_any_capacity(tmp_path: Path, capacity: int) -> None:
    path = tmp_path / "new.sif"
    sif.create(path, PARTS[:1], capacity=capacity)
    with sif.open(path) as image:
        assert image.header.total == max(1, capacity)
        assert image.read(image.objects[0]) == b"text"
    assert sif.check(path) == []
