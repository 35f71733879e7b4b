"""One change of an image: locked, all or nothing, on disk when it returns.

Order of writing, so that the file is a valid image at every moment (also after a power cut):

1. data, past the end of everything that a descriptor names;
2. new descriptors into free slots, with the used byte still 0, or a larger table past the data;
3. fsync; 4. the used bytes and changed descriptors, last the header; 5. fsync.

The verbs are in the ``edit_*`` modules; all of them work on `Edit` and can be combined under one lock.
"""

from __future__ import annotations

import os
import time as clock
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sifkit.sif import integrity, lock, transfer
from sifkit.sif.errors import Corrupt, ObjectNotFound, Signed
from sifkit.sif.guard import Guard
from sifkit.sif.layout import build_descriptor, build_header
from sifkit.sif.reader import Path, Table, read_table
from sifkit.sif.records import (
    HEADER_SIZE,
    LARGEST_GAP,
    SLOT_SIZE,
    ZERO_TIME,
    Descriptor,
)
from sifkit.sif.selection import by_id, one


class Written(NamedTuple):
    """What a change did: IDs of the objects it touched, whether it broke a signature (only ever with ``force``),
    and ``left``: how many bytes of deleted objects are still in the file.
    """

    ids: tuple[int, ...]
    broke: bool
    left: int = 0


class Edit:
    """The state of an image during a change; ``objects`` by slot. Made by `editing`."""

    def __init__(self, path: str, fd: int, table: Table, time: int | None, force: bool) -> None:
        self.path = path
        self.reached = path  # where other programs find the file: elsewhere while it has no name
        self.fd = fd
        self.header = table.header
        self.objects = {d.slot: d for d in table.objects}
        self.length = table.length
        self.force = force
        self.guard: Guard | None = None
        self._before = table
        self._coverage = integrity.coverage(table.header, table.objects)
        self.now = self._time(time)

    def _time(self, time: int | None) -> int:
        if time is not None:
            return time
        return ZERO_TIME if self.header.deterministic else int(clock.time())

    def find(self, number: int) -> Descriptor:
        """The object with this ID. Raises `ObjectNotFound` and `MultipleObjects`."""
        if number <= 0:
            raise ObjectNotFound(f"invalid object ID {number}", path=self.path)
        return one(self.objects.values(), by_id(number), path=self.path)

    @property
    def primary(self) -> Descriptor | None:
        return next((d for d in self.objects.values() if d.is_primary), None)

    def free_slot(self) -> int | None:
        """Index of the first free slot, None in a full table."""
        return next((slot for slot in range(self.header.total) if slot not in self.objects), None)

    def claim(self, descriptor: Descriptor) -> None:
        """Make sure that nobody uses the object's bytes until the change is over. Raises `InUse`."""
        size = min(descriptor.end, self.length) - descriptor.offset
        lock.claim(self.fd, descriptor.offset, size, self.path, f"object {descriptor.id}")

    def data_end(self) -> int:
        """First byte past all objects. Raises `Corrupt` when the image does not tell where that is."""
        header = self.header
        at = header.table_offset
        end = header.data_offset
        for d in self.objects.values():
            # For an empty object nothing is written, so its aligned offset may lie behind the file's end.
            if d.size == 0 and d.offset > self.length + LARGEST_GAP:
                continue
            if d.offset < 0 or d.size < 0 or (d.size and d.end > self.length):
                text = f"object {d.id} lies outside of the file; nothing can be added"
                raise Corrupt(text, path=self.path, offset=at + d.slot * SLOT_SIZE)
            end = max(end, d.end)
        # A v1 image without objects, too, ends before its data offset; more than that is no image's.
        first, last = max(header.table_end, HEADER_SIZE), self.length + LARGEST_GAP
        if header.data_offset < 0 or not first <= end <= last:
            text = f"data offset {header.data_offset} does not fit the table and the file; nothing can be added"
            raise Corrupt(text, path=self.path, offset=112)
        return end

    def require_unbroken(self, what: str, objects: dict[int, Descriptor] | None = None) -> None:
        """Raises `Signed` when the objects as they are now (or ``objects``) break a signature, unless forced."""
        after = integrity.coverage(self.header, (self.objects if objects is None else objects).values())
        if not self.force and integrity.breaks(self._coverage, after):
            raise Signed(f"{what} would break the signature of this image", path=self.path)

    def broken(self) -> bool:
        """Whether the change so far breaks a signature."""
        after = integrity.coverage(self.header, self.objects.values())
        return integrity.breaks(self._coverage, after)

    def result(self, ids: tuple[int, ...]) -> Written:
        return Written(ids, self.broken())

    def put(self, descriptor: Descriptor) -> None:
        self.objects[descriptor.slot] = descriptor

    def commit(self) -> None:
        """Write table and header; the change is on disk when this returns. Nothing to write: nothing happens."""
        free = self.header.total - len(self.objects)
        self.header = self.header._replace(free=free)
        self.require_unbroken("the change")
        publish = list(self._moved() if self._table_moved() else self._in_place())
        if self.header != self._before.header:
            publish.append((0, build_header(self.header)))
        if not publish:
            return
        os.fdatasync(self.fd)
        # From here to the last write the guard's notes are what an interruption brings back.
        for offset, data in publish:
            self._overwrite(offset, data)
        os.fdatasync(self.fd)
        self._before = Table(self.header, tuple(self.objects.values()), os.fstat(self.fd).st_size)

    def _table_moved(self) -> bool:
        old, new = self._before.header, self.header
        return (new.table_offset, new.total) != (old.table_offset, old.total)

    def _moved(self) -> Iterator[tuple[int, bytes]]:
        table = bytearray(self.header.total * SLOT_SIZE)
        for slot, d in self.objects.items():
            table[slot * SLOT_SIZE : (slot + 1) * SLOT_SIZE] = build_descriptor(d)
        transfer.write_at(self.fd, bytes(table), self.header.table_offset)
        return iter(())

    def _in_place(self) -> Iterator[tuple[int, bytes]]:
        old = {d.slot: d for d in self._before.objects}
        for slot in sorted(old.keys() | self.objects.keys()):
            was, now = old.get(slot), self.objects.get(slot)
            at = self.header.table_offset + slot * SLOT_SIZE
            if was == now:
                continue
            if now is None:
                yield at, bytes(SLOT_SIZE)
            elif was is None:
                data = build_descriptor(now)
                self._overwrite(at, data[:4] + b"\0" + data[5:])
                yield at + 4, data[4:5]
            else:
                yield at, build_descriptor(now)

    def _overwrite(self, offset: int, data: bytes) -> None:
        if self.guard is not None:
            self.guard.note(offset, len(data))
        transfer.write_at(self.fd, data, offset)


@contextmanager
def editing(path: Path, *, time: int | None = None, force: bool = False) -> Iterator[Edit]:
    """Lock an image, yield its `Edit`, commit on leaving; an exception inside leaves the image as it was.

    ``time``: Unix seconds to write as modified, None for now (none at all in deterministic images). ``force``:
    break signatures. Waits for other editors. Raises ``OSError``, the errors of `reader.open`,
    `LockUnavailable`.
    """
    name = os.fspath(path)
    fd = _locked(name)
    try:
        with Guard(fd) as guard:
            edit = Edit(name, fd, read_table(fd, name), time, force)
            edit.guard = guard
            yield edit
            edit.commit()
            guard.done()
    finally:
        os.close(fd)


def _locked(path: str) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            lock.hold(fd, _lock_size(read_table(fd, path)), path)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # compacted while we waited: the name is another file now


def _lock_size(table: Table) -> int:
    """Header and table up to the first object: [0, data offset) but where the table was moved behind the
    data."""
    first = min([table.header.data_offset, *(d.offset for d in table.objects)])
    return max(HEADER_SIZE, min(first, table.length))
