"""Images as trees: ext2/3/4 and squashfs, read in place at their offset."""

from __future__ import annotations

import io
import os
from operator import attrgetter

from overlay.extread import inode as extread_inode
from overlay.extread.inode import Inode
from overlay.extread.reader import ExtError, ExtReader
from overlay.section import Section
from overlay.squash.reader import Inode as SquashInode
from overlay.squash.reader import SquashError, SquashReader
from overlay.squash.unpack import Unpack
from overlay.tree.view import BY_NAME, Entry, Extent, Tree

_SECOND = 10**9
_CHR_OR_BLK = (0o020000, 0o060000)


class _Places:
    """Where each directory was seen: an image in which one has two places has no end."""

    def __init__(self, top: Entry) -> None:
        self._of = {top.inode: (0, b"")}

    def only(self, parent: Entry, entry: Entry) -> bool:
        place = (parent.inode, entry.name)
        return self._of.setdefault(entry.inode, place) == place


class ExtTree(Tree):
    """The tree of an ext image; `close` closes it. An inode is a file's handle."""

    def __init__(self, section: Section, inside: bytes = b"") -> None:
        """``inside``: the directory to present, if it is there, else all. Raises OSError, ExtError."""
        self.reader = ExtReader(section)
        try:
            top = self.reader.lookup(inside)
            if top is None or not top.is_directory:
                top = self.reader.inode(extread_inode.ROOT)
            self.top = _of_ext(b"", top)
        except BaseException:
            self.reader.close()
            raise
        self._places = _Places(self.top)

    def close(self) -> None:
        self.reader.close()

    def listdir(self, directory: Entry) -> list[Entry]:
        # In the order of inodes, in which they lie on disk; sorted by name afterwards.
        names = sorted(self.reader.listdir(self._inode(directory)), key=attrgetter("inode"))
        read = self.reader.inode
        entries = [_of_ext(name, read(number)) for name, number, _ in names]
        for entry in entries:
            if entry.is_directory and not self._places.only(directory, entry):
                raise ExtError(f"{entry.name[-200:]!r}: a directory in two places")
            if not entry.mode & 0o170000:
                raise ExtError(f"{entry.name!r} leads to inode {entry.inode}, which is unused")
        entries.sort(key=BY_NAME)
        return entries

    def _inode(self, entry: Entry) -> Inode:
        return self.reader.inode(entry.inode)

    def readlink(self, entry: Entry) -> bytes:
        return self.reader.readlink(self._inode(entry))

    def xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        return self.reader.xattrs(self._inode(entry))

    def extents(self, entry: Entry) -> list[Extent]:
        inode = self._inode(entry)
        if inode.flags & extread_inode.FLAG_INLINE:
            return super().extents(entry)
        return [Extent(found.start, found.length) for found in self.reader.extents(inode)]

    def open(self, entry: Entry) -> io.BufferedIOBase:
        return self.reader.open(self._inode(entry))


def _of_ext(name: bytes, inode: Inode) -> Entry:
    device = os.makedev(*inode.device) if inode.mode & 0o170000 in _CHR_OR_BLK else 0
    return Entry(
        name, inode.mode, inode.uid, inode.gid, inode.size, inode.links, inode.number, inode.mtime_ns, device,
        inode.number,
    )  # fmt: skip


class SquashTree(Tree):
    """The tree of a squashfs; ``zstd`` unpacks that compression. The reference of an inode is a file's handle."""

    def __init__(self, section: Section, zstd: Unpack | None = None) -> None:
        """Raises OSError, SquashError."""
        self.reader = SquashReader(section, zstd)
        try:
            self.top = _of_squash(b"", self.reader.inode(self.reader.root), self.reader.root)
        except BaseException:
            self.reader.close()
            raise
        self._places = _Places(self.top)

    def close(self) -> None:
        self.reader.close()

    def listdir(self, directory: Entry) -> list[Entry]:
        read = self.reader.inode
        names = sorted(self.reader.listdir(self._inode(directory)), key=lambda found: found[1])
        entries = [_of_squash(name, read(where), where) for name, where in names]
        for entry in entries:
            if entry.is_directory and not self._places.only(directory, entry):
                raise SquashError(f"{entry.name[-200:]!r}: a directory in two places")
        entries.sort(key=BY_NAME)
        return entries

    def _inode(self, entry: Entry) -> SquashInode:
        assert isinstance(entry.where, int)
        return self.reader.inode(entry.where)

    def readlink(self, entry: Entry) -> bytes:
        return self._inode(entry).target

    def xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        return self.reader.xattrs(self._inode(entry))

    def extents(self, entry: Entry) -> list[Extent]:
        return [Extent(*found) for found in self.reader.extents(self._inode(entry))]

    def open(self, entry: Entry) -> io.BufferedIOBase:
        return self.reader.open(self._inode(entry))


def _of_squash(name: bytes, inode: SquashInode, where: int) -> Entry:
    return Entry(
        name, inode.mode, inode.uid, inode.gid, inode.size, inode.links, inode.number, inode.mtime * _SECOND,
        os.makedev(*inode.device), where,
    )  # fmt: skip
