"""The tables of a squashfs being written: streams of metadata blocks, and the attributes of its inodes.

A metadata block is 8 KiB before compression. Tables with an index (fragments, exports, owners, attributes) are
blocks with the list of their places behind them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

from overlay.squash.writer_data import Pack

BLOCK: Final = 8192
_PLAIN: Final = 0x8000
NO_ATTRIBUTES: Final = 2**32 - 1
NOWHERE: Final = 2**64 - 1
_PREFIXES: Final = ((b"user.", 0), (b"trusted.", 1), (b"security.", 2))
_REMEMBERED: Final = 1 << 16  # lists of attributes that are stored once however many inodes have them


class MetadataWriter:
    """A stream of metadata, kept in memory packed until the data before it is all written."""

    def __init__(self, pack: Pack) -> None:
        self.blocks = bytearray()
        self._pack = pack
        self._held = bytearray()

    def where(self) -> tuple[int, int]:
        """Where the next byte comes to lie: the byte of its block in the table, and the byte in the block."""
        return len(self.blocks), len(self._held)

    def write(self, data: bytes | bytearray) -> None:
        self._held += data
        while len(self._held) >= BLOCK:
            self._end_block()

    def _end_block(self) -> None:
        plain = bytes(self._held[:BLOCK])
        del self._held[:BLOCK]
        packed = self._pack(plain)
        if len(packed) < len(plain):
            self.blocks += struct.pack("<H", len(packed)) + packed
        else:
            self.blocks += struct.pack("<H", len(plain) | _PLAIN) + plain

    def finish(self) -> bytearray:
        """All of it."""
        if self._held:
            self._end_block()
        return self.blocks


def indexed(entries: Iterable[bytes], at: int, pack: Pack) -> tuple[bytearray, int]:
    """A table of ``entries`` (each a divisor of 8 KiB) to lie at byte ``at``; where its index begins."""
    stream = MetadataWriter(pack)
    places = [at]
    for entry in entries:
        stream.write(entry)
        if at + len(stream.blocks) != places[-1]:
            places.append(at + len(stream.blocks))
    if not stream.where()[1]:
        places.pop()  # nothing followed the last whole block
    table = stream.finish()
    start = at + len(table)
    table += struct.pack(f"<{len(places)}Q", *places)
    return table, start


class Attributes:
    """Extended attributes: each list of them once."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._pairs = MetadataWriter(pack)
        self._lists = bytearray()
        self._count = 0
        self._known: dict[bytes, int] = {}

    def add(self, attributes: Mapping[bytes, bytes]) -> int:
        """The number of the list ``attributes``; names that squashfs cannot have are left out."""
        pairs = bytearray()
        count = size = 0
        for name in sorted(attributes):
            for prefix, kind in _PREFIXES:
                if name.startswith(prefix) and len(name) > len(prefix):
                    rest, value = name[len(prefix) :], attributes[name]
                    pairs += struct.pack("<2H", kind, len(rest)) + rest + struct.pack("<I", len(value)) + value
                    count, size = count + 1, size + len(name) + 1
        if not count:
            return NO_ATTRIBUTES
        key = bytes(pairs)
        number = self._known.get(key)
        if number is None:
            number = self._count
            if number < _REMEMBERED:
                self._known[key] = number
            block, offset = self._pairs.where()
            self._pairs.write(pairs)
            self._lists += struct.pack("<Q2I", block << 16 | offset, count, size)
            self._count += 1
        return number

    def table(self, at: int) -> tuple[bytes, int]:
        """All of it, to lie at byte ``at``, and where its header is: `NOWHERE` when there are none."""
        if not self._count:
            return b"", NOWHERE
        pairs = self._pairs.finish()
        each = (bytes(self._lists[place : place + 16]) for place in range(0, len(self._lists), 16))
        lists, index = indexed(each, at + len(pairs), self._pack)
        header_at = index - at - len(pairs)
        header = struct.pack("<Q2I", at, self._count, 0)
        return bytes(pairs + lists[:header_at] + header + lists[header_at:]), index


def can_keep(name: bytes) -> bool:
    """Whether squashfs can have an attribute of this name."""
    return name.startswith(tuple(prefix for prefix, _ in _PREFIXES))
