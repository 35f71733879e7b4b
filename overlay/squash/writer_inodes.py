"""The inodes and listings of a squashfs being written (`overlay.squash.writer`), and the order in which that is done.

A directory's files are read when it is entered; their inodes are written when it is left, after all that lies
below it, for only then is it known where their contents lie. So what is held in memory are the directories that
lead to where the writer is, and the packed tables.
"""

from __future__ import annotations

import os
import stat
import struct
from array import array
from collections import deque
from typing import Final

from overlay.squash.writer_data import Contents, DataWriter, Pack
from overlay.squash.writer_meta import BLOCK, NO_ATTRIBUTES, Attributes, MetadataWriter, can_keep
from overlay.tree.loss import Report
from overlay.tree.view import Entry, Tree, pieces

BLOCK_SIZE: Final = 128 << 10  # mksquashfs's; what squashfuse and the kernel unpack to read one byte
_TYPES: Final = {
    stat.S_IFDIR: 1, stat.S_IFREG: 2, stat.S_IFLNK: 3, stat.S_IFBLK: 4, stat.S_IFCHR: 5, stat.S_IFIFO: 6,
    stat.S_IFSOCK: 7,
}  # fmt: skip
_DIRECTORY, _FILE, _LINK, _BLOCK_DEVICE, _CHARACTER_DEVICE = 1, 2, 3, 4, 5
_LARGE: Final = 7  # added to the type of an inode that says more
_LATEST: Final = 2**32 - 1
_MOST_OWNERS: Final = 65535
_RUN: Final = 256  # entries under one header of a listing
_SECOND: Final = 10**9
_LATE: Final = 8  # directories that are complete but for what the threads have at hand


class _Open:
    """A directory that was entered and not left yet. ``next`` is its next child to be looked at for entering."""

    __slots__ = (
        "above", "attributes", "contents", "entries", "entry", "next", "number", "numbers", "path", "places", "slot",
    )  # fmt: skip

    def __init__(self, entry: Entry, number: int, above: _Open | None, slot: int, attributes: int) -> None:
        self.entry = entry
        self.number = number
        self.above = above
        self.slot = slot  # which child of ``above`` it is
        self.path: bytes = _join(above.path, entry.name) if above else b""
        self.attributes = attributes
        self.entries: list[Entry] = []
        self.numbers = array("I")
        self.places = array("Q")
        self.contents: dict[int, Contents] = {}  # by child
        self.next = 0


class _Name:
    """A file with several names: its one inode."""

    __slots__ = ("contents", "number", "place")

    def __init__(self, number: int) -> None:
        self.number = number
        self.contents: Contents | None = None
        self.place = -1


class InodeWriter:
    """Writes the inodes and listings of ``tree``, and its contents to ``data``; see `overlay.squash.writer`."""

    def __init__(self, tree: Tree, data: DataWriter, pack: Pack, report: Report, latest: int) -> None:
        self._tree = tree
        self._data = data
        self._report = report
        self._latest = latest
        self.inodes = MetadataWriter(pack)
        self.listings = MetadataWriter(pack)
        self.attributes = Attributes(pack)
        self.owners: dict[int, int] = {}
        self.places = array("Q")  # of every inode, by number
        self._names: dict[int, _Name] = {}
        self._path: list[bytes] = []

    def run(self) -> int:
        """Write everything below the tree's top; where the top's inode lies."""
        waiting = [self._enter(self._tree.top, self._number(), None, 0)]
        # A few directories are left late, in order, so that the threads have work while we write inodes.
        leaving: deque[_Open] = deque()
        place = 0
        while waiting:
            here = waiting[-1]
            below = self._next_directory(here)
            if below is not None:
                waiting.append(self._enter(here.entries[below], here.numbers[below], here, below))
                continue
            leaving.append(waiting.pop())
            if len(leaving) > _LATE:
                self._leave(leaving.popleft())
        for here in leaving:
            place = self._leave(here)
        return place

    def _number(self) -> int:
        self.places.append(0)
        return len(self.places)

    @staticmethod
    def _next_directory(here: _Open) -> int | None:
        for slot in range(here.next, len(here.entries)):
            if here.entries[slot].is_directory:
                here.next = slot + 1
                return slot
        here.next = len(here.entries)
        return None

    def _enter(self, entry: Entry, number: int, above: _Open | None, slot: int) -> _Open:
        here = _Open(entry, number, above, slot, NO_ATTRIBUTES)
        here.attributes = self._attributes(entry, here.path)
        here.entries = self._tree.listdir(entry)
        here.places = array("Q", bytes(8 * len(here.entries)))
        for at, child in enumerate(here.entries):
            if child.links > 1 and not child.is_directory:
                named = self._names.get(child.inode)
                if named is None:
                    named = self._names[child.inode] = _Name(self._number())
                    named.contents = self._read(child)
                here.numbers.append(named.number)
                continue
            here.numbers.append(self._number())
            if child.size and child.is_file:
                here.contents[at] = self._read(child)
        return here

    def _read(self, entry: Entry) -> Contents:
        if not entry.is_file or not entry.size:
            return Contents(0)
        if entry.size >= BLOCK_SIZE:
            return self._data.large(entry.size, pieces(self._tree, entry))
        with self._tree.open(entry) as stream:
            data = stream.read(entry.size)
        if len(data) < entry.size:
            raise EOFError(f"{os.fsdecode(entry.name)} became shorter while it was read")
        return self._data.small(data)

    def _attributes(self, entry: Entry, path: bytes) -> int:
        found = self._tree.xattrs(entry)
        if not found:
            return NO_ATTRIBUTES
        for lost in found:
            if not can_keep(lost):
                self._report(path, f"attributes {os.fsdecode(lost)}, which a squashfs cannot have")
        return self.attributes.add(found)

    def _leave(self, here: _Open) -> int:
        for slot, child in enumerate(here.entries):
            if child.is_directory:
                continue
            if child.links > 1:
                named = self._names[child.inode]
                if named.place < 0:
                    named.place = self._inode(here, child, named.number, named.contents)
                here.places[slot] = named.place
            else:
                here.places[slot] = self._inode(here, child, here.numbers[slot], here.contents.get(slot))
        place = self._directory(here)
        if here.above is not None:
            here.above.places[here.slot] = place
        return place

    def _head(self, entry: Entry, kind: int, number: int) -> bytes:
        mtime = entry.mtime_ns // _SECOND
        return struct.pack(
            "<4H2I", kind, entry.mode & 0o7777, self._owner(entry.uid), self._owner(entry.gid),
            min(max(mtime, 0), self._latest), number,
        )  # fmt: skip

    def _owner(self, identity: int) -> int:
        index = self.owners.setdefault(identity, len(self.owners))
        if index >= _MOST_OWNERS:
            raise ValueError(f"more than {_MOST_OWNERS} different owners, which a squashfs cannot have")
        return index

    def _put(self, number: int, data: bytes) -> int:
        block, offset = self.inodes.where()
        self.inodes.write(data)
        place = block << 16 | offset
        self.places[number - 1] = place
        return place

    def _inode(self, here: _Open, entry: Entry, number: int, contents: Contents | None) -> int:
        path = _join(here.path, entry.name)
        kind = _TYPES[stat.S_IFMT(entry.mode)]
        if not 0 <= entry.mtime_ns // _SECOND <= _LATEST:
            self._report(path, "times before 1970 or after 2106, which a squashfs cannot have")
        attributes = self._attributes(entry, path)
        if kind == _FILE:
            body = self._file_body(entry, contents or Contents(0), attributes)
            large = len(body) > 16 + 4 * len((contents or Contents(0)).blocks)
        else:
            body = struct.pack("<I", entry.links)
            if kind == _LINK:
                target = self._tree.readlink(entry)
                body += struct.pack("<I", len(target)) + target
            elif kind in (_BLOCK_DEVICE, _CHARACTER_DEVICE):
                major, minor = os.major(entry.device), os.minor(entry.device)
                body += struct.pack("<I", minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)
            large = attributes != NO_ATTRIBUTES
            if large:
                body += struct.pack("<I", attributes)
        return self._put(number, self._head(entry, kind + _LARGE if large else kind, number) + body)

    def _file_body(self, entry: Entry, contents: Contents, attributes: int) -> bytes:
        if contents.blocks:
            self._data.settle(contents)
        start = max(contents.start, 0)
        large = (
            entry.links > 1 or attributes != NO_ATTRIBUTES or contents.holes or contents.size > _LATEST
            or start > _LATEST
        )  # fmt: skip
        if large:
            head = struct.pack(
                "<3Q4I", start, contents.size, min(contents.holes, max(contents.size - 1, 0)), entry.links,
                contents.fragment, contents.offset, attributes,
            )  # fmt: skip
        else:
            head = struct.pack("<4I", start, contents.fragment, contents.offset, contents.size)
        return head + contents.blocks.tobytes()

    def _directory(self, here: _Open) -> int:
        listing, runs = _listing(here)
        start = self.listings.where()
        index = bytearray()
        written = 0
        for at, name in runs:
            self.listings.write(listing[written:at])
            written = at
            index += struct.pack("<3I", at, self.listings.where()[0], len(name) - 1) + name
        self.listings.write(listing[written:])
        size = len(listing) + 3  # "." and "..", which are not stored
        # Of the top, nobody: one more than there are, as mksquashfs has it.
        parent = len(self.places) + 1 if here.above is None else here.above.number
        links = 2 + sum(1 for child in here.entries if child.is_directory)
        if here.attributes == NO_ATTRIBUTES and size <= 0xFFFF and not runs:
            body = struct.pack("<2I2HI", start[0], links, size, start[1], parent)
            return self._put(here.number, self._head(here.entry, _DIRECTORY, here.number) + body)
        body = struct.pack("<4I2HI", links, size, start[0], parent, len(runs), start[1], here.attributes)
        return self._put(here.number, self._head(here.entry, _DIRECTORY + _LARGE, here.number) + body + index)


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _listing(here: _Open) -> tuple[bytearray, list[tuple[int, bytes]]]:
    """The entries in runs, each with a header; and for look-ups, of every 8 KiB the run that begins there."""
    out = bytearray()
    index: list[tuple[int, bytes]] = []
    head, count, block, base, indexed_at = -1, 0, 0, 0, 0
    for entry, place, number in zip(here.entries, here.places, here.numbers, strict=True):
        name = entry.name
        far = head >= 0 and len(out) + 8 + len(name) - indexed_at > BLOCK
        if head < 0 or far or count == _RUN or place >> 16 != block or not -32768 <= number - base <= 32767:
            if head >= 0:
                struct.pack_into("<3I", out, head, count - 1, block, base)
            if far:
                indexed_at = len(out)
                index.append((indexed_at, name))
            head, count, block, base = len(out), 0, place >> 16, number
            out += bytes(12)
        out += struct.pack("<HhHH", place & 0xFFFF, number - base, _TYPES[stat.S_IFMT(entry.mode)], len(name) - 1)
        out += name
        count += 1
    if head >= 0:
        struct.pack_into("<3I", out, head, count - 1, block, base)
    return out, index
