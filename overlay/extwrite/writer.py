"""Writes into ext2 and ext3 images in place, without mounting, root or FUSE: all of it happens, or none.

    with Writer(section, undo) as writer:
        upper = writer.lookup(writer.root, b"upper")
        writer.mkdir(upper, b"bin", attributes)
        writer.finish()

The image must be clean and locked by the caller. Nothing of its present tree is changed before `finish`; if that
is killed half way, `overlay.commit.rollback` brings the old tree back. Names are bytes; inodes are named by number.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Mapping
from types import TracebackType

from overlay.extread.inode import Inode
from overlay.extwrite import data as ext_data
from overlay.extwrite import inode as ext_inode
from overlay.extwrite import xattr as ext_xattr
from overlay.extwrite.directory import Directory, kind_of
from overlay.extwrite.fit import refusal as refusal
from overlay.extwrite.inode import NOTHING, Attributes, Body
from overlay.extwrite.names import Names
from overlay.extwrite.volume import Volume
from overlay.records import TYPE_CHECKING
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from typing import Final, Self

_FAST_LINK: Final = 60
_LINK_MAX: Final = 65000  # EXT2_LINK_MAX of libext2fs; the kernel's EXT4_LINK_MAX
_NAME_MAX: Final = 255
_KEPT_FLAGS: Final = 0xFF & ~0x1  # of chattr(1), what means something to ext3; i_flags of a file that is replaced


class Writer(Names):
    """An image being written. `finish` makes the changes; leaving the context without it drops them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what was not finished."""
        self._volume.close()

    @property
    def bytes_written(self) -> int:
        """Bytes written into the image so far."""
        return self._volume.written

    def finish(self) -> None:
        """Make all changes, on disk when this returns. Raises OSError; then roll back."""
        for number in list(self._directories):
            self.close_directory(number)
        self._volume.finish()

    # Making

    def mkdir(self, parent: int, name: bytes, attributes: Attributes) -> int:
        """Make a directory; returns its inode."""
        above = self.directory(parent)
        if above.links >= _LINK_MAX:
            raise OSError(errno.EMLINK, "more directories in one directory than ext3 can hold", name)
        number = self._make(parent, name, attributes, NOTHING, links=2)
        above.links += 1
        above.changed = True
        below = self._directories[number] = Directory(number, parent, 2, typed=self._typed)
        below.changed = True
        return number

    def create(
        self, parent: int, name: bytes, fd: int, attributes: Attributes, found: os.stat_result | None = None
    ) -> int:
        """Make a regular file with the contents of the one open at ``fd``; ``found``: its fstat, if known."""
        body = ext_data.store(self._volume, fd, found or os.fstat(fd))
        return self._make(parent, name, attributes, body)

    def create_from(self, parent: int, name: bytes, store: Callable[[Volume], Body], attributes: Attributes) -> int:
        """Make a regular file whose contents ``store`` writes (with `overlay.extwrite.data`)."""
        return self._make(parent, name, attributes, store(self._volume))

    def symlink(self, parent: int, name: bytes, target: bytes, attributes: Attributes) -> int:
        """Make a symbolic link. Raises OSError(ENAMETOOLONG) for a target longer than a block."""
        if len(target) >= self.superblock.block_size:
            raise OSError(errno.ENAMETOOLONG, "the target of the link is longer than a block of the image", name)
        if len(target) < _FAST_LINK:
            body = Body(len(target), 0, target.ljust(60, b"\0"))
        else:
            body = ext_data.store_bytes(self._volume, target)
        return self._make(parent, name, attributes, body)

    def mknod(self, parent: int, name: bytes, device: int, attributes: Attributes) -> int:
        """Make a device, a fifo or a socket, whatever ``attributes.mode`` says."""
        special = stat.S_ISCHR(attributes.mode) or stat.S_ISBLK(attributes.mode)
        body = NOTHING._replace(block=ext_inode.device(device)) if special else NOTHING
        return self._make(parent, name, attributes, body)

    def link(self, parent: int, name: bytes, number: int) -> None:
        """Give an inode that is no directory one more name."""
        inode = self.inode(number)
        if inode.links >= _LINK_MAX:
            raise OSError(errno.EMLINK, "more links to one file than ext3 can hold", name)
        self._name(parent, name, number, inode.mode)
        view = self._volume.inode(number)
        ext_inode.set_links(view, inode.links + 1)

    def _make(self, parent: int, name: bytes, attributes: Attributes, body: Body, *, links: int = 1) -> int:
        number = self._volume.take_inode(directory=links == 2)
        self._name(parent, name, number, attributes.mode)
        self._write(number, attributes, body, links=links, flags=0)
        self._volume.relieve()
        return number

    def _name(self, parent: int, name: bytes, number: int, mode: int) -> None:
        if not 0 < len(name) <= _NAME_MAX or b"/" in name or b"\0" in name or name in (b".", b".."):
            raise OSError(errno.EINVAL, "no name for a file in ext3", name)
        self.directory(parent).add(name, number, kind_of(mode))

    def _write(self, number: int, attributes: Attributes, body: Body, *, links: int, flags: int) -> None:
        """Write an inode whole."""
        inside, outside, acl_block = b"", b"", 0
        if attributes.xattrs:
            inside, outside = ext_xattr.encode(attributes.xattrs, self._room, self.superblock.block_size)
            self._volume.need_attributes()
        if outside:
            acl_block = self._volume.take(1)[0]
            self._volume.fill(acl_block, outside)
            body = body._replace(sectors=body.sectors + self._sectors)
        block, at = self._volume.inode_at(number)
        ext_inode.pack(
            block, at, self.superblock.inode_size, attributes, body,
            links=links, flags=flags, acl_block=acl_block, inside=inside, created=self._now & 0xFFFFFFFF,
        )  # fmt: skip

    # Changing

    def rewrite(self, number: int, fd: int, attributes: Attributes, found: os.stat_result | None = None) -> None:
        """Give a regular file other contents and attributes: all its names show them."""
        inode = self.inode(number)
        if not inode.is_file:
            raise ExtError(f"inode {number} is not a regular file")
        body = ext_data.store(self._volume, fd, found or os.fstat(fd))
        self._free_contents(inode)
        self._write(number, attributes, body, links=inode.links, flags=inode.flags & _KEPT_FLAGS)
        self._volume.relieve()

    def holds(self, number: int, fd: int, found: os.stat_result) -> bool:
        """Whether a regular file certainly has the contents of the one open at ``fd``; ``found``: its fstat.

        Looked at only where size and time of change agree, to the second: fuse2fs shows no fractions, so what was
        copied up through it has none.
        """
        inode = self.inode(number)
        second = ext_inode.SECOND
        if inode.size != found.st_size or inode.mtime_ns // second != found.st_mtime_ns // second:
            return False
        runs = [run for run in self._blocks(inode) if run[0] >= 0]
        return ext_data.same(self._volume, runs, fd, inode.size)

    def set_attributes(self, number: int, attributes: Attributes) -> None:
        """Give an inode other owner, permissions, times and extended attributes (all of them), and no other type."""
        inode = self.inode(number)
        if stat.S_IFMT(inode.mode) != stat.S_IFMT(attributes.mode):
            raise ValueError(f"inode {number} cannot become a file of another type")
        sectors = inode.sectors - self._drop_acl_block(inode)
        body = Body(inode.size, sectors, inode.block)
        self._write(number, attributes, body, links=inode.links, flags=inode.flags)
        self._volume.relieve()

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name; of a directory, with everything in it. The last name takes the inode with it."""
        above = self.directory(parent)
        number = above.find(name)
        if not number:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        inode = self.inode(number)
        above.remove(name)
        if inode.is_directory:
            above.links -= 1
            self._remove_tree(number)
        else:
            self._drop_link(inode)

    def _remove_tree(self, top: int) -> None:
        waiting, seen = [top], {top}
        while waiting:
            number = waiting.pop()
            # In the order in which inodes lie on disk: an indexed directory has its names in that of hashes, and
            # a million of them would touch each block of inodes again and again.
            for below in sorted(below for _, below, _ in self.directory(number)):
                inode = self.inode(below)
                if not inode.is_directory:
                    self._drop_link(inode)
                elif below in seen:
                    raise ExtError(f"inode {below}: a directory in two places")
                else:
                    seen.add(below)
                    waiting.append(below)
            del self._directories[number]
            self._bury(self.inode(number))

    def clear_directory(self, number: int) -> None:
        """Remove everything in a directory."""
        for name, _, _ in list(self.directory(number)):
            self.unlink(number, name)

    def _drop_link(self, inode: Inode) -> None:
        if inode.links > 1:
            view = self._volume.inode(inode.number)
            ext_inode.set_links(view, inode.links - 1)
            ext_inode.set_ctime(view, self._now)
        else:
            self._bury(inode)
        self._volume.relieve()

    def _bury(self, inode: Inode) -> None:
        self._free_contents(inode)
        ext_inode.bury(self._volume.inode(inode.number), self._now)
        self._volume.free_inode(inode.number, directory=inode.is_directory)

    def _free_contents(self, inode: Inode) -> None:
        for _, physical, length in self._blocks(inode):
            self._volume.free(physical, length)
        self._drop_acl_block(inode)

    def _drop_acl_block(self, inode: Inode) -> int:
        """Give up its block of extended attributes, which several inodes may share; returns its sectors."""
        block = inode.acl_block
        if not block:
            return 0
        (count,) = struct.unpack_from("<I", self._volume.read(block), 4)
        if count > 1:
            struct.pack_into("<I", self._volume.change(block), 4, count - 1)
        else:
            self._volume.free(block, 1)
        return self._sectors

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        """Move a name to where none is. A directory must not be moved below itself."""
        above, target = self.directory(parent), self.directory(new_parent)
        number = above.find(name)
        inode = self.inode(number)
        if inode.is_directory and parent != new_parent:
            if target.links >= _LINK_MAX:
                raise OSError(errno.EMLINK, "more directories in one directory than ext3 can hold", new_name)
            below = self.directory(number)
            below.parent, below.changed = new_parent, True
            above.links -= 1
            target.links += 1
        self._name(new_parent, new_name, number, inode.mode)
        above.remove(name)


def unchanged(inode: Inode, xattrs: Mapping[bytes, bytes]) -> Attributes:
    """The attributes of an inode as they are, to `_replace` some of them."""
    return Attributes(inode.mode, inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns, inode.ctime_ns, xattrs)
