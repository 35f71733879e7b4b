"""Writing entries into an ext3 image through `overlay.ext_write`: an overlay's upper layer, or a whole file system."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import Final

from overlay import ext_inode, ext_xattr, whiteout
from overlay.ext_inode import Attributes
from overlay.ext_write import Writer
from overlay.layer_write import LayerSink
from overlay.loss import Report
from overlay.tree import DirectoryTree, Entry, Tree, pieces

_OPAQUE: Final = dict.fromkeys((mark.encode() for mark in whiteout.OPAQUE_MARKS), b"y")
_SMALL: Final = 16 << 20  # bytes that may be held in memory

# (atime, ctime) in nanoseconds of an entry; its mtime is known
Times = Callable[[Entry], tuple[int, int]]


def _now(entry: Entry) -> tuple[int, int]:
    return entry.mtime_ns, time.time_ns()


class ExtSink(LayerSink[int]):
    """Writes below the directory ``top``, an inode, of the image that ``writer`` has open, and finishes nothing.

    Directories are named by inode. ``times``: where entries have their other times from.
    """

    def __init__(self, writer: Writer, top: int, report: Report, times: Times = _now) -> None:
        super().__init__(report)
        self.top = top
        self._writer = writer
        self._times = times
        self._room = ext_inode.room(writer.superblock.inode_size)
        self._made: dict[int, bool] = {}  # directories made here, and whether they are opaque
        self._inodes: dict[bytes, int] = {}  # path -> inode of what may get more names

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
            fd = self._unpacked(tree, entry)
            try:
                number = self._writer.create(parent, name, fd, dressed)
            finally:
                os.close(fd)
        if entry.links > 1:
            self._inodes[path] = number

    def _unpacked(self, tree: Tree, entry: Entry) -> int:
        """A file with the contents of ``entry``, its holes too: in memory, or without a name beside the image."""
        if entry.size <= _SMALL:
            fd = os.memfd_create("sifkit")
        else:
            fd = os.open(os.environ.get("TMPDIR") or "/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(fd, entry.size)
            for at, data in pieces(tree, entry):
                view = memoryview(data)
                while view:
                    count = os.pwrite(fd, view, at)
                    view, at = view[count:], at + count
        except BaseException:
            os.close(fd)
            raise
        return fd

    def special(
        self, parent: int, name: bytes, entry: Entry, attributes: dict[bytes, bytes], target: bytes, path: bytes
    ) -> bool:
        self._replace(parent, name, path)
        dressed = self._attributes(entry, attributes, path)
        if entry.is_symlink:
            number = self._writer.symlink(parent, name, target, dressed)
        else:
            number = self._writer.mknod(parent, name, entry.device, dressed)
        if entry.links > 1:
            self._inodes[path] = number
        return True

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
        held = self._held(attributes, path) if attributes else attributes
        return Attributes(entry.mode, entry.uid, entry.gid, atime, entry.mtime_ns, ctime, held)

    def _held(self, attributes: dict[bytes, bytes], path: bytes) -> dict[bytes, bytes]:
        """As many of the attributes as ext3 can hold."""
        held: dict[bytes, bytes] = {}
        for key, value in sorted(attributes.items(), key=lambda pair: len(pair[1])):
            try:
                ext_xattr.encode({**held, key: value}, self._room, self._writer.superblock.block_size)
            except OSError:
                self.report(path, f"attributes {os.fsdecode(key)}, for which ext3 has no place")
            else:
                held[key] = value
        return held
