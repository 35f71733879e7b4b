"""Sparse data stay sparse, and old bytes never show through a hole."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from sifkit import sif
from sifkit.sif import transfer

Run = Callable[..., object]
Contents = Callable[[str], dict[int, bytes]]
MIB = 1 << 20


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """64 MiB, of which 8 KiB are data."""
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(64 * MIB)
        for at in (5 * MIB, 40 * MIB + 123):
            file.seek(at)
            file.write(b"d" * 4096)
    if path.stat().st_blocks * 512 > MIB:
        pytest.skip("the file system of the tests has no holes")
    return path


def _allocated(path: str | Path) -> int:
    return os.stat(path).st_blocks * 512


def test_add_dump_and_compact_keep_holes(image: str, sparse: Path, tmp_path: Path, run: Run) -> None:
    """B19."""
    before = _allocated(image)
    number = sif.add(image, sif.partition(sparse, sif.FsType.RAW, sif.PartType.OVERLAY, "amd64")).ids[0]
    assert _allocated(image) - before < MIB
    sif.delete(image, 1)
    sif.compact(image)
    assert _allocated(image) - before < MIB
    out = tmp_path / "out"
    assert run("dump", number, image, "-o", out).returncode == 0  # type: ignore[attr-defined]
    assert _allocated(out) < MIB
    assert out.read_bytes() == sparse.read_bytes()


def test_zeroing_keeps_holes(image: str, sparse: Path) -> None:
    number = sif.add(image, sif.partition(sparse, sif.FsType.RAW, sif.PartType.OVERLAY, "amd64")).ids[0]
    before = _allocated(image)
    sif.delete(image, number, zero=True)
    assert _allocated(image) <= before + 65536
    assert b"dddd" not in Path(image).read_bytes()


def test_a_hole_over_old_bytes_is_zeros(image: str, sparse: Path, contents: Contents) -> None:
    """The deleted tail of an image is overwritten where the new object has data, and where it has holes."""
    sif.add(image, sif.NewObject(sif.DataType.GENERIC, b"old" * (2 * MIB)))
    sif.delete(image, 4)
    sif.add(image, sif.NewObject(sif.DataType.GENERIC, sparse))
    assert contents(image)[4] == sparse.read_bytes()


@pytest.mark.parametrize("seed", range(5))
def test_any_pattern_of_holes(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    source, target = tmp_path / "source", tmp_path / "target"
    with open(source, "wb") as file:
        size = draw.randrange(1, 3 * MIB)
        for _ in range(draw.randrange(6)):
            file.seek(draw.randrange(size))
            file.write(draw.randbytes(draw.randrange(1, 20000)))
        file.truncate(size)
    target.write_bytes(b"old" * draw.randrange(MIB))
    start, offset = draw.randrange(size), draw.randrange(MIB)
    expected = bytearray(target.read_bytes()).ljust(offset + size - start, b"\0")
    expected[offset : offset + size - start] = source.read_bytes()[start:]
    with open(source, "rb") as reader, open(target, "r+b") as writer:
        transfer.copy(reader.fileno(), start, writer.fileno(), offset, size - start, zero_below=target.stat().st_size)
    assert target.read_bytes() == bytes(expected)


def test_blocks_are_shared_where_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ioctl(fd: int, request: int, argument: bytes) -> int:
        source, start, size, offset = struct.unpack("qQQQ", argument)
        asked.append((request, start, size, offset))
        os.pwrite(fd, os.pread(source, size, start), offset)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"0123456789")
    with open(source, "rb") as reader, open(target, "w+b") as writer:
        transfer.copy(reader.fileno(), 2, writer.fileno(), 3, 5)
    assert asked == [(0x4020940D, 2, 5, 3)]
    assert target.read_bytes() == b"\0\0\x0023456"


def test_no_room_for_shared_blocks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with open(tmp_path / "file", "w+b") as file, pytest.raises(OSError):
        transfer.copy(file.fileno(), 0, file.fileno(), 10, 5)


def test_large_copies_are_flushed_as_they_go(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(17 * MIB + 5)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    with open(source, "rb") as reader, open(target, "w+b") as writer:
        transfer.copy(reader.fileno(), 0, writer.fileno(), 7, len(data), flush=True)
    assert target.read_bytes() == bytes(7) + data


def test_pour_into_pipes_and_appended_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    out = tmp_path / "out"
    out.write_bytes(b"kept:")
    with open(source, "rb") as reader:
        with open(out, "ab") as stream:
            transfer.pour(reader.fileno(), 2, 5, stream.fileno())
        receiver, sender = os.pipe()
        transfer.pour(reader.fileno(), 2, 5, sender)
        os.close(sender)
        assert os.read(receiver, 99) == b"23456"
        os.close(receiver)
        with pytest.raises(EOFError):
            transfer.pour(reader.fileno(), 2, 50, os.open(os.devnull, os.O_WRONLY))
    assert out.read_bytes() == b"kept:23456"


def test_what_the_kernel_does_not_copy_is_copied_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two file systems of different kinds, say; or a call that copies a part and then no more."""
    data = random.Random(2).randbytes(3 * MIB + 5)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    real, asked = os.copy_file_range, []

    def refused(*arguments: object) -> int:
        asked.append(arguments)
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def in_part(source: int, target: int, size: int, *offsets: int) -> int:
        asked.append(offsets)
        return real(source, target, 4096, *offsets) if len(asked) < 3 else 0

    for pretended in (refused, in_part):
        monkeypatch.setattr(os, "copy_file_range", pretended)
        for into in (copied, poured):
            asked.clear()
            assert into(source, target) == data[4096:] and asked


def copied(source: Path, target: Path) -> bytes:
    with open(source, "rb") as reader, open(target, "w+b") as writer:
        transfer.copy(reader.fileno(), 4096, writer.fileno(), 0, source.stat().st_size - 4096, flush=True)
    return target.read_bytes()


def poured(source: Path, target: Path) -> bytes:
    with open(source, "rb") as reader, open(target, "w+b") as writer:
        transfer.pour(reader.fileno(), 4096, source.stat().st_size - 4096, writer.fileno())
    return target.read_bytes()


def test_a_full_disk_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 100)
    monkeypatch.setattr(os, "copy_file_range", full)
    for into in (copied, poured):
        with pytest.raises(OSError) as caught:
            into(source, tmp_path / "target")
        assert caught.value.errno == errno.ENOSPC


def test_it_is_poured_to_where_the_stream_is(tmp_path: Path) -> None:
    """As a shell's ``{ echo head; sifkit sif dump 1 image.sif; } > out`` needs it."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"0123456789")
    with open(source, "rb") as reader, open(target, "w+b", buffering=0) as writer:
        writer.write(b"head:")
        transfer.pour(reader.fileno(), 2, 5, writer.fileno())
        writer.write(b":tail")
    assert target.read_bytes() == b"head:23456:tail"
