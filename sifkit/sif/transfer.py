"""Move bytes between files: shared blocks where the file system can, holes kept, else copied by the kernel.

copy_file_range(2), as cp does: then we are never slower than what people compare us with. It moves pages; where both
sides lie differently in theirs, as objects without alignment do, it cuts each in two, and is slower than reading and
writing (ext4, 500 MB in the page cache, minima: cp 130 ms, the call 130 or, cutting, 204; `pump` 125). So that is what
is done there, and where the call refuses: pipes, files opened to append, two file systems of different kinds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from sifkit.sif.pump import PIECE, pump

TYPE_CHECKING = False  # typing's, which takes longer to load than an object to find
if TYPE_CHECKING:
    from collections.abc import Iterator

FICLONERANGE = 0x4020940D  # linux/fs.h
_PAGE = 4096
_AT_ONCE = 64 << 20  # bytes of one call, which no signal interrupts for long
_FLUSHED = 8 << 20
_ZEROS = bytes(PIECE)
_FINAL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)  # any other error may be of this way alone


def extents(fd: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """Stretches ``(offset, size)`` with data in the given range of a regular file; between them are holes.

    The file's position stays where it was.
    """
    at, end = offset, offset + size
    while at < end:
        position = os.lseek(fd, 0, os.SEEK_CUR)  # a caller may go on reading from there
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            stop = min(end, os.lseek(fd, start, os.SEEK_HOLE))
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                return
            start, stop = at, end  # a file system that does not know holes
        finally:
            os.lseek(fd, position, os.SEEK_SET)
        if start >= end:
            return
        yield start, stop - start
        at = stop


def copy(source: int, source_offset: int, target: int, target_offset: int, size: int, *,
         zero_below: int = 0, flush: bool = False) -> None:  # fmt: skip
    """Copy ``size`` bytes between regular files at explicit offsets; the target is made long enough.

    Holes are skipped; below offset ``zero_below`` of the target, where it has old bytes, they become zeros.
    ``flush``: have the disk write from the first bytes on; for who calls fsync next. Raises ``OSError``, and
    ``EOFError`` when the source is shorter than it was.
    """
    if size and _share(source, source_offset, target, target_offset, size):
        return
    at, shift = source_offset, target_offset - source_offset
    for start, length in extents(source, source_offset, size):
        _clear(target, at + shift, start - at, zero_below)
        _copy_extent(source, start, target, start + shift, length, flush)
        at = start + length
    end = target_offset + size
    _clear(target, at + shift, end - at - shift, zero_below)
    if os.fstat(target).st_size < end:
        os.ftruncate(target, end)


def _share(source: int, source_offset: int, target: int, target_offset: int, size: int) -> bool:
    """Let both files have the same blocks (btrfs, XFS, NFS 4.2); False where offsets or file system forbid it."""
    try:
        fcntl.ioctl(target, FICLONERANGE, struct.pack("qQQQ", source, source_offset, size, target_offset))
    except OSError as error:
        if error.errno in _FINAL:
            raise
        return False
    return True


def _clear(target: int, offset: int, size: int, below: int) -> None:
    if min(offset + size, below) > offset:
        fill_zeros(target, offset, min(offset + size, below) - offset)


def fill_zeros(fd: int, offset: int, size: int) -> None:
    """Overwrite what is data in the range with zeros; holes stay holes."""
    for start, length in list(extents(fd, offset, size)):
        at = start
        while at < start + length:
            at += os.pwrite(fd, memoryview(_ZEROS)[: start + length - at], at)


def _copy_extent(source: int, source_offset: int, target: int, target_offset: int, size: int, flush: bool) -> None:
    step = _FLUSHED if flush else _AT_ONCE
    while size and (count := _by_kernel(source, source_offset, target, target_offset, min(step, size))):
        if flush:
            start_writing(target, target_offset, count)
        source_offset, target_offset, size = source_offset + count, target_offset + count, size - count
    if size:
        pump(source, source_offset, size, _Writer(target, target_offset, flush).write)


def _by_kernel(source: int, source_offset: int, target: int, target_offset: int | None, size: int) -> int:
    """How many bytes copy_file_range(2) has copied; 0 where it is not for these two, and at the end of the source.

    ``target_offset``: None for the target's position.
    """
    if (source_offset - (target_offset or 0)) % _PAGE:
        return 0
    try:
        return os.copy_file_range(source, target, size, source_offset, target_offset)
    except OSError as error:
        if error.errno in _FINAL:
            raise
        return 0


class _Writer:
    """Writes one piece behind the other into a file, from ``at`` on."""

    def __init__(self, file: int, at: int, flush: bool) -> None:
        self._file, self.at, self._flushed = file, at, at if flush else None

    def write(self, data: memoryview) -> None:
        write_at(self._file, data, self.at)
        self.at += len(data)
        if self._flushed is not None and self.at - self._flushed >= _FLUSHED:
            start_writing(self._file, self._flushed, self.at - self._flushed)
            self._flushed = self.at


def start_writing(fd: int, offset: int, size: int) -> None:
    """Have the kernel write these bytes to disk now, and do not wait for it.

    They just became dirty, so that none of them leaves the page cache. (sync_file_range is not in Python.)
    """
    try:
        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)
    except OSError:  # it is written a little later, then
        return


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """``pwrite`` until everything is written."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def drain(stream: int, target: int, offset: int) -> int:
    """Everything from descriptor ``stream`` (a pipe, a terminal, ...) to ``offset`` of ``target``; the byte count."""
    buffer = memoryview(bytearray(PIECE))
    writer = _Writer(target, offset, flush=True)
    while count := os.readv(stream, [buffer]):
        writer.write(buffer[:count])
    return writer.at - offset


def pour(source: int, offset: int, size: int, stream: int) -> None:
    """``size`` bytes at ``offset`` of regular file ``source`` to descriptor ``stream``, at its position."""

    def write(data: memoryview) -> None:
        while data:
            data = data[os.write(stream, data) :]

    while size and (count := _by_kernel(source, offset, stream, None, min(_AT_ONCE, size))):
        offset, size = offset + count, size - count
    if size:
        pump(source, offset, size, write)
