"""Blocks of an ext3 file system changed all at once or not at all, through its own journal.

The format is that of jbd2 (Documentation/filesystems/ext4/journal.rst), big endian: a descriptor block lists
where the blocks behind it belong, a commit block ends the transaction. While the journal's superblock says
that it starts nowhere, what lies in it means nothing; the one write that sets ``s_start`` is the moment of the
change. From then on the blocks are put in place by us or, if we are killed, by whoever uses the image next:
e2fsck, fuse2fs and the kernel all replay a journal before they look at anything else.

Rejected: an undo file (e2undo), which nobody but us would look for; a child that undoes (as for SIF headers):
whatever kills a job kills the child too.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping

from overlay import linux_file
from overlay.extread.reader import ExtReader
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.section import Section
from overlay.superblock import SUPERBLOCK_OFFSET, ExtError

if TYPE_CHECKING:
    from typing import Final

_MAGIC: Final = 0xC03B3998
_DESCRIPTOR, _COMMIT, _VERSION_2 = 1, 2, 4
_HEADER: Final = struct.Struct(">III")  # magic, type, sequence
_SUPER: Final = struct.Struct(">IIIIIIIIiIII16s")  # header, block size, length, first, sequence, start, errno, ...
_SEQUENCE_AT: Final = 24  # s_sequence and s_start are neighbours: one write of eight bytes
_REVOKE: Final = 1
_TAG: Final = struct.Struct(">IHH")  # block, checksum, flags
_ESCAPED, _SAME_UUID, _LAST = 1, 2, 8
_UUID: Final = 16

_INCOMPAT_AT: Final = SUPERBLOCK_OFFSET + 96
_NEEDS_RECOVERY: Final = 4


class NoRoom(Exception):
    """The journal cannot take this change: none there, of an unknown kind, in need of recovery, or too small."""


class Journal(NamedTuple):
    """An empty journal. ``places``: the byte in the image file at which each of its blocks lies."""

    places: tuple[int, ...]
    first: int
    sequence: int
    uuid: bytes


def look(section: Section) -> Journal:
    """The journal of the file system. Raises NoRoom when it cannot be used here, OSError, ExtError."""
    with ExtReader(section) as reader:
        sb = reader.superblock
        if not sb.has_journal or not sb.journal_inode:
            raise NoRoom("it has no journal")
        if sb.needs_recovery:
            raise NoRoom("its journal holds writes to replay")
        places = [
            at
            for extent in reader.extents(reader.inode(sb.journal_inode))
            for at in range(extent.place, extent.place + extent.length, sb.block_size)
        ]
        if not places:
            raise ExtError("the journal is empty")
        head = os.pread(reader.fileno(), _SUPER.size, places[0])
    if len(head) < _SUPER.size:
        raise ExtError("the image ends inside its journal")
    magic, kind, _, size, length, first, sequence, start, _, compat, incompat, _, uuid = _SUPER.unpack(head)
    if (magic, kind, size) != (_MAGIC, _VERSION_2, sb.block_size) or compat or incompat & ~_REVOKE:
        raise NoRoom("its journal is of a kind that is not written here")
    if start or not 0 < first < length or length > len(places):
        raise NoRoom("its journal is not empty")
    return Journal(tuple(places[:length]), first, sequence, uuid)


def commit(section: Section, block_size: int, blocks: Mapping[int, bytes]) -> None:
    """Give ``blocks`` (number -> content) of the file system their new content, all or none.

    The file system must be clean; the superblock's block is among ``blocks``. The caller holds the lock. Raises
    NoRoom before anything is written, OSError (ENOSPC) with everything as it was, or, after the change has
    come to stand in the journal, with the rest left to its replay.
    """
    journal = look(section)
    stream = _transaction(journal, block_size, blocks)
    if journal.first + len(stream) > len(journal.places):
        raise NoRoom("its journal is too small for this change")
    fd = os.open(section.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _take_space(fd, section, block_size, blocks)
        for place, data in zip(journal.places[journal.first :], stream, strict=False):
            _write(fd, data, place)
        # An empty journal may be marked so at any time; a full one must be marked before it counts.
        _mark(fd, section, _NEEDS_RECOVERY)
        os.fsync(fd)
        start = journal.places[0] + _SEQUENCE_AT
        _write(fd, struct.pack(">II", journal.sequence, journal.first), start)
        os.fsync(fd)
        for number, data in blocks.items():
            _write(fd, _marked(number, block_size, data), section.offset + number * block_size)
        os.fsync(fd)
        _write(fd, struct.pack(">II", (journal.sequence + 1) & 0xFFFFFFFF, 0), start)
        os.fsync(fd)
        _mark(fd, section, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _transaction(journal: Journal, block_size: int, blocks: Mapping[int, bytes]) -> list[bytes]:
    """The blocks of the journal from its first on."""
    each = (block_size - _HEADER.size - _UUID) // _TAG.size
    numbers = sorted(blocks)
    stream: list[bytes] = []
    for at in range(0, len(numbers), each):
        chosen = numbers[at : at + each]
        tags, data = b"", []
        for index, number in enumerate(chosen):
            content = blocks[number]
            flags = _SAME_UUID if index else 0
            if content[:4] == _MAGIC.to_bytes(4, "big"):
                flags, content = flags | _ESCAPED, bytes(4) + content[4:]
            if index == len(chosen) - 1:
                flags |= _LAST
            tags += _TAG.pack(number, 0, flags) + (b"" if index else journal.uuid)
            data.append(content)
        head = _HEADER.pack(_MAGIC, _DESCRIPTOR, journal.sequence)
        stream += [(head + tags).ljust(block_size, b"\0"), *data]
    stream.append(_HEADER.pack(_MAGIC, _COMMIT, journal.sequence).ljust(block_size, b"\0"))
    stream.append(bytes(block_size))  # whatever an older transaction left there is not taken for the next one
    return stream


def _take_space(fd: int, section: Section, block_size: int, blocks: Mapping[int, bytes]) -> None:
    """Allocate the blocks in the file: once the change stands in the journal, a full disk must not stop it."""
    for number in blocks:
        try:
            at = section.offset + number * block_size
            linux_file.fallocate(fd, linux_file.FALLOC_KEEP_SIZE, at, block_size, section.path)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                return
            raise


def _marked(number: int, block_size: int, data: bytes) -> bytes:
    """The block as it is while the journal still counts: the superblock says "needs recovery"."""
    if number != SUPERBLOCK_OFFSET // block_size:
        return data
    at = _INCOMPAT_AT % block_size
    flags = struct.unpack_from("<I", data, at)[0] | _NEEDS_RECOVERY
    return data[:at] + struct.pack("<I", flags) + data[at + 4 :]


def _mark(fd: int, section: Section, flag: int) -> None:
    at = section.offset + _INCOMPAT_AT
    (flags,) = struct.unpack("<I", os.pread(fd, 4, at))
    _write(fd, struct.pack("<I", flags & ~_NEEDS_RECOVERY | flag), at)


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
