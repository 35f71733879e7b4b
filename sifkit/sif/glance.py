"""What of an image is run, and where an object is: for starts, which are over before construct would be loaded.

`read` and `find` take it from the bytes of an image as all are; where one byte of them is not as in all,
`sifkit.sif.reader` reads it, checks everything, and words what is wrong. Offsets are those that `sifkit.sif.layout`
draws.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Iterator

TYPE_CHECKING = False  # typing's, which takes longer to load than an image to read
if TYPE_CHECKING:
    from sifkit.sif.records import Descriptor

_HEADER, _SLOT = 128, 585
_MOST = 4096  # slots; usual are 48
_TABLE = struct.Struct("<qqq")  # in the header at 88: slots, offset, size
_OBJECT = struct.Struct("<iBIIIqq")  # in a slot at 0: type, used, ID, group, link, offset, size
_PARTITION = struct.Struct("<ii3s")  # in a slot at 201: file system, use, architecture
_IS_PARTITION, _IS_SIGNATURE = 0x4004, 0x4005
_PRIMARY, _OVERLAY = 2, 4
_GROUP_MASK, _ID_MASK = 0xF0000000, 0x0FFFFFFF


class Part:
    """A partition: object ``id``, its group (0: none), where it is in bytes, `enums.FsType`, architecture on disk.

    ``signed``: a signature covers its group.
    """

    __slots__ = ("arch", "fs", "group", "id", "offset", "signed", "size")

    def __init__(self, id: int, group: int, offset: int, size: int, fs: int, arch: bytes, signed: bool) -> None:
        self.id, self.group, self.offset, self.size = id, group & _ID_MASK, offset, size
        self.fs, self.arch, self.signed = fs, arch, signed


class Runnable:
    """The first primary system partition, and all overlay partitions, the lowest ID first."""

    __slots__ = ("overlays", "primary")

    def __init__(self, primary: Part | None, overlays: Iterable[Part]) -> None:
        self.primary = primary
        self.overlays = tuple(sorted(overlays, key=lambda part: part.id))


def read(path: str) -> Runnable:
    """What there is to run in the image ``path``. Raises as `reader.open` does, and `Image.require_inside`."""
    return usual(path) or in_full(path)


def usual(path: str) -> Runnable | None:
    """The same, for an image in which all that is looked at is as it should be; None for others. Raises OSError."""
    file = _open(path)
    try:
        found = _table(file)
    finally:
        os.close(file)
    return _among(*found) if found else None


def find(path: str, number: int) -> tuple[int, int, int]:
    """Object ``number`` of the image ``path``: a descriptor of the file, to be closed, its offset and size in bytes.

    Raises as `reader.open` does, `Image.one`, and `Image.require_inside`.
    """
    file = _open(path)
    try:
        return file, *(_place(file, number) or _place_in_full(file, path, number))
    except BaseException:
        os.close(file)
        raise


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _table(file: int) -> tuple[bytes, int] | None:
    """All slots of the open image, and the length of the file; None where header or table are not as in all."""
    status = os.fstat(file)
    head = os.pread(file, _HEADER, 0)
    if not stat.S_ISREG(status.st_mode) or len(head) < _HEADER or head[32:45] != b"SIF_MAGIC\x0001\0":
        return None
    total, offset, size = _TABLE.unpack_from(head, 88)
    if not (0 <= total <= _MOST and offset >= _HEADER and total * _SLOT <= size <= status.st_size - offset):
        return None
    table = os.pread(file, total * _SLOT, offset)
    return (table, status.st_size) if len(table) == total * _SLOT else None


def _place(file: int, number: int) -> tuple[int, int] | None:
    found = _table(file)
    if not found or number <= 0:
        return None
    table, length = found
    slots = [_OBJECT.unpack_from(table, at) for at in range(0, len(table), _SLOT) if table[at + 4]]
    places = [slot[5:] for slot in slots if slot[2] == number]
    if len(places) != 1:
        return None
    offset, size = places[0]
    return (offset, size) if offset >= 0 and 0 <= size <= length - offset else None


def _place_in_full(file: int, path: str, number: int) -> tuple[int, int]:
    from sifkit.sif import reader, selection

    image = reader.Image(path, file, reader.read_table(file, path))
    found = image.one(selection.by_id(number))
    image.require_inside(found)
    return found.offset, found.size


def _among(table: bytes, length: int) -> Runnable | None:
    objects = []
    for at in range(0, len(table), _SLOT):
        if table[at + 4]:
            objects.append((*_OBJECT.unpack_from(table, at), *_PARTITION.unpack_from(table, at + 201)))
    signed = _signed((kind, number, group, link) for kind, _, number, group, link, *_ in objects)
    primary, overlays = None, []
    for kind, _, number, group, _, offset, size, fs, use, arch in objects:
        if kind != _IS_PARTITION or use not in (_PRIMARY, _OVERLAY) or (use == _PRIMARY and primary is not None):
            continue
        if offset < 0 or size < 0 or offset + size > length:
            return None
        part = Part(number, group, offset, size, fs, arch, group in signed)
        if use == _PRIMARY:
            primary = part
        else:
            overlays.append(part)
    return Runnable(primary, overlays)


def _signed(objects: Iterable[tuple[int, int, int, int]]) -> set[int]:
    """`integrity.signed_groups`, of type, ID, group and link of all objects."""
    objects = list(objects)
    group_of = {number: group for _, number, group, _ in objects}
    links = [link for kind, _, _, link in objects if kind == _IS_SIGNATURE]
    found = {link if link & _GROUP_MASK == _GROUP_MASK else group_of.get(link & _ID_MASK, 0) for link in links}
    return found - {0}


def in_full(path: str) -> Runnable:
    """The same, of any image, by `sifkit.sif.reader`."""
    from sifkit.sif import reader
    from sifkit.sif.integrity import signed_groups

    with reader.open(path) as image:
        signed = signed_groups(image.objects)
        shown = [d for d in (image.primary,) if d is not None]
        shown += [d for d in image.objects if d.partition and d.partition.part == _OVERLAY]
        for descriptor in shown:
            image.require_inside(descriptor)
        parts = list(_parts(shown, signed))
    return Runnable(parts.pop(0) if image.primary else None, parts)


def _parts(descriptors: Iterable[Descriptor], signed: set[int]) -> Iterator[Part]:
    for d in descriptors:
        assert d.partition is not None
        yield Part(d.id, d.group, d.offset, d.size, d.partition.fs, d.partition.arch, d.group in signed)
