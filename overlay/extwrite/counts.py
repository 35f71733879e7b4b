"""Free blocks and inodes as the group descriptors of an ext2/3 image count them."""

from __future__ import annotations

import os
import struct

from overlay.section import Section
from overlay.superblock import ExtError, Superblock

_META_BG = 0x10


def free_of_groups(fd: int, section: Section, sb: Superblock) -> tuple[int, int]:
    """(blocks, inodes) free in all groups together. Raises ExtError when the descriptors are not all there."""
    from overlay.extread.reader import ExtReader

    if sb.incompat & _META_BG:
        with ExtReader(section) as reader:
            places = [reader.descriptor_place(group) for group in range(sb.groups)]
        heads = [os.pread(fd, 16, section.offset + place) for place in places]
    else:
        table = os.pread(fd, sb.groups * sb.descriptor_size, section.offset + (sb.first_data_block + 1) * sb.block_size)
        heads = [table[at : at + 16] for at in range(0, sb.groups * sb.descriptor_size, sb.descriptor_size)]
    if any(len(head) < 16 for head in heads):
        raise ExtError("the image ends inside its group descriptors")
    counts = [struct.unpack_from("<HH", head, 12) for head in heads]
    return sum(blocks for blocks, _ in counts), sum(inodes for _, inodes in counts)
