"""Defragment: a new file without the bytes that belong to no object, then rename.

Objects keep IDs, slots, order and times, so signatures stay valid. The table goes back to byte 4096.
Rejected: moving objects within the file, which no interruption would survive.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sifkit.sif import nameless, transfer
from sifkit.sif.edit import Edit, editing
from sifkit.sif.errors import HardLinked
from sifkit.sif.layout import build_descriptor, build_header
from sifkit.sif.objects import PARTITION_ALIGNMENT, next_aligned
from sifkit.sif.reader import Path
from sifkit.sif.records import (
    SLOT_SIZE,
    TABLE_OFFSET,
    Descriptor,
    Header,
)


def compact(path: Path, *, time: int | None = None) -> int:
    """Rewrite the image without gaps; the number of bytes it became shorter (negative for an odd v1 image).

    Partitions stay aligned to 4096 bytes where they were. A symbolic link stays and its target is replaced;
    mode, owner and extended attributes are kept. Nothing is written when nothing would change. Raises `InUse`
    when a container uses any object, `HardLinked`, `Corrupt`, ``OSError`` and the
    errors of `reader.open`. After any error, the image is as it was.
    """
    name = os.path.realpath(path)
    with editing(name, time=time) as edit:
        edit.data_end()
        header, objects = plan(edit.header, list(edit.objects.values()))
        end = max([header.data_offset, *(d.end for d in objects)])
        if objects == list(edit.objects.values()) and end == edit.length and header == edit.header:
            return 0
        for d in edit.objects.values():
            edit.claim(d)
        if os.fstat(edit.fd).st_nlink > 1:
            raise HardLinked("the file has other hard links, which would keep the old image", path=name)
        with _replacement(edit.fd, name) as fd:
            _write(edit, fd, header._replace(modified=edit.now), objects, end)
        return edit.length - end


def plan(header: Header, objects: list[Descriptor]) -> tuple[Header, list[Descriptor]]:
    """The header and the descriptors (in table order) of the image without gaps."""
    data = TABLE_OFFSET + header.total * SLOT_SIZE
    at = data
    placed = {}
    for d in sorted(objects, key=lambda d: (d.offset, d.slot)):
        aligned = d.partition is not None and d.offset % PARTITION_ALIGNMENT == 0
        start = next_aligned(at, PARTITION_ALIGNMENT if aligned else 0)
        placed[d.slot] = d._replace(offset=start, padded_size=start - at + d.size)
        at = start + d.size
    header = header._replace(
        free=header.total - len(objects), table_offset=TABLE_OFFSET, table_size=header.total * SLOT_SIZE,
        data_offset=data, data_size=at - data,
    )  # fmt: skip
    return header, [placed[d.slot] for d in objects]


def _write(edit: Edit, fd: int, header: Header, objects: list[Descriptor], end: int) -> None:
    os.ftruncate(fd, end)
    for d in objects:
        transfer.copy(edit.fd, edit.objects[d.slot].offset, fd, d.offset, d.size, flush=True)
        transfer.write_at(fd, build_descriptor(d), TABLE_OFFSET + d.slot * SLOT_SIZE)
    transfer.write_at(fd, build_header(header), 0)
    os.fsync(fd)


@contextmanager
def _replacement(old: int, path: str) -> Iterator[int]:
    """A nameless new file with the old one's mode, owner and attributes, which becomes ``path`` on success."""
    named = nameless.beside(path)
    fd = nameless.open_nameless(path, named, 0o600)
    try:
        _copy_status(old, fd)
        yield fd
        if os.fstat(fd).st_nlink == 0:
            nameless.give_name(fd, named, named)
        os.rename(named, path)
        nameless.sync_directory(path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(named)
        raise
    finally:
        os.close(fd)


def _copy_status(old: int, new: int) -> None:
    status = os.fstat(old)
    with suppress(PermissionError):  # a group or owner that we may not give; the file then is ours
        os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, stat.S_IMODE(status.st_mode))
    with suppress(OSError):  # attributes are a convenience: many file systems have none
        for key in os.listxattr(old):
            os.setxattr(new, key, os.getxattr(old, key))
