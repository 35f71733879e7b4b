"""Where the blocks of an inode lie: indirect blocks (ext2/3) and extent trees (ext4).

Both yield runs in file order. A hostile map ends in `ExtError`: every block number is checked, runs must
ascend, and no inode may map more blocks than the file system has, so nothing loops or grows without bound.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from overlay.extread.inode import FLAG_EXTENTS, Inode
from overlay.records import TYPE_CHECKING, QuickTuple
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from typing import Final

_EXTENT_MAGIC: Final = 0xF30A
_EXTENT_DEPTH: Final = 5
_LONGEST_EXTENT: Final = 32768  # above: unwritten, of length minus this (ext4_extents.h)
_DIRECT: Final = 12

ReadBlock = Callable[[int], bytes]


class Run(QuickTuple):
    """``length`` blocks of a file from block ``logical`` on lie at block ``physical`` of the file system."""

    logical: int
    physical: int
    length: int


def runs(inode: Inode, blocks: int, block_size: int, read: ReadBlock) -> Iterator[Run]:
    """The runs of ``inode`` within its size; holes and unwritten extents are left out."""
    wanted = -(-inode.size // block_size)
    found = (
        _extents(inode, inode.block, _EXTENT_DEPTH, read, 0)
        if inode.flags & FLAG_EXTENTS
        else _joined(_indirect(inode, wanted, block_size, read))
    )
    end = total = 0
    for run in found:
        if run.physical <= 0 or run.physical + run.length > blocks:
            raise ExtError(f"inode {inode.number}: a block lies outside the file system")
        total += run.length
        if run.logical < end or total > blocks:
            raise ExtError(f"inode {inode.number}: its block map contradicts itself")
        end = run.logical + run.length
        if run.logical >= wanted:
            return
        yield run if end <= wanted else run._replace(length=wanted - run.logical)


def _extents(inode: Inode, node: bytes, deepest: int, read: ReadBlock, least: int) -> Iterator[Run]:
    """The extents below ``node``, a tree of at most ``deepest`` levels (Documentation: ifork.rst)."""
    magic, entries, most, depth = struct.unpack_from("<4H", node)
    if magic != _EXTENT_MAGIC or depth > deepest or entries > most or 12 + 12 * entries > len(node):
        raise ExtError(f"inode {inode.number}: damaged extent tree")
    if entries == 0 and deepest < _EXTENT_DEPTH:  # empty inner nodes would make a small image a long walk
        raise ExtError(f"inode {inode.number}: empty node in its extent tree")
    for at in range(12, 12 + 12 * entries, 12):
        if depth == 0:
            logical, length, high, low = struct.unpack_from("<IHHI", node, at)
            unwritten = length > _LONGEST_EXTENT
            if length == 0 or logical < least:
                raise ExtError(f"inode {inode.number}: extents out of order")
            least = logical + (length - _LONGEST_EXTENT if unwritten else length)
            if not unwritten:
                yield Run(logical, high << 32 | low, length)
        else:
            logical, low, high = struct.unpack_from("<IIH", node, at)
            if logical < least:
                raise ExtError(f"inode {inode.number}: extents out of order")
            child = read(high << 32 | low)
            if struct.unpack_from("<H", child, 6)[0] != depth - 1:
                raise ExtError(f"inode {inode.number}: damaged extent tree")
            yield from _extents(inode, child, depth - 1, read, logical)
            least = logical + 1


def _indirect(inode: Inode, wanted: int, block_size: int, read: ReadBlock) -> Iterator[Run]:
    """All mapped blocks below ``wanted``, by the 12 + 3 pointers of i_block."""
    pointers = struct.unpack("<15I", inode.block)
    each = block_size // 4
    seen: set[int] = set()

    def read_once(block: int) -> bytes:
        # One empty pointer block used a billion times would be a walk without end.
        if block in seen:
            raise ExtError(f"inode {inode.number}: its block map uses block {block} twice")
        seen.add(block)
        return read(block)

    yield from _rows(0, pointers[: min(_DIRECT, wanted)])
    first = _DIRECT
    for level in (1, 2, 3):
        if first >= wanted:
            return
        if pointers[_DIRECT + level - 1]:
            yield from _level(pointers[_DIRECT + level - 1], level, first, wanted, each, read_once)
        first += each**level


def _level(block: int, level: int, first: int, wanted: int, each: int, read: ReadBlock) -> Iterator[Run]:
    """What the indirect block ``block`` maps, ``level`` levels above the data, from logical ``first`` on."""
    pointers = struct.unpack(f"<{each}I", read(block))
    if level == 1:
        yield from _rows(first, pointers[: wanted - first])
        return
    below = each ** (level - 1)
    for logical, pointer in zip(range(first, wanted, below), pointers, strict=False):
        if pointer:
            yield from _level(pointer, level - 1, logical, wanted, each, read)


def _rows(first: int, pointers: tuple[int, ...]) -> Iterator[Run]:
    """Blocks that ``pointers`` lead to from logical ``first`` on; all of them in a row, mostly, which is fast."""
    if pointers and pointers[0] and pointers == tuple(range(pointers[0], pointers[0] + len(pointers))):
        yield Run(first, pointers[0], len(pointers))
        return
    for logical, pointer in enumerate(pointers, first):
        if pointer:
            yield Run(logical, pointer, 1)


def _joined(runs: Iterator[Run]) -> Iterator[Run]:
    logical = physical = count = 0
    for this, there, length in runs:
        if count and this == logical + count and there == physical + count:
            count += length
            continue
        if count:
            yield Run(logical, physical, count)
        logical, physical, count = this, there, length
    if count:
        yield Run(logical, physical, count)
