"""Move bytes between files: in the kernel where it can, shared blocks where the file system can, holes kept."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

_STEP = 64 << 20  # per copy_file_range call: short enough that Ctrl-C is answered
_BUFFER = 1 << 20
_ZEROS = bytes(_BUFFER)

# Reasons for which copy_file_range(2) and sendfile(2) cannot do it but read and write can.
_INCAPABLE = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EBADF,
    errno.EPERM,
    errno.ETXTBSY,
)


def extents(fd: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """Stretches ``(offset, size)`` with data in the given range of a regular file; between them are holes."""
    at, end = offset, offset + size
    while at < end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                return
            yield at, end - at  # a file system that does not know holes
            return
        if start >= end:
            return
        stop = min(end, os.lseek(fd, start, os.SEEK_HOLE))
        yield start, stop - start
        at = stop


def copy(source: int, source_offset: int, target: int, target_offset: int, size: int, zero_below: int = 0) -> None:
    """Copy ``size`` bytes between regular files at explicit offsets.

    Holes are skipped; below offset ``zero_below`` of the target, where it has old bytes, they become zeros.
    The target is made long enough. `copy_file_range` shares blocks on btrfs and XFS. Raises ``OSError``, and
    ``EOFError`` when the source is shorter than it was.
    """
    at = source_offset
    for start, length in extents(source, source_offset, size):
        _clear(target, target_offset + at - source_offset, start - at, zero_below)
        _copy_extent(source, start, target, target_offset + start - source_offset, length)
        at = start + length
    end = target_offset + size
    _clear(target, target_offset + at - source_offset, source_offset + size - at, zero_below)
    if os.fstat(target).st_size < end:
        os.ftruncate(target, end)


def _clear(target: int, offset: int, size: int, below: int) -> None:
    if min(offset + size, below) > offset:
        fill_zeros(target, offset, min(offset + size, below) - offset)


def fill_zeros(fd: int, offset: int, size: int) -> None:
    """Overwrite what is data in the range with zeros; holes stay holes."""
    for start, length in list(extents(fd, offset, size)):
        at = start
        while at < start + length:
            at += os.pwrite(fd, memoryview(_ZEROS)[: start + length - at], at)


def _copy_extent(source: int, source_offset: int, target: int, target_offset: int, size: int) -> None:
    done = 0
    while done < size:
        try:
            count = os.copy_file_range(
                source, target, min(_STEP, size - done), source_offset + done, target_offset + done
            )
        except OSError as error:
            if error.errno not in _INCAPABLE:
                raise
            count = 0
        if count == 0:  # also what some file systems answer instead of an error
            _copy_by_hand(source, source_offset + done, target, target_offset + done, size - done)
            return
        done += count


def _copy_by_hand(source: int, source_offset: int, target: int, target_offset: int, size: int) -> None:
    buffer = memoryview(bytearray(min(_BUFFER, size)))
    done = 0
    while done < size:
        count = os.preadv(source, [buffer[: size - done]], source_offset + done)
        if count == 0:
            raise EOFError(f"the source ends {size - done} bytes early")
        write_at(target, buffer[:count], target_offset + done)
        done += count


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """``pwrite`` until everything is written."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def drain(stream: int, target: int, offset: int) -> int:
    """Everything from descriptor ``stream`` (a pipe, a terminal, ...) to ``offset`` of ``target``; the byte
    count."""
    buffer = memoryview(bytearray(_BUFFER))
    done = 0
    while count := os.readv(stream, [buffer]):
        write_at(target, buffer[:count], offset + done)
        done += count
    return done


def pour(source: int, offset: int, size: int, stream: int) -> None:
    """``size`` bytes at ``offset`` of regular file ``source`` to descriptor ``stream``, at its position."""
    if stat.S_ISREG(os.fstat(stream).st_mode):
        done = _pour_into_file(source, offset, size, stream)
    else:
        done = _send(source, offset, size, stream)
    buffer = memoryview(bytearray(min(_BUFFER, max(1, size - done))))
    while done < size:
        count = os.preadv(source, [buffer[: size - done]], offset + done)
        if count == 0:
            raise EOFError(f"the source ends {size - done} bytes early")
        view = buffer[:count]
        while view:
            view = view[os.write(stream, view) :]
        done += count


def _pour_into_file(source: int, offset: int, size: int, stream: int) -> int:
    done = 0
    try:
        while done < size:
            # Without a target offset: the kernel then honours and moves the position, as the shell expects of
            # `>`.
            count = os.copy_file_range(source, stream, min(_STEP, size - done), offset + done)
            if count == 0:
                break
            done += count
    except OSError as error:
        if error.errno not in _INCAPABLE:  # EBADF: opened for appending (`>>`)
            raise
    return done


def _send(source: int, offset: int, size: int, stream: int) -> int:
    done = 0
    try:
        while done < size:
            count = os.sendfile(stream, source, offset + done, min(_STEP, size - done))
            if count == 0:
                break
            done += count
    except OSError as error:
        if error.errno not in _INCAPABLE:
            raise
    return done
