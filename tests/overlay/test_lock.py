"""Locks held by real processes: who excludes whom, who is named, and what a kill leaves."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.locks import holder as records
from overlay.locks import lock, ofd
from overlay.locks.lock import CannotLock, InUse, acquire
from overlay.section import Section

ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

HOLD = """
import os, sys, time
from overlay.locks.lock import acquire
from overlay.section import Section
kind, path, offset, size, how, family = sys.argv[1:7]
target = path if kind == "directory" else Section(path, int(offset), int(size))
held = acquire(target, exclusive=how == "write")
if family == "child":
    child = os.fork()
    if child == 0:
        os.close(0)
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
else:
    print("held", flush=True)
sys.stdin.read()
held.release()
"""


@pytest.fixture(autouse=True)
def _own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(ENV, "XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setitem(ENV, "XDG_CACHE_HOME", str(tmp_path / "cache"))


class Process:
    """Another process that holds a lock until told to end."""

    def __init__(self, target: lock.Target, exclusive: bool, family: str = "alone") -> None:
        where = ("directory", target, "0", "0")
        if isinstance(target, Section):
            where = ("image", target.path, str(target.offset), str(target.size))
        how = "write" if exclusive else "read"
        self.popen = subprocess.Popen(
            [sys.executable, "-c", HOLD, *where, how, family], stdin=-1, stdout=-1, env=ENV, text=True
        )
        assert self.popen.stdout is not None
        self.said = self.popen.stdout.readline().strip()
        assert self.said

    def end(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        assert self.popen.wait() == 0

    def kill(self) -> None:
        self.popen.kill()
        assert self.popen.wait() == -signal.SIGKILL


@pytest.fixture(params=["image", "section", "directory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> lock.Target:
    if request.param == "directory":
        (tmp_path / "d").mkdir()
        return str(tmp_path / "d")
    (tmp_path / "i").write_bytes(bytes(100))
    return Section(str(tmp_path / "i"), 0, 100) if request.param == "image" else Section(str(tmp_path / "i"), 40, 20)


@pytest.fixture
def writer(target: lock.Target) -> Iterator[Process]:
    process = Process(target, True)
    yield process
    if process.popen.poll() is None:
        process.end()


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_writer_excludes_everybody_and_is_named(target: lock.Target, writer: Process, exclusive: bool) -> None:
    with pytest.raises(InUse, match="in use for writing by pid") as caught:
        acquire(target, exclusive=exclusive)
    (who,) = caught.value.holders
    assert (who.pid, who.host, who.exclusive, who.alive) == (
        writer.popen.pid,
        os.uname().nodename,
        True,
        True,
    )
    assert "acquire" in who.command
    assert abs(time.time() - who.since) < 60
    assert f"pid {writer.popen.pid} on" in str(caught.value)
    assert lock.in_use(target) == "write"
    writer.end()
    assert lock.in_use(target) == ""
    assert lock.holder(target) is None
    acquire(target, exclusive=exclusive).release()


def test_many_readers_exclude_a_writer(target: lock.Target) -> None:
    readers = [Process(target, False) for _ in range(3)]
    with acquire(target, exclusive=False), pytest.raises(InUse, match="is in use by pid") as caught:
        acquire(target, exclusive=True)
    assert {h.pid for h in caught.value.holders} == {r.popen.pid for r in readers} | {os.getpid()}
    assert not any(h.exclusive for h in caught.value.holders)
    assert lock.in_use(target) == "read"
    for reader in readers:
        reader.end()
    acquire(target, exclusive=True).release()


def test_the_same_process_excludes_itself(target: lock.Target) -> None:
    with acquire(target, exclusive=True), pytest.raises(InUse):
        acquire(target, exclusive=True)
    acquire(target, exclusive=True).release()


def test_killed_holder_leaves_nothing_held(target: lock.Target) -> None:
    process = Process(target, True)
    process.kill()
    with acquire(target, exclusive=True, wait=5) as held:
        assert lock.holder(target) == records.myself(held.path, True)._replace(
            since=lock.holder(target).since  # type: ignore[union-attr]
        )
    assert list(records.records()) == []


def test_forked_child_shares_the_lock_and_is_found(target: lock.Target) -> None:
    process = Process(target, True, "child")
    child = int(process.said)
    process.kill()
    try:
        with pytest.raises(InUse) as caught:
            acquire(target, exclusive=False)
        assert [h.pid for h in caught.value.holders] == [child]
    finally:
        os.kill(child, signal.SIGKILL)
    acquire(target, exclusive=True, wait=10).release()


def test_programs_do_not_inherit_it(target: lock.Target) -> None:
    held = acquire(target, exclusive=True)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        held.release()
        acquire(target, exclusive=True).release()
        program.kill()


def test_waiting(target: lock.Target, writer: Process) -> None:
    begun = time.monotonic()
    with pytest.raises(InUse):
        acquire(target, exclusive=True, wait=0.3)
    assert 0.3 <= time.monotonic() - begun < 5
    patient = HOLD.replace('== "write"', '== "write", wait=30')
    with subprocess.Popen(
        [sys.executable, "-c", patient, *arguments(target), "write", "alone"],
        stdin=-1, stdout=-1, env=ENV, text=True,
    ) as waiter:  # fmt: skip
        writer.end()
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "held\n"


def arguments(target: lock.Target) -> tuple[str, ...]:
    if isinstance(target, Section):
        return ("image", target.path, str(target.offset), str(target.size))
    return ("directory", target, "0", "0")


def test_the_range_is_exactly_the_section(tmp_path: Path) -> None:
    image = tmp_path / "i"
    image.write_bytes(bytes(100))
    with acquire(Section(str(image), 40, 20), exclusive=True):
        acquire(Section(str(image), 0, 40), exclusive=True).release()
        acquire(Section(str(image), 60, 40), exclusive=True).release()
        for offset in (39, 59):
            with pytest.raises(InUse):
                acquire(Section(str(image), offset, 2), exclusive=True)
        fd = os.open(image, os.O_RDWR)
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        os.close(fd)
        assert struct.unpack("hhqqi4x", answer)[:4] == (fcntl.F_WRLCK, 0, 40, 20)


def test_a_reader_needs_no_write_permission(tmp_path: Path) -> None:
    image = tmp_path / "i"
    image.write_bytes(bytes(100))
    image.chmod(0o444)
    with acquire(Section(str(image), 0, 100), exclusive=False) as held:
        assert fcntl.fcntl(held.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert fcntl.fcntl(held.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            acquire(Section(str(image), 0, 100), exclusive=True)


def test_a_directory_one_may_only_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "d").mkdir(mode=0o555)
    with acquire(str(tmp_path / "d"), exclusive=False):
        assert os.listdir(tmp_path / "d") == []
    with pytest.raises(PermissionError):
        acquire(str(tmp_path / "d"), exclusive=True)


def test_the_directory_record_is_in_the_lock_file_only(tmp_path: Path) -> None:
    (tmp_path / "d/upper").mkdir(parents=True)
    with acquire(str(tmp_path / "d"), exclusive=True):
        found = records.decode((tmp_path / "d/.sifkit.lock").read_bytes())
        assert found is not None
        assert found.pid == os.getpid()
    assert (tmp_path / "d/.sifkit.lock").read_bytes() == b""
    assert list((tmp_path / "d/upper").iterdir()) == []


def test_a_replaced_file_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "i"
    image.write_bytes(b"old")
    real, times = ofd.try_lock, []

    def replace_once(fd: int, kind: int, start: int, length: int, name: str) -> bool:
        if not times:
            times.append(1)
            (tmp_path / "new").write_bytes(b"new")
            (tmp_path / "new").rename(image)
        return real(fd, kind, start, length, name)

    monkeypatch.setattr(ofd, "try_lock", replace_once)
    with acquire(Section(str(image), 0, 3), exclusive=True) as held:
        assert os.pread(held.fd, 3, 0) == b"new"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EACCES, errno.EAGAIN, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_lock_is_not_in_use(
    target: lock.Target, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """B30."""

    def refuse(fd: int, command: int, data: bytes = b"") -> bytes:
        if command == fcntl.F_OFD_GETLK and number in (errno.EACCES, errno.EAGAIN):
            return data[:0] + struct.pack("hhqqi4x", fcntl.F_UNLCK, 0, 0, 0, 0)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ofd.fcntl, "fcntl", refuse)
    with pytest.raises(CannotLock, match="locks do not work here") as caught:
        acquire(target, exclusive=True)
    assert caught.value.errno == number


def test_no_place_for_records_is_no_failure(target: lock.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/dev/null/x")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with acquire(target, exclusive=False), pytest.raises(InUse) as caught:
        acquire(target, exclusive=True)
    assert [h.pid for h in caught.value.holders] == [os.getpid()]  # /proc tells
    acquire(target, exclusive=True).release()


def test_records_list_everything_held(target: lock.Target, writer: Process) -> None:
    assert [(h.pid, h.exclusive) for h in records.records()] == [(writer.popen.pid, True)]
