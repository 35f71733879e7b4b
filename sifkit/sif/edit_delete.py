"""Delete objects. Their bytes stay in the file unless they are zeroed, cut off or compacted away."""

from __future__ import annotations

import os

from sifkit.sif import transfer
from sifkit.sif.arch import NO_ARCH
from sifkit.sif.edit import Edit, Written, editing
from sifkit.sif.errors import Corrupt
from sifkit.sif.reader import Path
from sifkit.sif.records import (
    HEADER_SIZE,
    SLOT_SIZE,
    Descriptor,
)


def delete(path: Path, *ids: int, zero: bool = False, compact: bool = False, time: int | None = None,
           force: bool = False) -> Written:  # fmt: skip
    """Delete the objects with these IDs.

    ``zero``: overwrite their bytes. ``compact``: cut the file after the last object, as the Go library's
    option of that name does; holes in the middle stay, see `edit_compact.compact`. ``time`` and ``force`` as
    in `edit_add.add`. Raises `ObjectNotFound`, `InUse`, `Signed`, ``OSError`` and the errors of
    `reader.open`.
    """
    with editing(path, time=time, force=force) as edit:
        gone = [_remove(edit, edit.find(number)) for number in ids]
        if zero:
            for descriptor in gone:
                _require_alone(edit, descriptor)
        end = edit.data_end() if compact else 0
        if compact:
            edit.header = edit.header._replace(data_size=end - edit.header.data_offset)
        edit.commit()
        _destroy(edit, gone if zero else [], end)
        length = os.fstat(edit.fd).st_size
        left = sum(max(0, min(d.end, length) - max(0, d.offset)) for d in gone)
        return edit.result(tuple(d.id for d in gone))._replace(left=left)


def _remove(edit: Edit, descriptor: Descriptor) -> Descriptor:
    edit.claim(descriptor)
    del edit.objects[descriptor.slot]
    edit.require_unbroken(f"deleting object {descriptor.id}")
    header = edit.header._replace(modified=edit.now)
    edit.header = header._replace(arch=NO_ARCH) if descriptor.is_primary else header
    return descriptor


def _destroy(edit: Edit, zeroed: list[Descriptor], end: int) -> None:
    """The part that cannot be undone; the descriptors are gone from the disk before it begins."""
    assert edit.guard is not None
    edit.guard.done()
    for descriptor in zeroed:
        length = os.fstat(edit.fd).st_size
        transfer.fill_zeros(edit.fd, descriptor.offset, min(descriptor.end, length) - descriptor.offset)
    if end:
        os.ftruncate(edit.fd, end)
    if zeroed or end:
        os.fsync(edit.fd)


def _require_alone(edit: Edit, descriptor: Descriptor) -> None:
    header = edit.header
    taken = [(0, HEADER_SIZE), (header.table_offset, header.table_end)]
    taken += [(d.offset, d.end) for d in edit.objects.values()]
    at = header.table_offset + descriptor.slot * SLOT_SIZE
    if descriptor.offset < 0 or any(max(start, descriptor.offset) < min(end, descriptor.end) for start, end in taken):
        text = f"object {descriptor.id} shares bytes with something else; zeroing it would destroy that"
        raise Corrupt(text, path=edit.path, offset=at)
