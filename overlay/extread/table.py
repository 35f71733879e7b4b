"""What all inodes of an ext image say together, read from its inode tables at the speed of slices, not one by one."""

from __future__ import annotations

import array
import os
import stat
import sys
from typing import Final, NamedTuple

from overlay import superblock
from overlay.extread.reader import ExtReader
from overlay.section import Section

_CHUNK: Final = 1 << 20
_LOST_AND_FOUND: Final = 11  # mke2fs makes it, for root

# 16-bit words of an inode (Documentation/filesystems/ext4/inodes.rst): i_mode, i_links_count; i_uid, i_gid: low, high.
_WORDS: Final = (0, 13, 1, 60, 12, 61)


class Inodes(NamedTuple):
    """``number`` of inodes in use, the file system's own left out; their ``owners`` (uid, gid); ``devices``: character
    devices, as whiteouts are, occur.
    """

    number: int
    owners: frozenset[tuple[int, int]]
    devices: bool


def survey(section: Section) -> Inodes:
    """All inodes in use of the image in ``section``. Raises OSError, ExtError."""
    kinds: set[tuple[int, ...]] = set()
    with ExtReader(section) as reader:
        sb = reader.superblock
        count = sb.inodes - sb.free_inodes - _LOST_AND_FOUND
        for group in range(sb.groups):
            if _free(reader, section, group) < sb.inodes_per_group:
                kinds |= _group(reader, section, group)
    used = {kind for kind in kinds if kind[1]}
    owners = {(kind[2] | kind[3] << 16, kind[4] | kind[5] << 16) for kind in used}
    return Inodes(max(0, count), frozenset(owners), any(stat.S_ISCHR(kind[0]) for kind in used))


def _free(reader: ExtReader, section: Section, group: int) -> int:
    place = section.offset + reader.descriptor_place(group)
    descriptor = os.pread(reader.fileno(), reader.superblock.descriptor_size, place)
    high = int.from_bytes(descriptor[46:48], "little") if len(descriptor) >= 64 else 0
    return int.from_bytes(descriptor[14:16], "little") | high << 16


def _group(reader: ExtReader, section: Section, group: int) -> set[tuple[int, ...]]:
    sb = reader.superblock
    size = sb.inode_size
    start = section.offset + reader.table(group) * sb.block_size
    end = start + sb.inodes_per_group * size
    if group == 0:
        start += _LOST_AND_FOUND * size
    kinds: set[tuple[int, ...]] = set()
    for at in range(start, end, _CHUNK):
        data = os.pread(reader.fileno(), min(_CHUNK, end - at), at)
        if len(data) % size:
            raise superblock.ExtError(f"group {group}: its inodes are cut off")
        words = memoryview(data if sys.byteorder == "little" else _swapped(data)).cast("H")
        kinds |= set(zip(*(words[word :: size // 2] for word in _WORDS), strict=True))
    return kinds


def _swapped(data: bytes) -> bytes:
    words = array.array("H", data)
    words.byteswap()
    return words.tobytes()
