"""The contents of files, carried from a file of the host straight into free blocks of the image."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from overlay.extwrite import map as ext_map
from overlay.extwrite.inode import NOTHING, Body
from overlay.extwrite.volume import Volume
from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

AT_ONCE: Final = 128 * 1024  # a file up to this size is read whole
_PIECE: Final = 2**26  # bytes per call to the kernel
_BUFFER: Final = 2**20
_CROSS: Final = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ETXTBSY, errno.EPERM)


def store(volume: Volume, fd: int, found: os.stat_result) -> Body:
    """Store what is in the regular file open at ``fd``, holes as holes.

    Raises OSError: ENOSPC, EFBIG, EIO when the file is shorter than ``found`` says.
    """
    size, block_size = found.st_size, volume.block_size
    if not size:
        return NOTHING
    if size <= AT_ONCE and found.st_blocks * 512 >= size:
        data = os.pread(fd, size, 0)
        if len(data) != size:
            raise OSError(errno.EIO, "the file changed while it was read")
        return store_bytes(volume, data)
    if size > ext_map.largest(block_size):
        raise OSError(errno.EFBIG, "the file is larger than ext3 can hold")
    if size >= 2**31:
        volume.need_large_files()
    runs = []
    for start, end in extents(fd, size, block_size):
        for physical, length in volume.take_all(end - start):
            _copy(volume, fd, start, physical, length, size)
            runs.append((start, physical, length))
            start += length
    return _mapped(volume, size, runs)


def store_bytes(volume: Volume, data: bytes) -> Body:
    """Store ``data`` as contents."""
    block_size = volume.block_size
    blocks = -(-len(data) // block_size)
    physical, first = volume.take(blocks)
    if blocks == 1:
        volume.fill(physical, data.ljust(block_size, b"\0"))
        return Body(len(data), block_size // 512, physical.to_bytes(60, "little"))
    if first == blocks:  # the usual case: small, and in one place
        volume.fill(physical, data.ljust(blocks * block_size, b"\0"))
        if blocks <= 12:
            pointers = b"".join((physical + index).to_bytes(4, "little") for index in range(blocks))
            return Body(len(data), blocks * (block_size // 512), pointers.ljust(60, b"\0"))
        return _mapped(volume, len(data), [(0, physical, blocks)])
    runs, logical = [], 0
    for start, length in [(physical, first), *volume.take_all(blocks - first)]:
        piece = data[logical * block_size : (logical + length) * block_size]
        volume.fill(start, piece.ljust(length * block_size, b"\0"))
        runs.append((logical, start, length))
        logical += length
    return _mapped(volume, len(data), runs)


def store_pieces(volume: Volume, size: int, spans: list[tuple[int, int]], pieces: Iterable[tuple[int, bytes]]) -> Body:
    """Store a file of ``size`` bytes that has data in the blocks ``spans`` (first, one behind the last; ascending).

    ``pieces`` are all bytes of these blocks, in order, each with its offset in the file. Raises as `store` does.
    """
    block_size = volume.block_size
    if size > ext_map.largest(block_size):
        raise OSError(errno.EFBIG, "the file is larger than ext3 can hold")
    if size >= 2**31:
        volume.need_large_files()
    runs = []
    for start, end in spans:
        for physical, length in volume.take_all(end - start):
            runs.append((start, physical, length))
            start += length
    at = 0
    for offset, data in pieces:
        view = memoryview(data)
        while view:
            first, physical, length = runs[at]
            left = (first + length) * block_size - offset
            if left <= 0:
                at += 1
                continue
            part, view = view[:left], view[left:]
            _write(volume, part, physical * block_size + offset - first * block_size)
            offset += len(part)
    tail = -size % block_size
    if tail and runs and (runs[-1][0] + runs[-1][2]) * block_size > size:
        _write(volume, memoryview(bytes(tail)), (runs[-1][1] + runs[-1][2]) * block_size - tail)
    return _mapped(volume, size, runs)


def _write(volume: Volume, view: memoryview, at: int) -> None:
    offset = volume.section.offset + at
    volume.written += len(view)
    while view:
        count = os.pwrite(volume.fd, view, offset)
        view, offset = view[count:], offset + count


def same(volume: Volume, runs: list[tuple[int, int, int]], fd: int, size: int) -> bool:
    """Whether the file open at ``fd`` says what these blocks do, (logical, physical, length), of a file of ``size``.

    Not known, so False, where the blocks have holes between them.
    """
    at = 0
    for logical, physical, length in runs:
        if logical != at // volume.block_size:
            return False
        place = volume.section.offset + physical * volume.block_size
        left = min(length * volume.block_size, size - at)
        while left > 0:
            piece = os.pread(fd, min(left, _BUFFER), at)
            if not piece or piece != os.pread(volume.fd, len(piece), place):
                return False
            at, place, left = at + len(piece), place + len(piece), left - len(piece)
    return at == size


def _mapped(volume: Volume, size: int, runs: list[tuple[int, int, int]]) -> Body:
    block, took = ext_map.build(runs, volume.block_size, lambda: volume.take(1)[0], volume.fill)
    blocks = took + sum(length for _, _, length in runs)
    return Body(size, blocks * (volume.block_size // 512), block)


def extents(fd: int, size: int, block_size: int) -> list[tuple[int, int]]:
    """The parts of a file that hold data, in blocks: (first, one behind the last), ascending."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                break
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        first, last = start // block_size, -(-min(at, size) // block_size)
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], last)
        elif first < last:
            found.append((first, last))
    return found


def _copy(volume: Volume, fd: int, logical: int, physical: int, length: int, size: int) -> None:
    """Copy ``length`` blocks of the file from block ``logical`` on; what lies behind its end becomes zeros."""
    block_size = volume.block_size
    source, target = logical * block_size, volume.section.offset + physical * block_size
    left = min(size - source, length * block_size)
    padding = length * block_size - left
    volume.written += left + padding
    by_kernel = True
    while left:
        copied = _by_kernel(fd, volume.fd, min(left, _PIECE), source, target) if by_kernel else 0
        if not copied:
            by_kernel = False
            data = os.pread(fd, min(left, _BUFFER), source)
            if not data:
                raise OSError(errno.EIO, "the file changed while it was read")
            copied = os.pwrite(volume.fd, data, target)
        source, target, left = source + copied, target + copied, left - copied
    while padding:
        count = os.pwrite(volume.fd, bytes(min(padding, _BUFFER)), target)
        target, padding = target + count, padding - count


def _by_kernel(source: int, target: int, count: int, source_at: int, target_at: int) -> int:
    """Bytes copied inside the kernel: shared where the file system can, else without a way through us; 0: it cannot."""
    try:
        return os.copy_file_range(source, target, count, source_at, target_at)
    except OSError as error:
        if error.errno not in _CROSS:
            raise
    try:
        os.lseek(target, target_at, os.SEEK_SET)
        return os.sendfile(target, source, source_at, count)
    except OSError as error:
        if error.errno not in _CROSS:
            raise
    return 0
