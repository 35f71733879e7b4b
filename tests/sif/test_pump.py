"""Reading beside writing: every byte, in order; the first error of either side; no thread left behind."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sifkit.sif.pump import PIECE, pump

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, bytes]]:
    """An open file of 9 MiB and a bit, and its bytes."""
    path: Path = tmp_path_factory.mktemp("pump") / "source"
    data = random.Random(0).randbytes(9 * MIB + 12345)
    path.write_bytes(data)
    with open(path, "rb") as file:
        yield file.fileno(), data


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 4 * MIB - 1, 4 * MIB, 9 * MIB])
def test_every_byte_in_order(source: tuple[int, bytes], size: int) -> None:
    file, data = source
    got = bytearray()
    pump(file, 345, size, got.extend)
    assert got == data[345 : 345 + size]


@pytest.mark.parametrize("missing", [1, 5 * MIB])
def test_a_source_that_is_shorter(source: tuple[int, bytes], missing: int) -> None:
    file, data = source
    got = bytearray()
    with pytest.raises(EOFError, match=f"ends {missing} bytes early"):
        pump(file, 0, len(data) + missing, got.extend)
    assert got == data


@pytest.mark.parametrize("size", [MIB, 9 * MIB])
def test_an_error_of_the_target(source: tuple[int, bytes], size: int) -> None:
    count = 0

    def write(data: memoryview) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as caught:
        pump(source[0], 0, size, write)
    assert caught.value.errno == errno.ENOSPC and count == 3


def test_an_error_of_the_source() -> None:
    directory = os.open("/", os.O_RDONLY)
    try:
        for size in (MIB, 9 * MIB):
            with pytest.raises(IsADirectoryError):
                pump(directory, 0, size, bytearray().extend)
    finally:
        os.close(directory)


def test_an_interruption_ends_both(source: tuple[int, bytes]) -> None:
    def write(data: memoryview) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pump(source[0], 0, 9 * MIB, write)


def test_where_no_thread_can_be_started(source: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the limit of processes, which is no limit for root."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    file, data = source
    got = bytearray()
    pump(file, 0, len(data), got.extend)
    assert got == data
