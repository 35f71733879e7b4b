"""A file inside an image as a Python file: read-only, seekable, holes read as zeros, nothing read twice."""

from __future__ import annotations

import bisect
import io
import os

from overlay.records import TYPE_CHECKING, QuickTuple

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Extent(QuickTuple):
    """``length`` bytes of a file from ``start`` on lie at byte ``place`` of the image file."""

    start: int
    place: int
    length: int


class ExtFile(io.RawIOBase):
    """``size`` bytes, those in ``extents`` (ascending) from the image open at ``fd``, the rest zeros."""

    def __init__(self, fd: int, size: int, extents: list[Extent]) -> None:
        self._fd = fd
        self._size = size
        self._extents = extents
        self._starts = [extent.start for extent in extents]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("negative position in a file")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill ``buffer`` up to the end of the extent or hole it begins in."""
        view = memoryview(buffer).cast("B")
        room = min(len(view), self._size - self._at)
        if room <= 0:
            return 0
        index = bisect.bisect_right(self._starts, self._at) - 1
        extent = self._extents[index] if index >= 0 else Extent(0, 0, 0)
        into = self._at - extent.start
        if into < extent.length:
            count = os.preadv(self._fd, [view[: min(room, extent.length - into)]], extent.place + into)
            if count == 0:
                raise OSError("the image file was cut while it was read")
        else:
            following = self._starts[index + 1] if index + 1 < len(self._starts) else self._size
            count = min(room, following - self._at)
            view[:count] = bytes(count)
        self._at += count
        return count
