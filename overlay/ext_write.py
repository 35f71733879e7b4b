"""Writes into ext2 and ext3 images in place, without mounting, root or FUSE: all of it happens, or none.

    with Writer(section, undo) as writer:
        upper = writer.lookup(writer.root, b"upper")
        writer.mkdir(upper, b"bin", attributes)
        writer.finish()

The image must be clean and locked by the caller. Nothing of its present tree is changed before `finish`; if that
is killed half way, `overlay.rollback` brings the old tree back. Names are bytes; inodes are named by number.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Final, Self

from overlay import ext_data, ext_inode, ext_map, ext_xattr, extread_inode
from overlay.ext_directory import Directory, kind_of
from overlay.ext_inode import FLAG_INDEX, NOTHING, Attributes, Body
from overlay.ext_volume import Volume
from overlay.extread_inode import Inode
from overlay.section import Section
from overlay.superblock import ExtError, Superblock

_FAST_LINK: Final = 60
_LINK_MAX: Final = 65000  # EXT2_LINK_MAX of libext2fs; the kernel's EXT4_LINK_MAX
_NAME_MAX: Final = 255
_DIR_INDEX: Final = 0x20
_FILETYPE: Final = 0x2
_UNSIGNED_HASH: Final = 0x2
_KEPT_FLAGS: Final = 0xFF & ~0x1  # of chattr(1), what means something to ext3; i_flags of a file that is replaced
_WRITABLE_INCOMPAT: Final = 0x2 | 0x10
_WRITABLE_RO: Final = 0x1 | 0x2 | 0x4
_NO_COMPAT: Final = 0x200 | 0x400 | 0x1000  # sparse_super2, fast_commit, orphan_file


def refusal(sb: Superblock) -> str:
    """Why `Writer` does not write into a file system like this; empty when it does."""
    strange = sb._replace(
        compat=sb.compat & _NO_COMPAT,
        incompat=sb.incompat & ~_WRITABLE_INCOMPAT,
        ro_compat=sb.ro_compat & ~_WRITABLE_RO,
    )
    if sb.needs_recovery:
        return "its journal holds writes to replay"
    if strange.features:
        return f"it has features that ext3 lacks: {', '.join(strange.features)}"
    return "" if sb.clean else "it was not left clean"


class Writer:
    """An image being written. `finish` makes the changes; leaving the context without it drops them."""

    root: Final = extread_inode.ROOT

    def __init__(self, section: Section, undo: str | None) -> None:
        """``undo``: where to keep the undo log, None for an image that nobody needs back.

        Raises OSError, ExtError (an image that is not written here: `refusal` says why), Failure.
        """
        self._volume = Volume(section, undo)
        try:
            sb = self.superblock = self._volume.superblock
            why = refusal(sb)
            if why:
                raise ExtError(f"{section.describe()}: {why}")
        except BaseException:
            self._volume.close()
            raise
        self._now = int(time.time())
        self._directories: dict[int, Directory] = {}
        self._typed = bool(sb.incompat & _FILETYPE)
        self._room = ext_inode.room(sb.inode_size)
        self._sectors = sb.block_size // 512
        self._index: tuple[int, Callable[[bytes], int]] | None = None
        if sb.compat & _DIR_INDEX:
            raw = self._volume.raw_superblock
            version = raw[252] if raw[252] < 3 else 1
            unsigned = 3 if raw[352] & _UNSIGNED_HASH else 0
            self._index = version, self._volume.hasher(version + unsigned, raw[236:252])

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

    # Looking

    def inode(self, number: int) -> Inode:
        """The inode ``number`` as it is now; of a directory that is being changed, size and blocks are old."""
        return extread_inode.parse(number, self._volume.peek_inode(number))

    def directory(self, number: int) -> Directory:
        """The names in a directory. Kept until `close_directory`."""
        found = self._directories.get(number)
        if found is None:
            inode = self.inode(number)
            if not inode.is_directory:
                raise ExtError(f"inode {number} is not a directory")
            found = Directory(number, number, inode.links, typed=self._typed)
            for logical, physical, length in self._blocks(inode):
                for block in range(physical, physical + length):
                    if logical >= 0:
                        found.load(self._volume.read(block))
            self._directories[number] = found
        return found

    def lookup(self, parent: int, name: bytes) -> int:
        """The inode of ``name`` in a directory; 0 when there is none."""
        return self.directory(parent).find(name)

    def resolve(self, path: bytes) -> int:
        """The inode at ``path`` from the root, symbolic links not followed; 0 when there is none."""
        number = self.root
        for name in path.split(b"/"):
            if name not in (b"", b"."):
                number = self.lookup(number, name) if self.inode(number).is_directory else 0
                if not number:
                    return 0
        return number

    def xattrs(self, number: int) -> dict[bytes, bytes]:
        """The extended attributes of an inode as it is now."""
        from overlay import extread_xattr

        inode = self.inode(number)
        found = dict(extread_xattr.in_inode(number, inode.extra, _no_value))
        if inode.acl_block:
            found.update(extread_xattr.in_block(number, bytes(self._volume.read(inode.acl_block)), _no_value))
        return found

    def _blocks(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        has_blocks = inode.is_file or inode.is_directory or (inode.is_symlink and self._is_slow(inode))
        if not has_blocks:
            return iter(())
        sb = self.superblock
        return ext_map.blocks(inode.block, sb.block_size, sb.blocks, self._volume.read)

    def _is_slow(self, inode: Inode) -> bool:
        return inode.sectors > (self._sectors if inode.acl_block else 0)

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
        ext_inode.pack(
            self._volume.inode(number), attributes, body, links=links, flags=flags, generation=self._now & 0xFFFFFFFF,
            acl_block=acl_block, inside=inside, created=self._now,
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
            for _, below, _ in self.directory(number):
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

    # Directories

    def close_directory(self, number: int) -> None:
        """Lay out a directory that has changed; it is read again when it is asked for."""
        directory = self._directories.pop(number, None)
        if directory is None or not directory.changed:
            return
        sb, volume = self.superblock, self._volume
        blocks, flags = None, 0
        if self._index is not None:
            blocks = directory.indexed(sb.block_size, *self._index)
            flags = FLAG_INDEX if blocks else 0
        contents = blocks or directory.linear(sb.block_size)
        inode = self.inode(number)
        present = list(self._blocks(inode))
        places = [block for at, first, length in present if at >= 0 for block in range(first, first + length)]
        for block, data in zip(places, contents, strict=False):
            volume.put(block, data)
        body = Body(len(contents) * sb.block_size, inode.sectors, inode.block)
        if len(contents) != len(places):
            body = self._remap(inode, places, contents, [first for at, first, _ in present if at < 0])
        view = volume.inode(number)
        ext_inode.set_body(view, body, inode.flags & ~FLAG_INDEX | flags)
        ext_inode.set_links(view, directory.links)
        volume.relieve()

    def _remap(self, inode: Inode, places: list[int], contents: list[bytes], indirect: list[int]) -> Body:
        """More or fewer blocks: new ones are written at once, the map is made anew."""
        volume, block_size = self._volume, self.superblock.block_size
        kept = places[: len(contents)]
        for block in (*places[len(contents) :], *indirect):
            volume.free(block, 1)
        at = len(kept)
        for physical, length in volume.take_all(len(contents) - at):
            for data in contents[at : at + length]:
                volume.fill(physical + len(kept) - at, data)
                kept.append(physical + len(kept) - at)
            at += length
        runs = [(logical, physical, 1) for logical, physical in enumerate(kept)]
        pointers, took = ext_map.build(runs, block_size, lambda: volume.take(1)[0], volume.fill)
        sectors = (len(kept) + took) * self._sectors + (self._sectors if inode.acl_block else 0)
        return Body(len(contents) * block_size, sectors, pointers)


def _no_value(number: int, size: int) -> bytes:
    raise ExtError(f"inode {number}: an extended attribute in an inode of its own")


def unchanged(inode: Inode, xattrs: Mapping[bytes, bytes]) -> Attributes:
    """The attributes of an inode as they are, to `_replace` some of them."""
    return Attributes(inode.mode, inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns, inode.ctime_ns, xattrs)
