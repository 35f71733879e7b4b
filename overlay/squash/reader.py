"""Reads squashfs 4.0 in place, at an offset, without mounting, root or FUSE; owners, times and attributes too.

Our own, because what there is loses something: PySquashfsImage 0.9 reads no extended attributes (so no
opaque directories), decodes names as UTF-8, misreads LZ4 and holds the whole tree; `unsquashfs -lln` prints
no attributes, minutes for times, and newlines in names as they are. Format: the kernel's fs/squashfs.
Names are bytes. What is read is checked before it is followed: damage raises `SquashError`.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from overlay import superblock
from overlay.section import Section
from overlay.squash.reader_meta import Cursor, Metadata
from overlay.squash.unpack import SquashError as SquashError
from overlay.squash.unpack import Unpack, unpacker

_NONE: Final = 2**64 - 1
_NO_ATTRIBUTES = _NO_FRAGMENT = 2**32 - 1
_UNPACKED_DATA: Final = 1 << 24
_PREFIXES: Final = {0: b"user.", 1: b"trusted.", 2: b"security."}
_LARGEST_VALUE: Final = 65536
_MOST_ATTRIBUTES: Final = 65536
_TYPES: Final = (0, stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK)
_DIRECTORY, _FILE, _LINK, _BLOCK, _CHARACTER = 1, 2, 3, 4, 5
_KEPT: Final = 2  # unpacked data blocks or fragments, at most 1 MiB each


class Inode(NamedTuple):
    """``mtime`` counts seconds. ``data``: where contents lie: a directory's listing, or a file's blocks."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    links: int
    mtime: int
    device: tuple[int, int]
    target: bytes  # of a symbolic link
    attributes: int
    data: tuple[int, int]  # directory: block, offset; file: first byte, fragment
    fragment_offset: int
    blocks: tuple[int, ...]


class SquashReader:
    """An open squashfs. Use it as a context manager or `close` it."""

    def __init__(self, section: Section, zstd: Unpack | None = None) -> None:
        """Open ``section``; ``zstd`` unpacks a block of that compression. Raises OSError, SquashError."""
        self._fd = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(self._fd, 96, section.offset)
            try:
                self.facts = superblock.parse_squash(data)
            except ValueError as error:
                raise SquashError(str(error)) from None
            if self.facts.bytes_used > section.size:
                raise SquashError(f"truncated: it needs {self.facts.bytes_used} bytes, {section.size} are there")
            self._unpack = unpacker(self.facts.compression, zstd)
            self._meta = Metadata(self._fd, section.offset, self.facts.bytes_used, self._unpack)
            (self._fragments,) = struct.unpack_from("<I", data, 16)
            (self._ids,) = struct.unpack_from("<H", data, 26)
            (self.root, _, self._id_table, self._xattr_table, self._inodes, self._directories,
             self._fragment_table) = struct.unpack_from("<7Q", data, 32)  # fmt: skip
            self._id: dict[int, int] = {}
            self._kept: dict[int, bytes] = {}
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        os.close(self._fd)

    def inode(self, reference: int) -> Inode:
        """The inode at ``reference`` (`root`, or one that `listdir` gives)."""
        cursor = self._meta.cursor(self._inodes + (reference >> 16), reference & 0xFFFF)
        kind, mode, uid, gid, mtime, number = struct.unpack("<4H2I", cursor.take(16))
        basic, large = (kind - 7, True) if kind > 7 else (kind, False)
        if not _DIRECTORY <= basic < len(_TYPES):
            raise SquashError(f"inode {number}: unknown type {kind}")
        size, links, attributes, device, target = 0, 1, _NO_ATTRIBUTES, (0, 0), b""
        data, fragment_offset = (0, 0), 0
        blocks: tuple[int, ...] = ()
        if basic == _DIRECTORY and large:
            links, size, block, _, _, offset, attributes = struct.unpack("<4I2HI", cursor.take(24))
            data = (block, offset)
        elif basic == _DIRECTORY:
            block, links, size, offset, _ = struct.unpack("<2I2HI", cursor.take(16))
            data = (block, offset)
        elif basic == _FILE:
            if large:
                fields = struct.unpack("<3Q4I", cursor.take(40))
                start, size, _, links, fragment, fragment_offset, attributes = fields
            else:
                start, fragment, fragment_offset, size = struct.unpack("<4I", cursor.take(16))
            data = (start, fragment)
            blocks = self._blocks(cursor, number, size, fragment)
        else:
            (links,) = struct.unpack("<I", cursor.take(4))
            if basic == _LINK:
                (size,) = struct.unpack("<I", cursor.take(4))
                if size > _LARGEST_VALUE:
                    raise SquashError(f"inode {number}: a symbolic link of {size} bytes")
                target = cursor.take(size)
            elif basic in (_BLOCK, _CHARACTER):
                (raw,) = struct.unpack("<I", cursor.take(4))
                device = (raw >> 8 & 0xFFF, (raw & 0xFF) | (raw >> 12 & 0xFFF00))
            if large:
                (attributes,) = struct.unpack("<I", cursor.take(4))
        return Inode(
            number, _TYPES[basic] | mode & 0o7777, self._identity(uid), self._identity(gid), size, links, mtime,
            device, target, attributes, data, fragment_offset, blocks,
        )  # fmt: skip

    def _blocks(self, cursor: Cursor, number: int, size: int, fragment: int) -> tuple[int, ...]:
        count = size // self.facts.block_size if fragment != _NO_FRAGMENT else -(-size // self.facts.block_size)
        # A hole needs a word here too, so the image bounds what a file may claim. 8 KiB pack at most 1:1032.
        if 4 * count > 2048 * self.facts.bytes_used:
            raise SquashError(f"inode {number}: impossible size")
        return struct.unpack(f"<{count}I", cursor.take(4 * count)) if count else ()

    def _identity(self, index: int) -> int:
        if index not in self._id:
            if index >= self._ids:
                raise SquashError(f"there is no owner {index}")
            self._id[index] = int.from_bytes(self._meta.entry(self._id_table, index, 4), "little")
        return self._id[index]

    def listdir(self, inode: Inode) -> Iterator[tuple[bytes, int]]:
        """The names in a directory, each with the reference of its inode."""
        if not stat.S_ISDIR(inode.mode):
            raise SquashError(f"inode {inode.number} is not a directory")
        left = inode.size - 3  # "." and "..", which are not stored, count three bytes
        if left <= 0:
            return
        cursor = self._meta.cursor(self._directories + inode.data[0], inode.data[1])
        while left > 0:
            count, block, _ = struct.unpack("<3I", cursor.take(12))
            left -= 12
            for _ in range(count + 1):
                offset, _, _, length = struct.unpack("<4H", cursor.take(8))
                name = cursor.take(length + 1)
                left -= 9 + length
                if left < 0 or length > 255 or name in (b".", b"..") or b"/" in name or b"\0" in name:
                    raise SquashError(f"inode {inode.number}: damaged directory")
                yield name, block << 16 | offset

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """Extended attributes, full names."""
        if inode.attributes == _NO_ATTRIBUTES or self._xattr_table == _NONE:
            return {}
        start, known = struct.unpack("<QI4x", self._meta.read(self._xattr_table, 16))
        if inode.attributes >= known:
            raise SquashError(f"inode {inode.number}: there is no attribute list {inode.attributes}")
        reference, count, _ = struct.unpack("<Q2I", self._meta.entry(self._xattr_table + 16, inode.attributes, 16))
        if count > _MOST_ATTRIBUTES:
            raise SquashError(f"inode {inode.number}: {count} extended attributes")
        cursor = self._meta.cursor(start + (reference >> 16), reference & 0xFFFF)
        found = {}
        for _ in range(count):
            kind, length = struct.unpack("<2H", cursor.take(4))
            name = _PREFIXES.get(kind & 0xFF, b"unknown%d." % (kind & 0xFF)) + cursor.take(length)
            value = self._value(cursor)
            if kind & 0x100:  # it is kept elsewhere, once for all who have it
                (place,) = struct.unpack("<Q", value)
                value = self._value(self._meta.cursor(start + (place >> 16), place & 0xFFFF))
            found[name] = value
        return found

    def _value(self, cursor: Cursor) -> bytes:
        (length,) = struct.unpack("<I", cursor.take(4))
        if length > _LARGEST_VALUE:
            raise SquashError("an extended attribute that is too large")
        return cursor.take(length)

    def open(self, inode: Inode) -> io.BufferedIOBase:
        """The contents of a regular file; valid while the reader is open."""
        return io.BufferedReader(_File(self, inode), self.facts.block_size)

    def extents(self, inode: Inode) -> Iterator[tuple[int, int]]:
        """Where a regular file has data: (first byte, length), ascending, as whole blocks."""
        each, at = self.facts.block_size, 0
        start = -1
        for word in inode.blocks:
            if word & ~_UNPACKED_DATA and start < 0:
                start = at
            elif not word & ~_UNPACKED_DATA and start >= 0:
                yield start, at - start
                start = -1
            at += each
        if start < 0 and at < inode.size:
            start = at
        if start >= 0:
            yield start, inode.size - start

    def piece(self, inode: Inode, index: int, start: int) -> bytes:
        """Block ``index`` of a file, which lies at byte ``start``; behind the last block its share of a fragment."""
        each = self.facts.block_size
        length = min(each, inode.size - index * each)
        if index < len(inode.blocks):
            word = inode.blocks[index]
            data = self._data(start, word, length) if word & ~_UNPACKED_DATA else bytes(length)
        else:
            if inode.data[1] >= self._fragments:
                raise SquashError(f"inode {inode.number}: there is no fragment {inode.data[1]}")
            place, word, _ = struct.unpack("<Q2I", self._meta.entry(self._fragment_table, inode.data[1], 16))
            data = self._data(place, word, each)[inode.fragment_offset :][:length]
        if len(data) != length:
            raise SquashError(f"inode {inode.number}: its contents are damaged")
        return data

    def _data(self, place: int, word: int, most: int) -> bytes:
        found = self._kept.get(place)
        if found is None:
            length = word & ~_UNPACKED_DATA
            if length > self.facts.block_size:
                raise SquashError(f"byte {place}: an impossible data block")
            raw = self._meta.read(place, length)
            found = raw if word & _UNPACKED_DATA else self._unpack(raw, most)
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[place] = found
        return found


class _File(io.RawIOBase):
    """A file's contents, from the first byte to the last."""

    def __init__(self, reader: SquashReader, inode: Inode) -> None:
        self._reader = reader
        self._inode = inode
        self._index = 0
        self._start = inode.data[0]
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to byte ``offset``, counted from the start (SEEK_SET) or from where we are (SEEK_CUR)."""
        place = offset + (self.tell() if whence == os.SEEK_CUR else 0)
        if whence == os.SEEK_END or place < 0:
            raise ValueError("not a place in this file")
        self._index, into = divmod(place, self._reader.facts.block_size)
        self._start = self._inode.data[0] + sum(w & ~_UNPACKED_DATA for w in self._inode.blocks[: self._index])
        self._rest = memoryview(b"")
        if into:
            self._next()
            self._rest = self._rest[into:]
        return place

    def tell(self) -> int:
        return min(self._index * self._reader.facts.block_size, max(self._inode.size, 0)) - len(self._rest)

    def _next(self) -> None:
        """Unpack the block at hand."""
        inode, index = self._inode, self._index
        if index * self._reader.facts.block_size < inode.size:
            self._rest = memoryview(self._reader.piece(inode, index, self._start))
            if index < len(inode.blocks):
                self._start += inode.blocks[index] & ~_UNPACKED_DATA
            self._index += 1

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` from the block at hand."""
        if not self._rest:
            self._next()
        count = min(len(buffer), len(self._rest))
        memoryview(buffer).cast("B")[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
