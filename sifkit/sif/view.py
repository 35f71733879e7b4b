"""An object's bytes as a read-only file, without reading them into memory."""

from __future__ import annotations

import io
import os


class ObjectView(io.RawIOBase):
    """``size`` bytes of descriptor ``fd`` from ``offset`` on, as a seekable raw stream.

    Reads with ``pread``: views of one image do not disturb each other. The view uses the image's
    descriptor and is usable as long as the image is open. Raises ``EOFError`` when the file was cut
    meanwhile.
    """

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._size = size
        self._at = 0

    @property
    def offset(self) -> int:
        """Where the object starts in the file, in bytes."""
        return self._offset

    @property
    def size(self) -> int:
        """Length of the object in bytes."""
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._at))
        if wanted == 0:
            return 0
        count = os.preadv(self._fd, [view[:wanted]], self._offset + self._at)
        if count == 0:
            raise EOFError(f"file ends at byte {self._at} of an object of {self._size} bytes")
        self._at += count
        return count
