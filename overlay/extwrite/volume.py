"""The blocks of an ext3 file system that is being written: what is read, what will change, what is free.

Two kinds of writes. What was free when the volume was opened is written at once and straight into the image: no
reader can reach it, so it needs no undo. What was in use is kept in memory, and goes into the image in `finish`
after its old content stands in the undo log, on disk. Blocks and inodes that are given up stay marked as used
until the end, so that nothing of the old tree is overwritten without its undo.

A change of many inodes is carried over in batches, each with a log of its own (UNDO, UNDO.1, UNDO.2, ...), so
that memory stays bounded. A log is made as LOG.part, synced and renamed: a log that is there is complete, and
what has no log has not been changed. See `overlay.commit.rollback`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from overlay import superblock
from overlay.libext2fs import Filesystem, undo_log
from overlay.section import Section
from overlay.superblock import ExtError

_BATCH = 48 * 2**20  # bytes of changed blocks kept in memory
_WRITE_AT_ONCE = 2**20  # neighbouring new blocks are written together, up to so many bytes
_CLEAN_KEPT = 256  # blocks that were read and not changed
_LARGE_FILE = 0x2
_EXT_ATTR = 0x8
_COMPAT_AT, _RO_COMPAT_AT = 92, 100
_LONGEST_SAVE = 256  # blocks in one call


def undo_name(undo: str, batch: int) -> str:
    """The undo log of a batch: ``undo`` itself is the first."""
    return f"{undo}.{batch}" if batch else undo


class NoSpace(OSError):
    """The image (not the disk that it lies on) has no free block or inode left; errno ENOSPC."""

    def __init__(self, what: str, path: str) -> None:
        super().__init__(errno.ENOSPC, f"no free {what} left in the image", path)


class Volume:
    """An open file system. `finish` makes the changes, `close` without it drops them."""

    def __init__(self, section: Section, undo: str | None) -> None:
        """``undo``: where the undo log goes, None for a file system that nobody needs back.

        Raises OSError (EEXIST: there is a log already), ExtError, Ext2Error, Failure.
        """
        if undo is not None and os.path.lexists(undo):
            raise FileExistsError(errno.EEXIST, "an undo log is there; roll back first", undo)
        self.section = section
        self._undo = undo
        self._batches = 0
        self.fd = os.open(section.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            raw = os.pread(self.fd, superblock.SUPERBLOCK_SIZE, section.offset + superblock.SUPERBLOCK_OFFSET)
            self.superblock = superblock.parse(raw)
            if self.superblock.size > section.size:
                raise ExtError(f"truncated: it needs {self.superblock.size} bytes, {section.size} are there")
            self.raw_superblock = raw
            self._filesystem = Filesystem(section, self.superblock, raw)
        except BaseException:
            os.close(self.fd)
            raise
        self.block_size = self.superblock.block_size
        self.written = 0
        self._changed: dict[int, bytearray] = {}
        self._clean: dict[int, bytes] = {}
        self._joined: list[bytes] = []  # new blocks on their way, from _joined_at on
        self._joined_at = self._joined_end = 0
        self._freed: list[tuple[int, int]] = []
        self._freed_inodes: list[tuple[int, bool]] = []
        self._run = (0, 0, 0)  # free blocks: from, next, end
        self._goal = self.superblock.first_data_block
        self._next_inode = self._last_inode = self.superblock.first_inode
        self._per_block = self.block_size // self.superblock.inode_size

    def close(self) -> None:
        """Drop what was not finished. The image's tree is as it was: only free blocks were written."""
        self._filesystem.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    # Blocks in use

    def _place(self, block: int) -> int:
        if not 0 < block < self.superblock.blocks:
            raise ExtError(f"block {block} lies outside the file system")
        return self.section.offset + block * self.block_size

    def read(self, block: int) -> bytes | bytearray:
        """The present content of a block, changes included."""
        found = self._changed.get(block) or self._clean.get(block)
        if found is None:
            self._send()
            found = os.pread(self.fd, self.block_size, self._place(block))
            if len(found) != self.block_size:
                raise ExtError(f"the image ends before block {block + 1}")
            if len(self._clean) >= _CLEAN_KEPT:
                del self._clean[next(iter(self._clean))]
            self._clean[block] = found
        return found

    def change(self, block: int) -> bytearray:
        """The content of a block, to be changed in place before the next `relieve`."""
        found = self._changed.get(block)
        if found is None:
            found = self._changed[block] = bytearray(self.read(block))
            self._clean.pop(block, None)
        return found

    def put(self, block: int, data: bytes) -> None:
        """Give a block that was in use a new content."""
        self._clean.pop(block, None)
        self._changed[block] = bytearray(data)

    def inode(self, number: int) -> memoryview:
        """The bytes of an inode, to be changed in place before the next `relieve`."""
        block, at = self.inode_at(number)
        return memoryview(block)[at : at + self.superblock.inode_size]

    def inode_at(self, number: int) -> tuple[bytearray, int]:
        """The block that an inode lies in, and where, to be changed in place before the next `relieve`."""
        block, at = self._inode_place(number)
        return self._changed.get(block) or self.change(block), at

    def peek_inode(self, number: int) -> bytes:
        """A copy of the bytes of an inode."""
        block, at = self._inode_place(number)
        return bytes(self.read(block)[at : at + self.superblock.inode_size])

    def _inode_place(self, number: int) -> tuple[int, int]:
        sb = self.superblock
        if not 1 <= number <= sb.inodes:
            raise ExtError(f"there is no inode {number}")
        group, index = divmod(number - 1, sb.inodes_per_group)
        block, slot = divmod(index, self._per_block)
        return self._filesystem.tables[group] + block, slot * sb.inode_size

    # Free blocks

    def take(self, wanted: int) -> tuple[int, int]:
        """Up to ``wanted`` free blocks, at least one, in a row: (start, length). Raises NoSpace."""
        first, at, end = self._run
        if at == end:
            self._count_run()
            start, length = self._filesystem.free_blocks(self._goal)
            if not length:
                raise NoSpace("blocks", self.section.path)
            first, at, end = start, start, start + length
            self._goal = end
        length = min(wanted, end - at)
        self._run = (first, at + length, end)
        return at, length

    def take_all(self, wanted: int) -> list[tuple[int, int]]:
        """``wanted`` free blocks in as few runs as there are. Raises NoSpace."""
        runs = []
        while wanted:
            start, length = self.take(wanted)
            runs.append((start, length))
            wanted -= length
        return runs

    def _count_run(self) -> None:
        first, at, end = self._run
        if at > first:
            self._filesystem.count_blocks(first, at - first, 1)
        self._run = (at, at, end)

    def fill(self, block: int, data: bytes) -> None:
        """Write ``data``, whole blocks, into blocks taken before, from ``block`` on."""
        if block != self._joined_end or (block - self._joined_at) * self.block_size >= _WRITE_AT_ONCE:
            self._send()
            self._joined_at = self._joined_end = block
        self._joined.append(data)
        self._joined_end += len(data) // self.block_size

    def _send(self) -> None:
        if self._joined:
            self.write(self._joined_at, b"".join(self._joined))
            self._joined.clear()
        self._joined_at = self._joined_end = 0

    def write(self, block: int, data: bytes | bytearray) -> None:
        """Write whole blocks into the image, at once."""
        offset, view = self._place(block), memoryview(data)
        self.written += len(view)
        while view:
            count = os.pwrite(self.fd, view, offset)
            view, offset = view[count:], offset + count

    def free(self, start: int, length: int) -> None:
        """Give up blocks, when all is done."""
        if start <= 0 or start + length > self.superblock.blocks:
            raise ExtError(f"block {start} lies outside the file system")
        self._freed.append((start, length))

    # Inodes

    def take_inode(self, *, directory: bool) -> int:
        """A free inode. Raises NoSpace."""
        number = self._next_inode
        if number == self._last_inode:
            number, length = self._filesystem.free_inodes(number)
            if not length:
                raise NoSpace("inodes", self.section.path)
            self._last_inode = number + length
        self._next_inode = number + 1
        self._filesystem.count_inode(number, 1, directory)
        return number

    def free_inode(self, number: int, *, directory: bool) -> None:
        """Give up an inode, when all is done."""
        self._freed_inodes.append((number, directory))

    # The end

    def hasher(self, version: int, seed: bytes) -> Callable[[bytes], int]:
        """The hash of names in indexed directories."""
        return self._filesystem.hasher(version, seed)

    def need_large_files(self) -> None:
        """Note in the superblock that a file of 2 GiB or more is here, as the kernel does."""
        if not self.superblock.ro_compat & _LARGE_FILE:
            self.superblock = self.superblock._replace(ro_compat=self.superblock.ro_compat | _LARGE_FILE)
            self._filesystem.set_superblock(_RO_COMPAT_AT, self.superblock.ro_compat.to_bytes(4, "little"))

    def need_attributes(self) -> None:
        """Note in the superblock that there are extended attributes, as the kernel does."""
        if not self.superblock.compat & _EXT_ATTR:
            self.superblock = self.superblock._replace(compat=self.superblock.compat | _EXT_ATTR)
            self._filesystem.set_superblock(_COMPAT_AT, self.superblock.compat.to_bytes(4, "little"))

    def relieve(self) -> None:
        """Carry over a batch when many blocks have changed. No view of a block may be held across this."""
        if len(self._changed) * self.block_size >= _BATCH:
            self._carry(())

    def finish(self) -> None:
        """Make every change, durably. Raises OSError, Ext2Error; then `overlay.commit.rollback` takes it back."""
        self._send()
        self._count_run()
        for start, length in self._freed:
            self._filesystem.count_blocks(start, length, -1)
        for number, directory in self._freed_inodes:
            self._filesystem.count_inode(number, -1, directory)
        self._freed.clear()
        self._freed_inodes.clear()
        self._carry(self._filesystem.own_blocks())
        self._filesystem.flush()
        os.fsync(self.fd)

    def _carry(self, own: Sequence[int]) -> None:
        """Save the blocks that change, and ``own``, then change them."""
        self._send()
        if self._undo is not None:
            self._save(sorted({*self._changed, *own}), undo_name(self._undo, self._batches))
            self._batches += 1
        for first, last in _runs(sorted(self._changed)):
            self.write(first, b"".join(self._changed.pop(block) for block in range(first, last)))

    def _save(self, blocks: Iterable[int], name: str) -> None:
        # The data first: were it to fail for want of space, nothing would have to be undone.
        os.fsync(self.fd)
        part = f"{name}.part"
        if os.path.lexists(part):
            os.unlink(part)  # of a commit that was killed: libext2fs would append to it
        with undo_log(self.section, part, self.block_size) as save:
            for first, last in _runs(blocks):
                for at in range(first, last, _LONGEST_SAVE):
                    length = min(_LONGEST_SAVE, last - at) * self.block_size
                    save(at, os.pread(self.fd, length, self.section.offset + at * self.block_size))
        _sync(part)
        os.rename(part, name)
        _sync(os.path.dirname(name) or ".")


def _runs(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, one behind the last) of each row of neighbours."""
    numbers = list(blocks)
    if not numbers:
        return []
    breaks = [index for index, (left, right) in enumerate(pairwise(numbers), 1) if right != left + 1]
    return [(numbers[a], numbers[b - 1] + 1) for a, b in pairwise([0, *breaks, len(numbers)])]


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
