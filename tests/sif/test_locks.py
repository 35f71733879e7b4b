"""Editors wait for one another; what a container uses is not touched."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sifkit import sif
from sifkit.sif import lock

TEXT = sif.NewObject(sif.DataType.GENERIC, b"text")


@contextmanager
def container(path: str, number: int, kind: int = fcntl.F_RDLCK) -> Iterator[None]:
    """Hold the lock that a container holds on a partition."""
    with sif.open(path) as image:
        d = image.one(sif.by_id(number))
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, lock.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, d.offset, d.size, 0))
        yield
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", [fcntl.F_RDLCK, fcntl.F_WRLCK])
@pytest.mark.parametrize("verb", ["delete", "set_primary", "change", "compact"])
def test_in_use_is_refused(image: str, kind: int, verb: str) -> None:
    """B6, B38."""
    sif.add(image, sif.partition(b"p" * 9000, sif.FsType.RAW, sif.PartType.SYSTEM, "amd64"))
    sif.delete(image, 1)
    verbs: dict[str, Callable[[], object]] = {
        "delete": lambda: sif.delete(image, 2),
        "set_primary": lambda: sif.set_primary(image, 4),  # demotes object 2
        "change": lambda: sif.change(image, 2, name="x"),
        "compact": lambda: sif.compact(image),
    }
    before = Path(image).read_bytes()
    with container(image, 2, kind):
        with pytest.raises(sif.InUse):
            verbs[verb]()
        assert Path(image).read_bytes() == before
    verbs[verb]()
    assert Path(image).read_bytes() != before


def test_the_rest_of_an_image_in_use_can_change(image: str) -> None:
    with container(image, 2, fcntl.F_WRLCK):
        sif.delete(image, 3)
        sif.add(image, TEXT)
        sif.grow(image, 500)
        sif.add(image, TEXT)
    assert sif.check(image) == []


def test_an_editor_holds_what_it_changes(image: str) -> None:
    """A container that starts during a change of its partition finds it locked."""
    other = os.open(image, os.O_RDONLY)
    with sif.open(image) as opened:
        d = opened.one(sif.by_id(2))
    with sif.editing(image) as edit:
        assert not lock.in_use(other, d.offset, d.size)
        edit.claim(edit.find(2))
        assert lock.in_use(other, d.offset, d.size)
    assert not lock.in_use(other, d.offset, d.size)
    os.close(other)


def test_the_editors_lock_is_header_and_table(image: str) -> None:
    other = os.open(image, os.O_RDONLY)
    with sif.editing(image):
        assert lock.in_use(other, 0, 1) and lock.in_use(other, 32175, 1)
        assert not lock.in_use(other, 32176, 1 << 20)
    os.close(other)


def _ten(command: list[str], path: str) -> list[int]:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    running = [subprocess.Popen([*command, path, str(n)], env=environment) for n in range(10)]
    return [process.wait() for process in running]


def test_ten_adds_at_once(tmp_path: Path, contents: Callable[[str], dict[int, bytes]]) -> None:
    """B33: siftool keeps 1 to 7 of them."""
    path = str(tmp_path / "image.sif")
    sif.create(path, capacity=4)  # so that the table grows in between as well
    code = "import sys; from sifkit import sif;sif.add(sys.argv[1], sif.NewObject(0x4007, sys.argv[2].encode() * 9999))"
    assert _ten([sys.executable, "-c", code], path) == [0] * 10
    assert sorted(contents(path).values()) == [b"%d" % n * 9999 for n in range(10)]
    assert sif.check(path) == []


def test_adds_and_compactions_at_once(tmp_path: Path, contents: Callable[[str], dict[int, bytes]]) -> None:
    """A compaction renames a new file over the old one: who waited for the old one must take the new one."""
    path = str(tmp_path / "image.sif")
    sif.create(path, [TEXT._replace(source=b"x" * 5000)], capacity=2)
    code = (
        "import sys; from sifkit import sif; n = int(sys.argv[2]);"
        "sif.compact(sys.argv[1]) if n % 2 else sif.add(sys.argv[1], sif.NewObject(0x4007, b'%d' % n))"
    )
    assert _ten([sys.executable, "-c", code], path) == [0] * 10
    assert sorted(contents(path).values())[:5] == [b"0", b"2", b"4", b"6", b"8"]
    assert sif.check(path) == []


def test_an_editor_waits(image: str) -> None:
    with sif.editing(image):
        code = "import sys; from sifkit import sif; sif.add(sys.argv[1], sif.NewObject(0x4007, b'late'))"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        process = subprocess.Popen([sys.executable, "-c", code, image], env=environment)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
    assert process.wait(timeout=20) == 0


def test_who_waited_takes_the_file_that_has_the_name_now(image: str, tmp_path: Path) -> None:
    """As after a compaction, which renames a new file over the one that was waited for."""
    code = "import sys; from sifkit import sif; sif.add(sys.argv[1], sif.NewObject(0x4007, b'late'))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with sif.editing(image):
        process = subprocess.Popen([sys.executable, "-c", code, image], env=environment)
        _until_waiting(process)
        (tmp_path / "new").write_bytes(Path(image).read_bytes())
        os.rename(tmp_path / "new", image)
    assert process.wait(timeout=20) == 0
    with sif.open(image) as opened:
        assert opened.read(opened.objects[-1]) == b"late"


def _until_waiting(process: subprocess.Popen[bytes]) -> None:
    """Until the process is blocked on a lock (its kernel stack would say so, to root alone)."""
    end = time.monotonic() + 20
    while not any("image.sif" in link for link in _links(process.pid)):
        assert time.monotonic() < end, "waited 20 s"
        time.sleep(0.005)
    time.sleep(0.1)


def _links(pid: int) -> list[str]:
    try:
        return [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []


def test_no_locks_is_an_error(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> bytes:
        raise OSError(errno.ENOLCK, "No locks available")

    before = Path(image).read_bytes()
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(sif.LockUnavailable):
        sif.add(image, TEXT)
    assert Path(image).read_bytes() == before


def test_readers_need_no_lock(image: str) -> None:
    started = time.monotonic()
    with sif.editing(image), sif.open(image) as opened:
        assert len(opened.objects) == 3
    assert time.monotonic() - started < 5
