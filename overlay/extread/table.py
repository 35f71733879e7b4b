"""What all inodes of an ext image say together, read from its inode tables at the speed of slices, not one by one."""

from __future__ import annotations

import array
import os
import stat
import sys
from collections.abc import Iterator

from overlay import superblock
from overlay.extread import inode as inodes
from overlay.extread.reader import ExtReader
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.section import Section

if TYPE_CHECKING:
    from typing import Final

_CHUNK: Final = 1 << 20
_LOST_AND_FOUND: Final = 11  # mke2fs makes it, for root

# 16-bit words of an inode (Documentation/filesystems/ext4/inodes.rst): i_mode, i_links_count; i_uid, i_gid: low, high.
_WORDS: Final = (0, 13, 1, 60, 12, 61)
_LINKS: Final = 13
_ACL_WORDS: Final = (52, 53, 59)  # the block of attributes: low, high
_OLD_SIZE: Final = 128
# Attributes in the inode begin behind i_extra_isize bytes more; by that, where the upper half of their magic number is.
_EXTRA_WORD: Final = 64
_MAGIC_WORDS: Final = {28: 79, 32: 81}
_MAGIC: Final = 0xEA02


class Inodes(NamedTuple):
    """``number`` of inodes in use, the file system's own left out; their ``owners`` (uid, gid); ``devices``: character
    devices, as whiteouts are, occur. ``attributes``: any has extended attributes, the root and lost+found too.
    ``directories``: the numbers of those that are directories.
    """

    number: int
    owners: frozenset[tuple[int, int]]
    devices: bool
    attributes: bool
    directories: tuple[int, ...]


def survey(section: Section) -> Inodes:
    """All inodes in use of the image in ``section``. Raises OSError, ExtError."""
    kinds: set[tuple[int, ...]] = set()
    directories: list[int] = []
    with ExtReader(section) as reader:
        attributes = any(reader.xattrs(reader.inode(number)) for number in (inodes.ROOT, _LOST_AND_FOUND))
        sb = reader.superblock
        count = sb.inodes - sb.free_inodes - _LOST_AND_FOUND
        for group in range(sb.groups):
            if _free(reader, section, group) < sb.inodes_per_group:
                for first, words in _tables(reader, section, group):
                    kinds |= set(zip(*(words[word :: sb.inode_size // 2] for word in _WORDS), strict=True))
                    attributes = attributes or _attributes(words, sb.inode_size)
                    directories += _directories(first, words, sb.inode_size)
    used = {kind for kind in kinds if kind[1]}
    owners = {(kind[2] | kind[3] << 16, kind[4] | kind[5] << 16) for kind in used}
    devices = any(stat.S_ISCHR(kind[0]) for kind in used)
    return Inodes(max(0, count), frozenset(owners), devices, attributes, tuple(directories))


def _free(reader: ExtReader, section: Section, group: int) -> int:
    place = section.offset + reader.descriptor_place(group)
    descriptor = os.pread(reader.fileno(), reader.superblock.descriptor_size, place)
    high = int.from_bytes(descriptor[46:48], "little") if len(descriptor) >= 64 else 0
    return int.from_bytes(descriptor[14:16], "little") | high << 16


def _tables(reader: ExtReader, section: Section, group: int) -> Iterator[tuple[int, memoryview]]:
    """The inodes of a group as 16-bit words, in pieces; with each the number of its first inode."""
    sb = reader.superblock
    start = section.offset + reader.table(group) * sb.block_size
    end = start + sb.inodes_per_group * sb.inode_size
    number = group * sb.inodes_per_group + 1
    if group == 0:
        number += _LOST_AND_FOUND
        start += _LOST_AND_FOUND * sb.inode_size
    for at in range(start, end, _CHUNK):
        data = os.pread(reader.fileno(), min(_CHUNK, end - at), at)
        if len(data) % sb.inode_size:
            raise superblock.ExtError(f"group {group}: its inodes are cut off")
        yield number, memoryview(data if sys.byteorder == "little" else _swapped(data)).cast("H")
        number += len(data) // sb.inode_size


def _attributes(words: memoryview, size: int) -> bool:
    """Whether any inode in use has extended attributes, in itself or in a block."""
    each = size // 2
    links = words[_LINKS::each]
    for word in _ACL_WORDS:
        if any(words[word::each]) and any(link and block for link, block in zip(links, words[word::each], strict=True)):
            return True
    if size == _OLD_SIZE:
        return False
    columns = (words[word::each] for word in (_LINKS, _EXTRA_WORD, *_MAGIC_WORDS.values()))
    for used, extra, *magics in set(zip(*columns, strict=True)):
        if not used or not extra:
            continue
        magic = dict(zip(_MAGIC_WORDS, magics, strict=True)).get(extra, _MAGIC)  # of another size: it may be
        if magic == _MAGIC:
            return True
    return False


def _directories(first: int, words: memoryview, size: int) -> list[int]:
    each = size // 2
    kinds = zip(words[0::each], words[_LINKS::each], strict=True)
    return [number for number, (mode, links) in enumerate(kinds, first) if mode & 0xF000 == stat.S_IFDIR and links]


def _swapped(data: bytes) -> bytes:
    words = array.array("H", data)
    words.byteswap()
    return words.tobytes()
