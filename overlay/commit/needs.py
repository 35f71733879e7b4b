"""How much room a commit may take in the image at most: told before anything is written."""

from __future__ import annotations

import os
import stat

from overlay import whiteout
from overlay.commit.upper import Found, kept_xattrs, look, nearer, replaced
from overlay.extread.inode import Inode
from overlay.extread.reader import ExtReader
from overlay.extwrite import data as ext_data
from overlay.extwrite import inode as ext_inode
from overlay.extwrite import xattr as ext_xattr
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.section import Section

if TYPE_CHECKING:
    from typing import Final

_DIRECT: Final = 12
_FAST_LINK: Final = 60
_LONGEST_RECORD: Final = 264
_MARKS: Final = {whiteout.KERNEL_MARK.encode(): b"y"}
_WHITEOUT_LINKS: Final = 60000


class Needs(NamedTuple):
    """Room in a file system: ``bytes`` in whole blocks, and ``inodes``."""

    bytes: int
    inodes: int


def free(section: Section) -> Needs:
    """What is free in the image. Raises OSError, ExtError."""
    with ExtReader(section) as reader:
        sb = reader.superblock
        return Needs(sb.free_blocks * sb.block_size, sb.free_inodes)


def needs(section: Section, upper: str) -> Needs:
    """What carrying ``upper`` into the image takes at most; what it deletes is not counted as free.

    Raises OSError, ExtError.
    """
    with ExtReader(section) as reader:
        count = _Count(reader)
        count.tree(os.fsencode(upper), reader.lookup(b"/upper"))
        return Needs(count.blocks * reader.superblock.block_size, count.inodes + -(-count.whiteouts // _WHITEOUT_LINKS))


class _Count:
    def __init__(self, reader: ExtReader) -> None:
        self._reader = reader
        self._block_size = reader.superblock.block_size
        self._each = self._block_size // 4
        self._room = ext_inode.room(reader.superblock.inode_size)
        self._seen: set[tuple[int, int]] = set()
        self.blocks = self.inodes = self.whiteouts = 0

    def tree(self, top: bytes, image: Inode | None) -> None:
        """``image``: the directory of the image that the upper directory is merged with."""
        if image is None:
            self.inodes += 1
            self.blocks += 2  # and the directory above it gets one name more
        waiting: list[tuple[bytes, Inode | None] | int] = [(top, image)]
        try:
            while waiting:
                each = waiting.pop()
                if isinstance(each, int):
                    os.close(each)
                    continue
                near, fd = nearer(each[0])
                if fd >= 0:
                    waiting.append(fd)  # by it all that comes after is reached
                waiting += self._directory(near, each[1])
        finally:
            for left in waiting:
                if isinstance(left, int):
                    os.close(left)

    def _directory(self, where: bytes, inode: Inode | None) -> list[tuple[bytes, Inode | None]]:
        """Count a directory and what is in it; what is left to do are the directories in it."""
        below, records = [], 0
        for entry in look(where):
            records += 8 + (len(entry.name) + 3 & ~3)
            if entry.deletes is None and stat.S_ISDIR(entry.stat.st_mode):
                below.append(entry)
            else:
                self._entry(entry)
        self._listing(records, inode)
        self._attributes(where, opaque=True)
        return self._merged(below, inode)

    def _merged(self, below: list[Found], inode: Inode | None) -> list[tuple[bytes, Inode | None]]:
        present = {}
        if inode is not None and below:
            names = {entry.name for entry in below}
            present = {found.name: found.inode for found in self._reader.listdir(inode) if found.name in names}
        merged: list[tuple[bytes, Inode | None]] = []
        for entry in below:
            match = self._reader.inode(present[entry.name]) if entry.name in present else None
            if match is None or not match.is_directory:
                match = None
                self.inodes += 1
            merged.append((entry.path, match))
        return merged

    def _listing(self, records: int, inode: Inode | None) -> None:
        """A directory is laid out anew, in the blocks it has and as many more as that takes."""
        present = inode.size if inode is not None else 0
        usable = self._block_size - self._block_size // 16 - _LONGEST_RECORD
        leaves = -(-(records + present + 24) // usable)
        blocks = leaves if leaves == 1 else 1 + leaves + -(-leaves // (self._each // 2 - 1))
        self.blocks += max(blocks - present // self._block_size, 0) + self._indirect(blocks, 1)

    def _indirect(self, blocks: int, extents: int) -> int:
        """Blocks of pointers to so many blocks in so many pieces."""
        if blocks <= _DIRECT and extents <= 1:
            return 0
        leaves = -(-blocks // self._each) + extents
        return leaves + min(leaves, -(-leaves // self._each) + extents) + 1

    def _entry(self, entry: Found) -> None:
        found = entry.stat
        if entry.deletes is not None:
            self.whiteouts += 1
            return
        if stat.S_ISSOCK(found.st_mode):
            self.whiteouts += 1
            return
        if found.st_nlink > 1:
            identity = (found.st_dev, found.st_ino)
            if identity in self._seen:
                return
            self._seen.add(identity)
        self.inodes += 1
        self._attributes(entry.path, opaque=False)
        if stat.S_ISREG(found.st_mode):
            self._contents(entry)
        elif stat.S_ISLNK(found.st_mode) and found.st_size >= _FAST_LINK:
            self.blocks += 1

    def _contents(self, entry: Found) -> None:
        found = entry.stat
        if found.st_blocks * 512 >= found.st_size:
            blocks = -(-found.st_size // self._block_size)
            self.blocks += blocks + self._indirect(blocks, 1)
            return
        fd = entry.open()
        try:
            extents = ext_data.extents(fd, found.st_size, self._block_size)
        finally:
            os.close(fd)
        blocks = sum(last - first for first, last in extents)
        self.blocks += blocks + self._indirect(blocks, max(len(extents), 1) + 1)

    def _attributes(self, path: bytes, *, opaque: bool) -> None:
        xattrs = kept_xattrs(path)
        if opaque and (self._room < len(_MARKS) * 40 or replaced(path)):
            xattrs.update(_MARKS)
        if xattrs and ext_xattr.encode(xattrs, self._room, self._block_size)[1]:
            self.blocks += 1
