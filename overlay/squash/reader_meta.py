"""Metadata of a squashfs: blocks of 8 KiB, each compressed, read one after the other as a stream.

A place in it is a reference: the byte of the block in its table, and the byte in the unpacked block
(kernel: fs/squashfs/cache.c).
"""

from __future__ import annotations

import os
from typing import Final

from overlay.squash.unpack import SquashError, Unpack

BLOCK: Final = 8192
_UNPACKED: Final = 0x8000
_KEPT: Final = 64  # unpacked blocks: half a MiB; neighbours are asked for next


class Cursor:
    """A place in the metadata: `take` reads on from there."""

    def __init__(self, metadata: Metadata, block: int, offset: int) -> None:
        self._metadata = metadata
        self._data, self._next = metadata.block(block)
        self._at = offset
        if offset > len(self._data):
            raise SquashError("a reference leads behind its block")

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises SquashError when there are fewer."""
        at = self._at
        data = self._data[at : at + count]
        self._at = at + len(data)
        while len(data) < count:
            self._data, self._next = self._metadata.block(self._next)
            if not self._data:
                raise SquashError("an empty metadata block")
            self._at = min(count - len(data), len(self._data))
            data += self._data[: self._at]
        return data


class Metadata:
    """The metadata blocks of the squashfs at byte ``start`` of ``fd``, ``size`` bytes long."""

    def __init__(self, fd: int, start: int, size: int, unpack: Unpack) -> None:
        self._fd = fd
        self._start = start
        self._size = size
        self._unpack = unpack
        self._kept: dict[int, tuple[bytes, int]] = {}

    def read(self, at: int, count: int) -> bytes:
        """``count`` bytes as they lie, at byte ``at`` of the squashfs."""
        if at < 0 or count < 0 or at + count > self._size:
            raise SquashError(f"byte {at + count} lies outside the squashfs")
        data = os.pread(self._fd, count, self._start + at)
        if len(data) != count:
            raise SquashError(f"the image ends before byte {at + count}")
        return data

    def block(self, at: int) -> tuple[bytes, int]:
        """The unpacked block at byte ``at``, and where the next one lies."""
        found = self._kept.get(at)
        if found is None:
            header = int.from_bytes(self.read(at, 2), "little")
            length = header & ~_UNPACKED or _UNPACKED
            if length > BLOCK:
                raise SquashError(f"byte {at}: an impossible metadata block")
            data = self.read(at + 2, length)
            found = (data if header & _UNPACKED else self._unpack(data, BLOCK), at + 2 + length)
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[at] = found
        return found

    def cursor(self, block: int, offset: int) -> Cursor:
        return Cursor(self, block, offset)

    def entry(self, table: int, index: int, each: int) -> bytes:
        """Entry ``index`` of a table of ``each`` bytes each, whose list of blocks lies at byte ``table``."""
        block, offset = divmod(index * each, BLOCK)
        place = int.from_bytes(self.read(table + 8 * block, 8), "little")
        return self.cursor(place, offset).take(each)
