"""Open an image and read its table. Counts and offsets are checked against the file before anything is
allocated.

What `open` refuses is what makes the table unreadable. Anything wrong with a single object is found when
that object is read (`Image.view`) or by `check.check`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from sifkit.sif import selection
from sifkit.sif.errors import BadVersion, Corrupt, NotSif, Truncated
from sifkit.sif.layout import parse_descriptors, parse_header
from sifkit.sif.records import (
    HEADER_SIZE,
    MAGIC,
    SLOT_SIZE,
    VERSION,
    Descriptor,
    Header,
)
from sifkit.sif.selection import Selector
from sifkit.sif.view import ObjectView

# Ours, not the format's: they bound memory (20 MB) and time (0.3 s) that a hostile file can take.
MAX_CAPACITY = 1 << 18
MAX_OBJECTS = 1 << 14
_CHUNK = 4096 * SLOT_SIZE

Path = str | os.PathLike[str]


class Table(NamedTuple):
    """Header and used slots of an image as they were when read; ``length`` of the file in bytes."""

    header: Header
    objects: tuple[Descriptor, ...]
    length: int


class Image:
    """An open image. Use as a context manager, or `close` it. Made by `open`."""

    def __init__(self, path: str, fd: int, table: Table) -> None:
        self.path = path
        self.fd = fd
        self.header = table.header
        self.objects = table.objects
        self.length = table.length

    def __enter__(self) -> Image:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def select(self, *selectors: Selector) -> tuple[Descriptor, ...]:
        """Objects that pass all ``selectors`` (`sifkit.sif.selection`), in the order of the table."""
        return selection.select(self.objects, *selectors)

    def one(self, *selectors: Selector) -> Descriptor:
        """The only object that passes. Raises `ObjectNotFound` and `MultipleObjects`."""
        return selection.one(self.objects, *selectors, path=self.path)

    @property
    def primary(self) -> Descriptor | None:
        """The first primary system partition, None when there is none."""
        return next((d for d in self.objects if d.is_primary), None)

    def offset_of(self, descriptor: Descriptor) -> int:
        """Where the descriptor lies in the file, in bytes (to word errors with)."""
        return self.header.table_offset + descriptor.slot * SLOT_SIZE

    def require_inside(self, descriptor: Descriptor) -> None:
        """Raises `Corrupt` or `Truncated` when the object is not wholly inside the file."""
        at = self.offset_of(descriptor)
        if descriptor.offset < 0 or descriptor.size < 0:
            text = f"object {descriptor.id} at {descriptor.offset} of {descriptor.size} bytes is impossible"
            raise Corrupt(text, path=self.path, offset=at)
        if descriptor.size and descriptor.end > self.length:
            text = f"object {descriptor.id} ends at byte {descriptor.end}, the file at byte {self.length}"
            raise Truncated(text, path=self.path, offset=at)

    def view(self, descriptor: Descriptor) -> ObjectView:
        """The object as a seekable raw stream; wrap it in ``io.BufferedReader`` for small reads."""
        self.require_inside(descriptor)
        return ObjectView(self.fd, descriptor.offset, descriptor.size)

    def read(self, descriptor: Descriptor, limit: int = 64 << 20) -> bytes:
        """The object's bytes. Raises `Corrupt` when there are more than ``limit`` (64 MiB)."""
        if descriptor.size > limit:
            text = f"object {descriptor.id} has {descriptor.size} bytes, at most {limit} are read at once"
            raise Corrupt(text, path=self.path, offset=self.offset_of(descriptor))
        with self.view(descriptor) as view:
            return view.read()


def open(path: Path) -> Image:
    """Open an image for reading.

    Raises ``OSError``; `NotSif`, `BadVersion`, `Truncated` or `Corrupt`, with the offset of the field, when
    the header or the table cannot be read.
    """
    name = os.fspath(path)
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return Image(name, fd, read_table(fd, name))
    except BaseException:
        os.close(fd)
        raise


def read_table(fd: int, path: str = "") -> Table:
    """Header and used slots of the open file ``fd``; errors as for `open`."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise NotSif("not a regular file", path=path)
    length = status.st_size if stat.S_ISREG(status.st_mode) else os.lseek(fd, 0, os.SEEK_END)
    header = read_header(fd, length, path)
    return Table(header, tuple(parse_descriptors(_used(fd, header))), length)


def read_header(fd: int, length: int, path: str = "") -> Header:
    """The header of the open file ``fd`` of ``length`` bytes, checked as far as the table needs it."""
    head = os.pread(fd, HEADER_SIZE, 0)
    if len(head) < HEADER_SIZE:
        error = Truncated if head[32:42] == MAGIC or not head else NotSif
        raise error(f"a SIF header has {HEADER_SIZE} bytes, the file {len(head)}", path=path, offset=len(head))
    header = parse_header(head)
    if header.magic != MAGIC:
        raise NotSif("no SIF magic", path=path, offset=32)
    if header.version != VERSION:
        version = header.version.rstrip(b"\0").decode("latin-1")
        raise BadVersion(f"SIF version {version!r}, this reads '01'", path=path, offset=42)
    _check_table(header, length, path)
    return header


def _check_table(header: Header, length: int, path: str) -> None:
    if not 0 <= header.total <= MAX_CAPACITY:
        text = f"{header.total} descriptors are impossible (at most {MAX_CAPACITY} are read)"
        raise Corrupt(text, path=path, offset=88)
    if header.table_offset < 0:
        raise Corrupt(f"table of descriptors at offset {header.table_offset}", path=path, offset=96)
    if header.table_size < header.total * SLOT_SIZE:
        text = f"a table of {header.table_size} bytes has no room for {header.total} descriptors"
        raise Corrupt(text, path=path, offset=104)
    if header.table_end > length:
        text = f"the table of descriptors ends at byte {header.table_end}, the file at byte {length}"
        raise Truncated(text, path=path, offset=length)


def _used(fd: int, header: Header) -> Iterator[tuple[int, bytes]]:
    count = 0
    for start in range(0, header.total * SLOT_SIZE, _CHUNK):
        chunk = os.pread(fd, min(_CHUNK, header.total * SLOT_SIZE - start), header.table_offset + start)
        flags = chunk[4::SLOT_SIZE]
        if not any(flags):
            continue
        first = start // SLOT_SIZE
        for index, flag in enumerate(flags):
            if not flag:
                continue
            count += 1
            at = header.table_offset + start + index * SLOT_SIZE
            data = chunk[index * SLOT_SIZE : (index + 1) * SLOT_SIZE]
            if count > MAX_OBJECTS or len(data) < SLOT_SIZE:
                text = f"more than {MAX_OBJECTS} objects" if count > MAX_OBJECTS else "the table was cut while read"
                raise Corrupt(text, offset=at)
            yield first + index, data
