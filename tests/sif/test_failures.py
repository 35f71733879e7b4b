"""A change that fails in the middle leaves the image as it was, and as long as it was."""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sifkit import sif
from sifkit.sif import transfer

ROOT = str(Path(__file__).resolve().parents[2])
TEXT = sif.NewObject(sif.DataType.GENERIC, b"text", "name", extra=b"e" * 384)  # no part of its descriptor is empty


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Writing past ``size`` bytes of any file fails (EFBIG), as a full disk does (ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("full", [False, True])
def test_no_room_for_the_data(tmp_path: Path, full: bool) -> None:
    path = tmp_path / "image.sif"
    sif.create(path, [TEXT] * 3, capacity=3 if full else 9)
    big = tmp_path / "big"
    big.write_bytes(os.urandom(3 << 20))
    before = path.read_bytes()
    for source in (str(big), big.read_bytes()):
        with file_limit(1 << 20), pytest.raises(OSError) as caught:
            sif.add(path, TEXT._replace(source=source))
        assert caught.value.errno == errno.EFBIG
        assert path.read_bytes() == before
    assert len(sif.add(path, TEXT).ids) == 1


def test_a_full_disk(tmp_path: Path) -> None:
    """B39: the same on a file system that really is full, in a mount namespace of its own."""
    code = """if 1:
        import os, sys
        from sifkit import sif
        os.chdir(sys.argv[1])
        sif.create("image.sif", [sif.NewObject(0x4007, b"text")])
        before = open("image.sif", "rb").read()
        try:
            sif.add("image.sif", sif.NewObject(0x4007, "/dev/zero"))
        except OSError as error:
            assert error.errno == 28, error
        else:
            sys.exit("no error")
        assert open("image.sif", "rb").read() == before
        free = os.statvfs(".").f_bavail * os.statvfs(".").f_frsize
        assert free > 1 << 20, free
    """
    mount = 'mount -t tmpfs -o size=2m none "$1" || exit 77; exec "$2" -c "$3" "$1"'
    arguments = ["unshare", "-rm", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, code]
    done = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_while_data_come_in(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "image.sif"
    sif.create(path, [TEXT])
    before = path.read_bytes()
    code = "import sys; from sifkit import sif; sif.add(sys.argv[1], sif.NewObject(0x4007, 0))"
    command = [sys.executable, "-c", code, str(path)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": ROOT}
    )
    assert process.stdin is not None
    process.stdin.write(b"x" * (4 << 20))
    process.stdin.flush()
    _until(lambda: path.stat().st_size > len(before) + (1 << 20))
    process.send_signal(number)
    assert process.wait(timeout=20) != 0
    process.stdin.close()
    _until(lambda: path.stat().st_size == len(before))
    with sif.editing(path):  # waits until the killed editor's witness is through
        assert path.read_bytes() == before
    assert sif.add(path, TEXT).ids == (2,)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "waited 20 s"
        time.sleep(0.005)


WRITES = ["add", "add to full", "grow", "setprim", "delete", "change"]


def _verb(path: Path, what: str) -> None:
    if what.startswith("add"):
        sif.add(path, TEXT)
    elif what == "grow":
        sif.grow(path, 99)
    elif what == "setprim":
        sif.set_primary(path, 2)
    elif what == "delete":
        sif.delete(path, 2)
    else:
        sif.change(path, 1, name="new", part=3)


def _sample(directory: Path, what: str) -> Path:
    path = directory / "image.sif"
    parts = [sif.partition(b"p" * 900, sif.FsType.RAW, part, arch) for part, arch in ((2, "amd64"), (1, "arm64"))]
    sif.create(path, parts, capacity=2 if what == "add to full" else 8, time=1)
    return path


@pytest.mark.parametrize("what", WRITES)
def test_an_error_in_any_write(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """B28: the n-th write fails, for each n: then the file is as it was, byte by byte."""
    path = _sample(tmp_path, what)
    before = path.read_bytes()
    real, failures = transfer.write_at, 0
    while True:
        left = failures

        def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                real(fd, bytes(data)[: len(data) // 2], offset)
                raise OSError(errno.EIO, "Input/output error")
            real(fd, data, offset)

        monkeypatch.setattr(transfer, "write_at", write_at)
        try:
            _verb(path, what)
        except OSError:
            assert path.read_bytes() == before, failures
            failures += 1
        else:
            break
    assert failures >= 2  # at least a descriptor and the header
    assert sif.check(path) == []


@pytest.mark.parametrize("what", WRITES)
def test_killed_at_any_write(tmp_path: Path, what: str) -> None:
    """SIGKILL at the n-th write, half of it done: the witness brings the old bytes back."""
    count = 0
    while True:
        directory = tmp_path / str(count)
        directory.mkdir()
        path = _sample(directory, what)
        before = path.read_bytes()
        child = os.fork()
        if child == 0:
            _die_at(path, what, count)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with sif.editing(path):
            after = path.read_bytes()
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert after == before, count
        count += 1
    assert after != before and count >= 2


def _die_at(path: Path, what: str, count: int) -> None:
    real, left = transfer.write_at, count

    def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            real(fd, bytes(data)[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        real(fd, data, offset)

    try:
        transfer.write_at = write_at
        _verb(path, what)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("what", ["add", "add to full", "grow"])
def test_a_power_cut_at_any_write(tmp_path: Path, what: str) -> None:
    """Without any undo: after each write, also of half of it, the file holds the old objects or the new ones."""
    path = _sample(tmp_path, what)
    with sif.open(path) as image:
        old = image.objects
    states: list[bytes] = []
    real = transfer.write_at

    def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
        before = path.read_bytes().ljust(offset + len(data), b"\0")
        half = len(data) // 2
        states.append(before[:offset] + data[:half] + before[offset + half :])
        states.append(before[: offset + half] + data[half:] + before[offset + len(data) :])
        real(fd, data, offset)
        states.append(path.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "write_at", write_at)
        _verb(path, what)
    with sif.open(path) as image:
        new = image.objects
    copy = tmp_path / "copy.sif"
    seen = set()
    for state in states:
        if struct.unpack_from("<5q", state, 80) not in _headers(states):
            continue  # half a header: 128 bytes of one sector are written whole or not at all
        copy.write_bytes(state)
        with sif.open(copy) as image:
            assert image.objects in (old, new)
            assert [image.read(d) for d in image.objects][2:] in ([], [b"text"])
            seen.add(image.objects)
    assert seen == {old, new}


def _headers(states: list[bytes]) -> set[tuple[int, ...]]:
    return {struct.unpack_from("<5q", states[at], 80) for at in (0, -1)}


def test_data_are_on_disk_before_a_descriptor_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _sample(tmp_path, "add")
    events: list[tuple[str, int, int]] = []
    real_write, real_sync = transfer.write_at, os.fdatasync

    def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
        events.append(("write", offset, len(data)))
        real_write(fd, data, offset)

    def fdatasync(fd: int) -> None:
        events.append(("sync", 0, 0))
        real_sync(fd)

    monkeypatch.setattr(transfer, "write_at", write_at)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    _verb(path, "add")
    with sif.open(path) as image:
        added = image.objects[2]
        slot = image.offset_of(added)
    assert events == [
        ("write", added.offset, 4), ("write", slot, 585), ("sync", 0, 0),
        ("write", slot + 4, 1), ("write", 0, 128), ("sync", 0, 0),
    ]  # fmt: skip


def test_the_object_shrinks_while_it_is_read(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 100000)
    before = Path(image).read_bytes()
    real = transfer.extents

    def extents(fd: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
        found = list(real(fd, offset, size))
        os.truncate(big, 1000)
        yield from found

    monkeypatch.setattr(transfer, "extents", extents)
    with pytest.raises(sif.BadObject):
        sif.add(image, TEXT._replace(source=str(big)))
    assert Path(image).read_bytes() == before


def test_a_failed_compaction_leaves_no_file(image: str, tmp_path: Path) -> None:
    sif.add(image, TEXT._replace(source=b"x" * 200000))
    sif.delete(image, 1)
    sif.delete(image, 3)
    before, names = Path(image).read_bytes(), sorted(os.listdir(tmp_path))
    with file_limit(100000), pytest.raises(OSError):
        sif.compact(image)
    assert (Path(image).read_bytes(), sorted(os.listdir(tmp_path))) == (before, names)
