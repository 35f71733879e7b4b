"""The inodes and directories of an ext2/3 image that is being written: how they are found, and how laid out again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from overlay.extread import inode as extread_inode
from overlay.extread import xattr as extread_xattr
from overlay.extread.inode import Inode
from overlay.extwrite import inode as ext_inode
from overlay.extwrite import map as ext_map
from overlay.extwrite.directory import Directory
from overlay.extwrite.fit import refusal
from overlay.extwrite.inode import FLAG_INDEX, Body
from overlay.extwrite.volume import Volume
from overlay.records import TYPE_CHECKING
from overlay.section import Section
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from typing import Final

_DIR_INDEX: Final = 0x20
_FILETYPE: Final = 0x2
_UNSIGNED_HASH: Final = 0x2
_HASH_VERSION_AT, _HASH_SEED_AT, _FLAGS_AT = 252, 236, 352  # in the superblock


class Names:
    """What `overlay.extwrite.writer.Writer` builds on. Inodes are named by number, names are bytes."""

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
            version = raw[_HASH_VERSION_AT] if raw[_HASH_VERSION_AT] < 3 else 1
            unsigned = 3 if raw[_FLAGS_AT] & _UNSIGNED_HASH else 0
            self._index = version, self._volume.hasher(version + unsigned, raw[_HASH_SEED_AT : _HASH_SEED_AT + 16])

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
        if inode.size != len(places) * sb.block_size:
            raise ExtError(f"inode {number}: a directory with holes")
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
