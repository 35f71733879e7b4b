"""The data of a squashfs being written: blocks and fragments, compressed by threads, written in order.

What is written does not depend on how many threads there are. A block of zeros takes no room. A file smaller
than a block shares one with others (a fragment).
"""

from __future__ import annotations

import os
import queue
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

NO_FRAGMENT: Final = 2**32 - 1
_PLAIN: Final = 1 << 24  # in the length of a block: it is not compressed

Pack = Callable[[bytes], bytes]


class Contents:
    """Where a file's contents lie: ``start`` and ``blocks`` (lengths as stored), or its place in a fragment."""

    __slots__ = ("blocks", "fragment", "holes", "offset", "size", "start")

    def __init__(self, size: int) -> None:
        self.size = size
        self.start = -1  # nowhere
        self.blocks = array("I")
        self.fragment = NO_FRAGMENT
        self.offset = 0
        self.holes = 0


class _Job:
    """A block on its way: packed by a thread, then written for ``contents`` (None: a fragment)."""

    __slots__ = ("contents", "data", "done", "error", "index", "packed")

    def __init__(self, data: bytes, contents: Contents | None, index: int) -> None:
        self.data = data
        self.contents = contents
        self.index = index
        self.packed = b""
        self.error: Exception | None = None
        self.done = threading.Event()


class DataWriter:
    """Writes to ``fd`` from byte ``base`` of it on; ``packer`` makes the compressing function of one thread.

    `at` is the next free byte, counted from ``base``. Use it as a context manager: its threads end with it.
    """

    def __init__(self, fd: int, base: int, at: int, block_size: int, packer: Callable[[], Pack]) -> None:
        self.at = at
        self.fragments: list[tuple[int, int]] = []  # place and length, as in the fragment table
        self._fd = fd
        self._base = base
        self._block_size = block_size
        self._fragment = bytearray()
        self._fragment_count = 0
        self._zeros = bytes(block_size)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting: deque[_Job] = deque()
        count = max(1, len(os.sched_getaffinity(0)))
        self._most = 4 * count
        self._threads = [threading.Thread(target=self._work, args=(packer(),), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> DataWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, pack: Pack) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.packed = pack(job.data)
            except Exception as error:
                job.error = error
            job.done.set()

    def small(self, data: bytes) -> Contents:
        """The contents of a file of less than a block."""
        contents = Contents(len(data))
        if not data:
            return contents
        if len(self._fragment) + len(data) > self._block_size:
            self._end_fragment()
        contents.fragment, contents.offset = self._fragment_count, len(self._fragment)
        self._fragment += data
        return contents

    def large(self, size: int, pieces: Iterable[tuple[int, bytes]]) -> Contents:
        """The contents of a file of ``size`` bytes: ``pieces`` with their offsets, ascending, the rest zeros."""
        contents = Contents(size)
        block, at = bytearray(), 0  # the block being filled, and where it begins
        for start, data in pieces:
            while start - at >= self._block_size:
                self._end_block(contents, block, self._block_size)
                block, at = bytearray(), at + self._block_size
            block += bytes(start - at - len(block))
            view = memoryview(data)
            while view:
                room = self._block_size - len(block)
                block += view[:room]
                view = view[room:]
                if len(block) == self._block_size:
                    self._end_block(contents, block, self._block_size)
                    block, at = bytearray(), at + self._block_size
        while at < size:
            self._end_block(contents, block, min(self._block_size, size - at))
            block, at = bytearray(), at + self._block_size
        return contents

    def _end_block(self, contents: Contents, block: bytearray, length: int) -> None:
        contents.blocks.append(0)
        if not block or self._zeros.startswith(block):
            contents.holes += length
            return
        block += bytes(length - len(block))
        self._submit(_Job(bytes(block), contents, len(contents.blocks) - 1))

    def _end_fragment(self) -> None:
        self._submit(_Job(bytes(self._fragment), None, 0))
        self._fragment = bytearray()
        self._fragment_count += 1

    def _submit(self, job: _Job) -> None:
        self._waiting.append(job)
        self._jobs.put(job)
        while len(self._waiting) > self._most or (self._waiting and self._waiting[0].done.is_set()):
            self._write(self._waiting.popleft())

    def settle(self, contents: Contents) -> None:
        """Write until all of ``contents`` is on its way to the disk, so that it says where it lies."""
        while any(job.contents is contents for job in self._waiting):
            self._write(self._waiting.popleft())

    def finish(self) -> None:
        """Write everything that is left."""
        if self._fragment:
            self._end_fragment()
        while self._waiting:
            self._write(self._waiting.popleft())

    def _write(self, job: _Job) -> None:
        job.done.wait()
        if job.error is not None:
            raise job.error
        data, length = job.packed, len(job.packed)
        if length >= len(job.data):
            data, length = job.data, len(job.data) | _PLAIN
        if job.contents is None:
            self.fragments.append((self.at, length))
        else:
            if job.contents.start < 0:
                job.contents.start = self.at
            job.contents.blocks[job.index] = length
        self.write(data)

    def write(self, data: bytes | bytearray) -> None:
        """Put ``data`` at the next free byte."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, self._base + self.at)
            view, self.at = view[count:], self.at + count
