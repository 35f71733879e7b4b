"""Entries written into an ext3 image (`overlay.extwrite.writer`): an overlay's upper layer, or a whole file system."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from overlay import whiteout
from overlay.extwrite import data as ext_data
from overlay.extwrite import inode as ext_inode
from overlay.extwrite import xattr as ext_xattr
from overlay.extwrite.inode import Attributes
from overlay.extwrite.volume import Volume
from overlay.extwrite.writer import Writer
from overlay.records import TYPE_CHECKING
from overlay.tree.layer_write import LayerSink
from overlay.tree.loss import Report
from overlay.tree.view import DirectoryTree, Entry, Extent, Tree, pieces

if TYPE_CHECKING:
    from typing import Final

_OPAQUE: Final = {whiteout.KERNEL_MARK.encode(): b"y"}  # see commit_tree
_MOST_LINKS: Final = 60000

# (atime, ctime) in nanoseconds of an entry; its mtime is known
Times = Callable[[Entry], tuple[int, int]]


def _as_changed(entry: Entry) -> tuple[int, int]:
    return entry.mtime_ns, entry.mtime_ns


class ExtSink(LayerSink[int]):
    """Writes below the directory ``top``, an inode, of the image that ``writer`` has open, and finishes nothing.

    Directories are named by inode. ``times``: where entries have their other times from.
    """

    def __init__(self, writer: Writer, top: int, report: Report, times: Times = _as_changed) -> None:
        super().__init__(report)
        self.top = top
        self._writer = writer
        self._times = times
        self._room = ext_inode.room(writer.superblock.inode_size)
        self._made: dict[int, bool] = {}  # directories made here, and whether they are opaque
        self._inodes: dict[bytes, int] = {}  # path -> inode of what may get more names
        self._whiteout = self._whiteouts = 0

    def made(self, directory: int) -> int:
        """The empty ``directory``, whose attributes `leave` is to set although it was there."""
        self._made[directory] = False
        return directory

    # -- the layer

    def owner(self) -> tuple[int, int]:
        found = self._writer.inode(self.top)
        return found.uid, found.gid

    def has_directory(self, parent: int, name: bytes) -> bool:
        number = self._writer.lookup(parent, name)
        return bool(number) and self._writer.inode(number).is_directory

    def hides(self, parent: int, name: bytes) -> bool:
        return self._is_whiteout(self._writer.lookup(parent, name)) or self._mark(parent, name) != 0

    def is_opaque(self, directory: int) -> bool:
        named = any(self._writer.lookup(directory, name) for name in whiteout.OPAQUE_NAMES)
        return named or whiteout.is_opaque(self._writer.xattrs(directory))

    def keep(self, directory: int) -> int:
        return directory

    def _is_whiteout(self, number: int) -> bool:
        if not number:
            return False
        found = self._writer.inode(number)
        return whiteout.is_whiteout(found.mode, found.device)

    def _mark(self, parent: int, name: bytes) -> int:
        """The file beside ``name`` that says that it is deleted; 0 when there is none."""
        number = self._writer.lookup(parent, whiteout.PREFIX + name)
        return 0 if not number or self._writer.inode(number).is_directory else number

    # -- entries

    def directory(self, parent: int, name: bytes, path: bytes) -> int:
        writer = self._writer
        number = writer.lookup(parent, name)
        if number and writer.inode(number).is_directory:
            return number
        if number and not self._is_whiteout(number):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        hidden = self._clear(parent, name)
        made = writer.mkdir(parent, name, Attributes(stat.S_IFDIR | 0o700, 0, 0, 0, 0, 0))
        self._made[made] = hidden
        return made

    def leave(self, directory: int, entry: Entry, attributes: dict[bytes, bytes], path: bytes) -> None:
        opaque = self._made.pop(directory, None)
        if opaque is not None:
            attributes = {**attributes, **_OPAQUE} if opaque else attributes
            self._writer.set_attributes(directory, self._attributes(entry, attributes, path))
        self._writer.close_directory(directory)

    def file(
        self, parent: int, name: bytes, entry: Entry, attributes: dict[bytes, bytes], tree: Tree, path: bytes
    ) -> None:
        self._replace(parent, name, path)
        dressed = self._attributes(entry, attributes, path)
        if isinstance(tree, DirectoryTree):
            with tree.open(entry) as stream:
                number = self._writer.create(parent, name, stream.fileno(), dressed)
        else:
            number = self._writer.create_from(parent, name, lambda volume: _contents(volume, tree, entry), dressed)
        if entry.links > 1:
            self._inodes[path] = number

    def special(
        self, parent: int, name: bytes, entry: Entry, attributes: dict[bytes, bytes], target: bytes, path: bytes
    ) -> bool:
        self._replace(parent, name, path)
        if whiteout.is_whiteout(entry.mode, (os.major(entry.device), os.minor(entry.device))):
            self._hide(parent, name, entry)
            return True
        dressed = self._attributes(entry, attributes, path)
        if entry.is_symlink:
            number = self._writer.symlink(parent, name, target, dressed)
        else:
            number = self._writer.mknod(parent, name, entry.device, dressed)
        if entry.links > 1:
            self._inodes[path] = number
        return True

    def _hide(self, parent: int, name: bytes, entry: Entry) -> None:
        """Whiteouts are names of one inode, as the kernel makes them: a deletion costs no inode."""
        if self._whiteout and self._whiteouts < _MOST_LINKS:
            self._writer.link(parent, name, self._whiteout)
            self._whiteouts += 1
        else:
            self._whiteout, self._whiteouts = self._writer.mknod(parent, name, 0, self._attributes(entry, {}, b"")), 1

    def link(self, parent: int, name: bytes, existing: bytes, path: bytes) -> bool:
        number = self._inodes.get(existing, 0)
        if not number:
            return False
        if parent in self._made or self._writer.lookup(parent, name) != number:
            self._replace(parent, name, path)
            self._writer.link(parent, name, number)
        return True

    # -- what is in the way, and what belongs to an entry

    def _replace(self, parent: int, name: bytes, path: bytes) -> None:
        if parent in self._made:  # the writer refuses a name that is there
            return
        if self.has_directory(parent, name):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self._clear(parent, name)

    def _clear(self, parent: int, name: bytes) -> bool:
        """Remove what is there and what marks it as deleted; whether anything did."""
        if parent in self._made:
            return False
        hidden = self.hides(parent, name)
        if self._writer.lookup(parent, name):
            self._writer.unlink(parent, name)
        if self._mark(parent, name):
            self._writer.unlink(parent, whiteout.PREFIX + name)
        return hidden

    def _attributes(self, entry: Entry, attributes: dict[bytes, bytes], path: bytes) -> Attributes:
        atime, ctime = self._times(entry)
        held = self._fitting(attributes, path) if attributes else attributes
        return Attributes(entry.mode, entry.uid, entry.gid, atime, entry.mtime_ns, ctime, held)

    def _fitting(self, attributes: dict[bytes, bytes], path: bytes) -> dict[bytes, bytes]:
        """``attributes`` without those that ext3 has no place for, or no room: the largest go first."""
        kept = dict(attributes)
        while kept:
            try:
                ext_xattr.encode(kept, self._room, self._writer.superblock.block_size)
                break
            except OSError as error:
                if error.errno == errno.ENOTSUP:
                    lost, why = next(name for name in kept if not _has_place(name)), "which ext3 cannot have"
                else:
                    lost, why = max(kept, key=lambda name: len(kept[name])), "for which ext3 has no room"
            del kept[lost]
            self.report(path, f"attributes {os.fsdecode(lost)}, {why}")
        return kept


def _contents(volume: Volume, tree: Tree, entry: Entry) -> ext_inode.Body:
    """Store the contents of a regular file, holes as holes."""
    if not entry.size:
        return ext_inode.NOTHING
    extents = tree.extents(entry)
    if entry.size <= ext_data.AT_ONCE and sum(extent.length for extent in extents) == entry.size:
        data = b"".join(piece for _, piece in pieces(tree, entry, extents))
        return ext_data.store_bytes(volume, data) if data else ext_inode.NOTHING
    size = volume.block_size
    spans = _spans(extents, entry.size, size)
    whole = [Extent(start * size, min(entry.size, end * size) - start * size) for start, end in spans]
    return ext_data.store_pieces(volume, entry.size, spans, pieces(tree, entry, whole))


def _has_place(name: bytes) -> bool:
    try:
        ext_xattr.encode({name: b""} if not name.startswith(b"system.posix_acl") else {}, 1 << 16, 1 << 16)
    except OSError:
        return False
    return True


def _spans(extents: list[Extent], size: int, block_size: int) -> list[tuple[int, int]]:
    """Blocks that hold any of ``extents``: (first, one behind the last), ascending."""
    spans: list[tuple[int, int]] = []
    for start, length in extents:
        first, last = start // block_size, -(-min(start + length, size) // block_size)
        if spans and first <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
        else:
            spans.append((first, last))
    return spans
