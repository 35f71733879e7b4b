"""Reads ext2, ext3 and ext4 images in place, without mounting, root or FUSE.

Names are bytes. Everything read is checked against the image before it is followed: a damaged or hostile
image raises `ExtError`, which says where, and never hangs, recurses without end or allocates wildly.
An image that `needs_recovery` holds newer writes in its journal, which are not replayed here.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator

from overlay import superblock
from overlay.extread import inode as extread_inode
from overlay.extread import map as extread_map
from overlay.extread import xattr as extread_xattr
from overlay.extread.file import Extent, ExtFile
from overlay.extread.inode import Inode as Inode
from overlay.records import TYPE_CHECKING, QuickTuple
from overlay.section import Section
from overlay.superblock import ExtError as ExtError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final, Self

# filetype, recover, meta_bg, extent, 64bit, mmp, flex_bg, ea_inode, csum_seed, large_dir, inline_data, casefold
_READABLE: Final = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x20000
_FILETYPE, _META_BG, _SPARSE_SUPER2 = 0x2, 0x10, 0x200
_TABLE_CHUNK, _CHUNKS_KEPT = 65536, 16  # bytes of inode table read at once: neighbours are asked for next
_LONGEST_PATH, _LARGEST_DIRECTORY = 65536, 2**32
_INLINE_ROOM: Final = 60


class Entry(QuickTuple):
    """One name in a directory: ``kind`` is the dirent's file type (0 unknown, 1 file, 2 directory, ...)."""

    name: bytes
    inode: int
    kind: int


class ExtReader:
    """An open image. Use it as a context manager or `close` it."""

    def __init__(self, section: Section) -> None:
        """Open ``section`` for reading. Raises OSError; ExtError when it is no file system read here."""
        self.section = section
        self._fd = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
        self._chunks: dict[int, bytes] = {}
        self._tables: dict[int, int] = {}
        self._last: Inode | None = None
        try:
            self.superblock = superblock.read(self._fd, section.offset)
            self._check()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        """The descriptor of the image file, at which `extents` count."""
        return self._fd

    @property
    def needs_recovery(self) -> bool:
        return self.superblock.needs_recovery

    def _check(self) -> None:
        sb = self.superblock
        if sb.incompat & ~_READABLE:
            unknown = sb._replace(compat=0, ro_compat=0, incompat=sb.incompat & ~_READABLE)
            raise ExtError(f"features that cannot be read: {', '.join(unknown.features)}")
        if sb.size > self.section.size:
            raise ExtError(f"truncated: it needs {sb.size} bytes, {self.section.size} are there")

    def _read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset`` of the file system."""
        data = os.pread(self._fd, length, self.section.offset + offset)
        if len(data) != length:
            raise ExtError(f"the image ends before byte {offset + length}")
        return data

    def _block(self, number: int) -> bytes:
        if not 0 < number < self.superblock.blocks:
            raise ExtError(f"block {number} lies outside the file system")
        return self._read(number * self.superblock.block_size, self.superblock.block_size)

    # Inodes

    def inode(self, number: int) -> Inode:
        """Inode ``number``. Raises ExtError when there is no such number or it makes no sense."""
        if self._last is not None and self._last.number == number:  # asked for several times in a row
            return self._last
        sb = self.superblock
        if not 1 <= number <= sb.inodes:
            raise ExtError(f"there is no inode {number}")
        group, index = divmod(number - 1, sb.inodes_per_group)
        at = self.table(group) * sb.block_size + index * sb.inode_size
        chunk, into = divmod(at, _TABLE_CHUNK)
        data = self._chunks.get(chunk)
        if data is None:
            if len(self._chunks) >= _CHUNKS_KEPT:
                del self._chunks[next(iter(self._chunks))]
            length = min(_TABLE_CHUNK, sb.size - chunk * _TABLE_CHUNK)
            data = self._chunks[chunk] = self._read(chunk * _TABLE_CHUNK, length)
        self._last = extread_inode.parse(number, data[into : into + sb.inode_size])
        return self._last

    def table(self, group: int) -> int:
        """The first block of a group's inode table."""
        if group not in self._tables:
            sb = self.superblock
            at = self.descriptor_place(group)
            data = self._read(at, sb.descriptor_size)
            table = int.from_bytes(data[8:12], "little")
            if sb.descriptor_size >= 64:
                table |= int.from_bytes(data[40:44], "little") << 32
            length = -(-sb.inodes_per_group * sb.inode_size // sb.block_size)
            if table == 0 or table + length > sb.blocks:
                raise ExtError(f"group {group}: its inode table lies outside the file system")
            self._tables[group] = table
        return self._tables[group]

    def descriptor_place(self, group: int) -> int:
        """The byte at which the descriptor of ``group`` lies (Documentation: blockgroup.rst, meta_bg)."""
        sb = self.superblock
        each = sb.block_size // sb.descriptor_size
        meta, index = divmod(group, each)
        block = sb.first_data_block + 1 + meta
        if sb.incompat & _META_BG and meta >= sb.first_meta_bg:
            if sb.compat & _SPARSE_SUPER2:
                raise ExtError("meta_bg with sparse_super2 is not read here")
            first = meta * each
            block = sb.first_data_block + first * sb.blocks_per_group + _has_backup(sb, first)
        return block * sb.block_size + index * sb.descriptor_size

    # Contents

    def extents(self, inode: Inode) -> Iterator[Extent]:
        """Where the bytes of ``inode`` lie in the image file (`fileno`), in file order; the rest are holes."""
        sb = self.superblock
        if inode.flags & extread_inode.FLAG_ENCRYPTED:
            raise ExtError(f"inode {inode.number} is encrypted")
        for run in extread_map.runs(inode, sb.blocks, sb.block_size, self._block):
            start, length = run.logical * sb.block_size, run.length * sb.block_size
            place = self.section.offset + run.physical * sb.block_size
            yield Extent(start, place, min(length, inode.size - start))

    def open(self, inode: Inode) -> io.BufferedIOBase:
        """The contents of a regular file; valid while the reader is open."""
        if inode.flags & extread_inode.FLAG_INLINE:
            return io.BytesIO(self._inline(inode))
        return io.BufferedReader(ExtFile(self._fd, inode.size, list(self.extents(inode))))

    def read(self, inode: Inode, limit: int) -> bytes:
        """The contents of ``inode`` if they are at most ``limit`` bytes; ExtError when they are more."""
        if inode.size > limit:
            raise ExtError(f"inode {inode.number}: {inode.size} bytes where at most {limit} are expected")
        return self.open(inode).read()

    def _inline(self, inode: Inode) -> bytes:
        more = self.xattrs(inode, hidden=True).get(b"system.data", b"")
        return (inode.block + more)[: inode.size]

    def readlink(self, inode: Inode) -> bytes:
        """Where a symbolic link points."""
        if inode.flags & extread_inode.FLAG_ENCRYPTED:
            raise ExtError(f"inode {inode.number} is encrypted")
        attribute_sectors = self.superblock.block_size // 512 if inode.acl_block else 0
        if inode.size < _INLINE_ROOM and inode.sectors <= attribute_sectors:
            return inode.block[: inode.size]
        return self.read(inode, self.superblock.block_size)

    def xattrs(self, inode: Inode, *, hidden: bool = False) -> dict[bytes, bytes]:
        """Its extended attributes, full names; ``hidden`` adds ext4's own (``system.data``)."""
        found = dict(extread_xattr.in_inode(inode.number, inode.extra, self._attribute_inode))
        if inode.acl_block:
            block = self._block(inode.acl_block)
            found.update(extread_xattr.in_block(inode.number, block, self._attribute_inode))
        if not hidden:
            found.pop(b"system.data", None)
        return found

    def _attribute_inode(self, number: int, size: int) -> bytes:
        return self.read(self.inode(number), size)

    # Directories

    def listdir(self, inode: Inode) -> Iterator[Entry]:
        """The names in a directory but ``.`` and ``..``, in the order they are stored (hash trees as well)."""
        if not inode.is_directory:
            raise ExtError(f"inode {inode.number} is not a directory")
        for block in self.directory_blocks(inode):
            yield from self._entries(inode, block)

    def directory_blocks(self, inode: Inode) -> Iterator[bytes]:
        """The blocks that hold the names of a directory."""
        if inode.flags & extread_inode.FLAG_INLINE:
            # Four bytes for the parent instead of "." and "..", then entries; the rest in an attribute.
            yield inode.block[4:]
            yield self.xattrs(inode, hidden=True).get(b"system.data", b"")
            return
        if inode.size > _LARGEST_DIRECTORY:
            raise ExtError(f"inode {inode.number}: a directory of {inode.size} bytes")
        for extent in self.extents(inode):
            for at in range(0, extent.length, self.superblock.block_size):
                yield self._read(extent.place - self.section.offset + at, self.superblock.block_size)

    def _entries(self, inode: Inode, block: bytes) -> Iterator[Entry]:
        at, end = 0, len(block)
        typed = self.superblock.incompat & _FILETYPE
        while at + 8 <= end:
            number, length, name_length, kind = struct.unpack_from("<IHBB", block, at)
            if length in (0, 65535) and end == 65536:
                length = end - at  # 16 bits cannot say 64 KiB
            if not typed:
                name_length, kind = name_length | kind << 8, 0
            if length < 8 or length % 4 or at + length > end or (number and name_length + 8 > length):
                raise ExtError(f"inode {inode.number}: damaged directory")
            if number:
                name = block[at + 8 : at + 8 + name_length]
                if name not in (b".", b".."):
                    yield self._entry(inode, name, number, kind)
            at += length

    def _entry(self, inode: Inode, name: bytes, number: int, kind: int) -> Entry:
        # Such a name would lead an unpacker astray.
        if not name or len(name) > 255 or b"/" in name or b"\0" in name:
            raise ExtError(f"inode {inode.number}: impossible name {name[:40]!r} in a directory")
        if number > self.superblock.inodes:
            raise ExtError(f"inode {inode.number}: entry {name!r} has no inode")
        return Entry(name, number, kind)

    def lookup(self, path: bytes) -> Inode | None:
        """What is at ``path`` (from the root, symbolic links not followed), or None."""
        inode = self.inode(extread_inode.ROOT)
        for part in path.split(b"/"):
            if part in (b"", b"."):
                continue
            if not inode.is_directory:
                return None
            number = next((entry.inode for entry in self.listdir(inode) if entry.name == part), 0)
            if not number:
                return None
            inode = self.inode(number)
        return inode

    def walk(self, top: bytes = b"/") -> Iterator[tuple[bytes, Inode]]:
        """Everything below ``top`` with its path relative to it, parents first; `top` itself as ``b""``.

        Within a directory in the order of inodes, in which they lie on disk. Nothing when there is no ``top``.
        """
        first = self.lookup(top)
        if first is None:
            return
        yield b"", first
        waiting = [(b"", first)] if first.is_directory else []
        seen = {first.number}
        while waiting:
            path, directory = waiting.pop()
            below = []
            for entry in sorted(self.listdir(directory), key=lambda entry: entry.inode):
                inode = self.inode(entry.inode)
                name = path + b"/" + entry.name if path else entry.name
                if stat.S_IFMT(inode.mode) == 0:
                    raise ExtError(f"{name!r} leads to inode {inode.number}, which is unused")
                yield name, inode
                if inode.is_directory:
                    if inode.number in seen or len(name) > _LONGEST_PATH:
                        raise ExtError(f"{name[-200:]!r}: a directory loop, or a path without end")
                    seen.add(inode.number)
                    below.append((name, inode))
            waiting.extend(reversed(below))


def _has_backup(sb: superblock.Superblock, group: int) -> bool:
    """Whether a group begins with a copy of the superblock: 0, 1 and powers of 3, 5, 7 under sparse_super."""
    if group <= 1 or not sb.ro_compat & 0x1:
        return True
    for base in (3, 5, 7):
        power = base
        while power < group:
            power *= base
        if power == group:
            return True
    return False
