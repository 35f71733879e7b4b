"""Where the blocks of an inode lie, written: direct, indirect, doubly and triply indirect blocks of ext2/3.

The counterpart of `overlay.extread.map`; layout: the kernel's Documentation/filesystems/ext4/ifork.rst.
"""

from __future__ import annotations

import errno
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator

from overlay.records import TYPE_CHECKING
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from typing import Final

_DIRECT: Final = 12
_NO_MORE: Final = (0,) * 14  # pointers behind the first

Read = Callable[[int], bytes | bytearray]
TakeOne = Callable[[], int]
Fill = Callable[[int, bytes], None]


def largest(block_size: int) -> int:
    """Bytes of the largest file: what the pointers reach, and what 32 bits of 512-byte sectors can count."""
    each = block_size // 4
    return min((_DIRECT + each + each**2 + each**3) * block_size, 2**32 * 512 - 2**24)


def build(runs: Iterable[tuple[int, int, int]], block_size: int, take: TakeOne, fill: Fill) -> tuple[bytes, int]:
    """The 60 bytes of i_block for ascending ``runs`` (logical, physical, length), and the indirect blocks it took.

    ``fill`` is given each indirect block, all within blocks that ``take`` gave. Raises OSError(EFBIG).
    """
    each = block_size // 4
    pointers = [0] * 15
    leaves: dict[int, int] = {}
    took = 0

    def write(content: array[int]) -> int:
        nonlocal took
        took += 1
        block = take()
        if sys.byteorder == "big":
            content.byteswap()
        fill(block, content.tobytes())
        return block

    leaf, content = -1, array("I")
    for logical, physical, length in runs:
        while length:
            if logical < _DIRECT:
                count = min(length, _DIRECT - logical)
                pointers[logical : logical + count] = range(physical, physical + count)
            else:
                index, at = divmod(logical - _DIRECT, each)
                if index != leaf:
                    if leaf >= 0:
                        leaves[leaf] = write(content)
                    leaf, content = index, array("I", bytes(block_size))
                count = min(length, each - at)
                content[at : at + count] = array("I", range(physical, physical + count))
            logical, physical, length = logical + count, physical + count, length - count
    if leaf >= 0:
        leaves[leaf] = write(content)
    _attach(pointers, leaves, each, write)
    return struct.pack("<15I", *pointers), took


def _attach(pointers: list[int], leaves: dict[int, int], each: int, write: Callable[[array[int]], int]) -> None:
    """Hang the blocks that map data below the last three pointers."""
    pointers[_DIRECT] = leaves.pop(0, 0)
    level = {index - 1: block for index, block in leaves.items()}
    for depth in (1, 2):
        if not level:
            return
        above: dict[int, array[int]] = {}
        for index, block in level.items():
            group, at = divmod(index, each)
            above.setdefault(group, array("I", bytes(4 * each)))[at] = block
        written = {group: write(content) for group, content in sorted(above.items())}
        pointers[_DIRECT + depth] = written.pop(0, 0)
        level = {group - 1: block for group, block in written.items()}
    if level:
        raise OSError(errno.EFBIG, "the file is larger than ext3 can hold")


def blocks(i_block: bytes, block_size: int, limit: int, read: Read) -> Iterator[tuple[int, int, int]]:
    """Every block that i_block maps: (logical, physical, 1 or more in a row), and (-1, physical, 1) for indirect ones.

    In file order. Raises ExtError when there are more than ``limit``, the blocks of the file system.
    """
    pointers = struct.unpack("<15I", i_block)
    if pointers[1:] == _NO_MORE:  # most files
        if pointers[0] >= limit:
            raise ExtError("a block map contradicts itself")
        if pointers[0]:
            yield 0, pointers[0], 1
        return
    total = 0
    for logical, physical, length in _joined(_walk(pointers, block_size // 4, read)):
        total += length
        if not 0 < physical < limit or total > limit:
            raise ExtError("a block map contradicts itself")
        yield logical, physical, length


def _walk(pointers: tuple[int, ...], each: int, read: Read) -> Iterator[tuple[int, int]]:
    for logical in range(_DIRECT):
        if pointers[logical]:
            yield logical, pointers[logical]
    first = _DIRECT
    for depth in (1, 2, 3):
        if pointers[_DIRECT + depth - 1]:
            yield from _below(pointers[_DIRECT + depth - 1], depth, first, each, read)
        first += each**depth


def _below(block: int, depth: int, first: int, each: int, read: Read) -> Iterator[tuple[int, int]]:
    yield -1, block
    width = each ** (depth - 1)
    for index, pointer in enumerate(struct.unpack(f"<{each}I", read(block))):
        if pointer and depth == 1:
            yield first + index, pointer
        elif pointer:
            yield from _below(pointer, depth - 1, first + index * width, each, read)


def _joined(found: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    start, place, count = -1, 0, 0
    for logical, physical in found:
        if count and logical >= 0 and start >= 0 and logical == start + count and physical == place + count:
            count += 1
            continue
        if count:
            yield start, place, count
        start, place, count = logical, physical, 1
    if count:
        yield start, place, count
