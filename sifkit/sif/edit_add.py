"""Add objects. A full table grows: the larger one goes behind the data, where nothing has to move for it."""

from __future__ import annotations

import os
import stat

from sifkit.sif import transfer
from sifkit.sif.edit import Edit, Written, editing
from sifkit.sif.edit_grow import grow_table
from sifkit.sif.enums import DataType
from sifkit.sif.errors import BadObject, PrimaryExists
from sifkit.sif.objects import Fill, NewObject, alignment_of, descriptor_of, next_aligned
from sifkit.sif.reader import Path
from sifkit.sif.records import Descriptor, PartitionExtra
from sifkit.sif.view import ObjectView


def add(path: Path, *new: NewObject, time: int | None = None, force: bool = False) -> Written:
    """Add objects to the image, in order; the IDs they got are in the result.

    ``time``: Unix seconds for created and modified, None for now. ``force``: also when that breaks a
    signature. Either all objects are in the image when this returns, on disk, or it is as it was. Raises
    ``OSError``, `BadValue`, `BadObject`, `PrimaryExists`, `Signed`, `Corrupt` and the errors of
    `reader.open`.
    """
    with editing(path, time=time, force=force) as edit:
        ids = tuple(add_object(edit, one).id for one in new)
        edit.commit()
        return edit.result(ids)


def add_object(edit: Edit, new: NewObject) -> Descriptor:
    """Add one object within a change; its data are written, its descriptor is when the change commits."""
    slot = edit.free_slot()
    if slot is None:
        grow_table(edit, edit.header.total * 2 or 1)
        slot = edit.free_slot()
        assert slot is not None
    descriptor = descriptor_of(new, slot, edit.now)
    if descriptor.is_primary:
        if edit.primary is not None:
            raise PrimaryExists("image already contains a primary partition", path=edit.path)
        assert descriptor.partition is not None
        edit.header = edit.header._replace(arch=descriptor.partition.arch)
    edit.require_unbroken("adding an object", {**edit.objects, slot: descriptor})
    return _write(edit, new, descriptor)


def settle(edit: Edit, descriptor: Descriptor, extra: PartitionExtra) -> Descriptor:
    """Within a change: correct the extra of a partition just added, once its bytes have told what it is."""
    settled = descriptor._replace(extra=extra)
    edit.put(settled)
    if settled.is_primary:
        edit.header = edit.header._replace(arch=extra.arch)
    return settled


def _write(edit: Edit, new: NewObject, descriptor: Descriptor) -> Descriptor:
    end = edit.data_end()
    offset = next_aligned(end, alignment_of(new))
    size = _write_data(edit, new, offset)
    edit.length = max(edit.length, offset + size)
    if new.data_type in (DataType.OCI_ROOT_INDEX, DataType.OCI_BLOB) and not new.extra:
        descriptor = descriptor._replace(extra=_digest(edit.fd, offset, size).ljust(384, b"\0"))
    descriptor = descriptor._replace(offset=offset, size=size, padded_size=offset - end + size)
    edit.put(descriptor)
    edit.header = edit.header._replace(data_size=offset + size - edit.header.data_offset, modified=edit.now)
    return descriptor


def _digest(fd: int, offset: int, size: int) -> bytes:
    import hashlib

    state = hashlib.sha256()
    with ObjectView(fd, offset, size) as view:
        while block := view.read(1 << 20):
            state.update(block)
    return b"sha256:" + state.hexdigest().encode()


def _write_data(edit: Edit, new: NewObject, offset: int) -> int:
    source = new.source
    if isinstance(source, bytes):
        transfer.write_at(edit.fd, source, offset)
        return len(source)
    if isinstance(source, Fill):
        return _fill(edit, source, offset)
    if isinstance(source, int):
        return _copy(edit, source, offset)
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _copy(edit, fd, offset)
    finally:
        os.close(fd)


def _copy(edit: Edit, source: int, offset: int) -> int:
    status = os.fstat(source)
    if stat.S_ISDIR(status.st_mode):
        raise BadObject("a directory cannot be an object", path=edit.path)
    if os.path.samestat(status, os.fstat(edit.fd)):
        raise BadObject("an image cannot be added to itself", path=edit.path)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:  # /proc files say 0
        return transfer.drain(source, edit.fd, offset)
    start = os.lseek(source, 0, os.SEEK_CUR)
    size = max(0, status.st_size - start)
    try:
        transfer.copy(source, start, edit.fd, offset, size, zero_below=edit.length, flush=True)
    except EOFError as error:
        raise BadObject(f"the object changed while it was read: {error}", path=edit.path) from error
    return size


def _fill(edit: Edit, source: Fill, offset: int) -> int:
    transfer.fill_zeros(edit.fd, offset, min(offset + source.size, edit.length) - offset)
    if os.fstat(edit.fd).st_size < offset + source.size:
        os.ftruncate(edit.fd, offset + source.size)
    source.write(edit.reached, offset)
    return source.size
