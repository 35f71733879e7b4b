"""Directories of ext2/3 as they are written: lists of names, and the blocks they are laid out in.

A directory that changes is laid out anew as a whole: linear when it is small or the image has no dir_index, else
sorted by hash under an index, as `e2fsck -D` does it (the kernel's Documentation/filesystems/ext4/directory.rst).
Rejected: ext2fs_link, which looks for room from the first block on for every name (quadratic), and drops the
index of a directory that had one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from overlay.records import TYPE_CHECKING
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from typing import Final

_HEAD: Final = struct.Struct("<IHBB")
DIRECTORY_KIND: Final = 2
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")  # by what the length of a name leaves, divided by 4
_KINDS: Final = {0o100000: 1, 0o040000: 2, 0o020000: 3, 0o060000: 4, 0o010000: 5, 0o140000: 6, 0o120000: 7}

_INDEX_LEVELS: Final = 2
_LINEAR_BLOCKS: Final = 1  # the kernel, too, indexes a directory once it needs a second block


def kind_of(mode: int) -> int:
    """The file type of a directory entry, for an inode of this mode."""
    return _KINDS[mode & 0o170000]


class Directory:
    """The names in a directory but ``.`` and ``..``.

    Entries are kept as they will be written, back to back; an index by name is made when first asked for, so that
    a directory that only grows costs no more than its bytes. ``links``: its link count.
    """

    __slots__ = ("_at", "_records", "_typed", "changed", "links", "number", "parent")  # there may be many

    def __init__(self, number: int, parent: int, links: int, *, typed: bool) -> None:
        """``typed``: entries carry file types (the feature filetype)."""
        self.number = number
        self.parent = parent
        self.links = links
        self.changed = False
        self._typed = typed
        self._records = bytearray()
        self._at: dict[bytes, int] | None = None

    def load(self, block: bytes | bytearray) -> None:
        """Take over the entries of a block of the directory. Raises ExtError."""
        at, end = 0, len(block)
        while at + 8 <= end:
            number, length, size, kind = _HEAD.unpack_from(block, at)
            if length in (0, 65535) and end == 65536:
                length = end - at
            if not self._typed:
                size, kind = size | kind << 8, 0
            if length < 8 or length % 4 or at + length > end or (number and size + 8 > length):
                raise ExtError(f"inode {self.number}: damaged directory")
            if number:
                name = bytes(block[at + 8 : at + 8 + size])
                if name == b"..":
                    self.parent = number
                elif name != b".":
                    self._append(name, number, kind)
            at += length

    def _append(self, name: bytes, number: int, kind: int) -> None:
        if self._at is not None:
            self._at[name] = len(self._records)
        size = len(name)
        # (8 + size) rounded up to 4; 255 names fit a byte, so untyped entries need no high byte
        head = _HEAD.pack(number, size + 11 & ~3, size, kind if self._typed else 0)
        self._records += head + name + _PADDING[size & 3]

    def _index(self) -> dict[bytes, int]:
        if self._at is None:
            self._at = {name: at for at, name, _, _ in self._entries()}
        return self._at

    def _entries(self) -> Iterator[tuple[int, bytes, int, int]]:
        records, at = self._records, 0
        while at < len(records):
            number, length, size, kind = _HEAD.unpack_from(records, at)
            if number:
                yield at, bytes(records[at + 8 : at + 8 + size]), number, kind
            at += length

    def __iter__(self) -> Iterator[tuple[bytes, int, int]]:
        """(name, inode, file type) of each entry; type 0 where the image has none."""
        for _, name, number, kind in self._entries():
            yield name, number, kind

    def find(self, name: bytes) -> int:
        """The inode of ``name``, 0 when there is none."""
        at = self._index().get(name)
        return 0 if at is None else int.from_bytes(self._records[at : at + 4], "little")

    def add(self, name: bytes, number: int, kind: int) -> None:
        """Add a name, which must not be there."""
        self._append(name, number, kind)
        self.changed = True

    def remove(self, name: bytes) -> None:
        """Remove a name, which must be there."""
        at = self._index().pop(name)
        self._records[at : at + 4] = bytes(4)
        self.changed = True

    def replace(self, name: bytes, number: int, kind: int) -> None:
        """Let ``name``, which must be there, stand for another inode."""
        at = self._index()[name]
        self._records[at : at + 4] = number.to_bytes(4, "little")
        self._records[at + 7] = kind if self._typed else 0
        self.changed = True

    # Laying out

    def _dots(self, block_size: int, length: int) -> bytes:
        """``.`` and ``..``, the second one up to byte ``length`` of the block."""
        kind = DIRECTORY_KIND if self._typed else 0
        second = _HEAD.pack(self.parent, length - 12, 2, kind) + b"..\0\0"
        return _HEAD.pack(self.number, 12, 1, kind) + b".\0\0\0" + second

    def linear(self, block_size: int) -> list[bytes]:
        """Its blocks, without an index."""
        return self._fill(self._dots(block_size, 24), self._spans(), block_size, block_size)

    def _spans(self) -> list[tuple[int, int]]:
        """Where each entry lies in the records: (start, end)."""
        records, spans, at = self._records, [], 0
        while at < len(records):
            end = at + records[at + 4] + (records[at + 5] << 8)
            if records[at] or records[at + 1] or records[at + 2] or records[at + 3]:
                spans.append((at, end))
            at = end
        return spans

    def _fill(self, head: bytes, spans: list[tuple[int, int]], block_size: int, most: int) -> list[bytes]:
        """Entries into blocks, of each at most ``most`` bytes; the last entry of a block spans what is left."""
        filled, block, last = [], bytearray(head), 12 if head else 0
        for start, end in spans:
            if block and len(block) + end - start > most:
                filled.append(_closed(block, last, block_size))
                block = bytearray()
            last = len(block)
            block += self._records[start:end]
        if not block:
            block, last = bytearray(8), 0
        filled.append(_closed(block, last, block_size))
        return filled

    def indexed(self, block_size: int, version: int, hash_of: Callable[[bytes], int]) -> list[bytes] | None:
        """Its blocks under an index, or None: it is too small to need one, or too large for two levels."""
        self._at = None  # it may be large, and is not needed any more
        spans = self._spans()
        # What is left counts, not what once was there: a directory may have lost all of its names.
        if sum(end - start for start, end in spans) <= _LINEAR_BLOCKS * block_size - 24:
            return None
        records = self._records
        # One number for hash and place: sorted as numbers, and no tuple for each of a million names.
        order = [hash_of(bytes(records[at + 8 : at + 8 + records[at + 6]])) << 32 | at for at, _ in spans]
        del spans
        order.sort()
        leaves, hashes = self._leaves(order, block_size)
        per_node = (block_size - 8) // 8
        if len(leaves) > (block_size - 32) // 8 * per_node:
            return None
        return self._under_index(leaves, hashes, block_size, version, per_node)

    def _leaves(self, order: list[int], block_size: int) -> tuple[list[bytes], list[int]]:
        """Leaf blocks in the order of hashes, and the hash from which each is responsible.

        A sixteenth is left free, so that the first name to come does not split a block. Where names of one hash
        go on in the next block, its hash is odd (real ones are even).
        """
        most = block_size - block_size // 16
        leaves, hashes = [], [0]
        block, last, before = bytearray(), 0, -1
        records = self._records
        for entry in order:
            digest, start = entry >> 32, entry & 0xFFFFFFFF
            length = records[start + 4] + (records[start + 5] << 8)
            if block and len(block) + length > most:
                leaves.append(_closed(block, last, block_size))
                hashes.append(digest | (digest == before))
                block = bytearray()
            last = len(block)
            block += records[start : start + length]
            before = digest
        leaves.append(_closed(block, last, block_size))
        return leaves, hashes

    def _under_index(
        self, leaves: list[bytes], hashes: list[int], block_size: int, version: int, per_node: int
    ) -> list[bytes]:
        """The root, then leaves, then (with two levels) the nodes between."""
        in_root = (block_size - 32) // 8
        entries = [(digest, 1 + index) for index, digest in enumerate(hashes)]
        nodes: list[bytes] = []
        if len(entries) > in_root:
            empty = _HEAD.pack(0, block_size if block_size < 65536 else 65535, 0, 0)
            above = []
            for at in range(0, len(entries), per_node):
                above.append((entries[at][0], 1 + len(leaves) + len(nodes)))
                nodes.append((empty + _table(entries[at : at + per_node], per_node)).ljust(block_size, b"\0"))
            entries = above
        info = struct.pack("<IBBBB", 0, version, 8, 1 if nodes else 0, 0)
        root = self._dots(block_size, block_size) + info + _table(entries, in_root)
        return [root.ljust(block_size, b"\0"), *leaves, *nodes]


def _table(entries: list[tuple[int, int]], limit: int) -> bytes:
    """An index: room and count in the place of the first hash."""
    first = struct.pack("<HHI", limit, len(entries), entries[0][1])
    return first + b"".join(struct.pack("<II", *entry) for entry in entries[1:])


def _closed(block: bytearray, last: int, block_size: int) -> bytes:
    length = block_size - last
    block[last + 4 : last + 6] = (length if length < 65536 else 65535).to_bytes(2, "little")
    return bytes(block.ljust(block_size, b"\0"))
