"""Growing an ext3 file system where it is, at any offset: few writes, and all of them at once.

resize2fs cuts the file it works on and cannot be undone when it is killed. So it works on a sparse file that
holds a copy of the metadata it reads: superblocks, group descriptors, bitmaps, the first inodes. What it did
there is carried over: blocks behind the old end of the file system first, which mean nothing yet; then the few
hundred changed blocks before it as one transaction of the file system's own journal (`overlay.extwrite.transaction`).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

from overlay import e2fsprogs, linux_file, newfile, superblock
from overlay.extread.reader import ExtReader
from overlay.extwrite import transaction as ext_transaction
from overlay.section import Section
from overlay.superblock import SUPERBLOCK_OFFSET, Superblock

# Features that change nothing of what resize2fs writes beyond what is copied here.
_COMPAT_NEEDED: Final = 0x4 | 0x10  # has_journal, resize_inode
_INCOMPAT: Final = 0x2  # filetype
_RO_COMPAT: Final = 0x1 | 0x2 | 0x8 | 0x20 | 0x40  # sparse_super, large_file, huge_file, dir_nlink, extra_isize
_DESCRIPTOR: Final = 32
_RESIZE_INODE, _DOUBLY_INDIRECT = 7, 13
_BUFFER: Final = 1 << 20


class Unfit(Exception):
    """This file system cannot be grown this way (its features, no reserved descriptors, a small journal)."""


def grow(section: Section, size: int, *, reserved: bool = False) -> Superblock:
    """Grow the clean file system in ``section`` to ``size`` bytes; the superblock as it is then.

    ``section.size`` is the room it may use, at least ``size``; the file is made long enough. ``reserved``: take the
    new space on disk now. The caller holds the lock. Raises Unfit with nothing changed, ToolError, and OSError
    (ENOSPC): then the old file system or, replayed from its journal, the new one is there.
    """
    fd = os.open(section.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        old = superblock.read(fd, section.offset)
        _require_fit(old, size)
        length = os.fstat(fd).st_size
        try:
            with _scratch(section.path) as scratch:
                copied = _copy_metadata(fd, section, old, scratch)
                os.ftruncate(scratch, size)
                new = resize_whole(scratch, old, size)
                changed = _changed(fd, section, old, scratch, copied)
                _fill_new(fd, section, old, new, scratch, reserved)
            os.fsync(fd)
            ext_transaction.commit(section, old.block_size, changed)
        except BaseException as error:
            # Only as long as the file system ends before it, and in the middle of a file never.
            with contextlib.suppress(OSError, superblock.ExtError):
                now = superblock.read(fd, section.offset)
                if now.clean and now.size == old.size and section.offset + section.size >= length:
                    os.ftruncate(fd, length)
            if isinstance(error, ext_transaction.NoRoom):
                raise Unfit(str(error)) from None
            raise
        return new
    finally:
        os.close(fd)


def resize_whole(fd: int, old: Superblock, size: int | None) -> Superblock:
    """resize2fs on the file open at ``fd``, which is a file system and nothing else; None: as small as can be."""
    there = Section(f"{e2fsprogs.FD_PREFIX}{fd}", 0, os.fstat(fd).st_size)
    e2fsprogs.resize2fs(there, size, force=True)
    new = superblock.read(fd)
    if old.reserved_blocks == 1 != new.reserved_blocks:
        # resize2fs scales it; one is how `overlay.manage.create` keeps fuse2fs from withholding a tenth.
        e2fsprogs.debugfs(there, [[b"set_super_value", b"r_blocks_count", b"1"]], write=True)
        new = superblock.read(fd)
    return new


def _require_fit(old: Superblock, size: int) -> None:
    if old.compat & _COMPAT_NEEDED != _COMPAT_NEEDED or old.incompat & ~_INCOMPAT or old.ro_compat & ~_RO_COMPAT:
        raise Unfit("its features are not those of a plain ext3 file system")
    groups = -(-(size // old.block_size - old.first_data_block) // old.blocks_per_group)
    if _descriptor_blocks(old, groups) > _descriptor_blocks(old, old.groups) + old.reserved_gdt_blocks:
        raise Unfit("it has too few reserved group descriptors")


def _descriptor_blocks(sb: Superblock, groups: int) -> int:
    return -(-groups * _DESCRIPTOR // sb.block_size)


@contextlib.contextmanager
def _scratch(path: str) -> Iterator[int]:
    """A nameless file beside ``path``: there the new image has to have room anyway; /tmp may be memory."""
    name = os.path.join(os.path.dirname(os.path.abspath(path)), f".sifkit-{os.urandom(12).hex()}.new")
    with newfile.new_file(name, 0o600) as fresh:
        yield fresh.fd


def _metadata(section: Section, old: Superblock, fd: int) -> list[int]:
    """The blocks that resize2fs reads when it grows: numbers, ascending."""
    size = old.block_size
    found = set(range(old.first_data_block + 1 + _descriptor_blocks(old, old.groups) + old.reserved_gdt_blocks))
    table = os.pread(fd, old.groups * _DESCRIPTOR, section.offset + (old.first_data_block + 1) * size)
    for group in range(old.groups):
        at = group * _DESCRIPTOR
        places = [int.from_bytes(table[i : i + 4], "little") for i in range(at, at + 12, 4)]
        if not all(0 < place < old.blocks for place in places):
            raise superblock.ExtError(f"group {group}: its bitmaps or inodes lie outside the file system")
        first = old.first_data_block + group * old.blocks_per_group
        # Copies of the superblock and the descriptors lie before bitmaps and inodes.
        found.update(range(first, min(places)) if min(places) - first <= 8 * size else ())
        found.update(places[:2])
        if group == 0:
            found.update(range(places[2], places[2] + -(-old.first_inode * old.inode_size // size)))
    with ExtReader(section) as reader:
        pointers = reader.inode(_RESIZE_INODE).block
        found.add(int.from_bytes(pointers[4 * _DOUBLY_INDIRECT : 4 * _DOUBLY_INDIRECT + 4], "little"))
    return sorted(number for number in found if number < old.blocks)


def _copy_metadata(fd: int, section: Section, old: Superblock, scratch: int) -> list[int]:
    numbers = _metadata(section, old, fd)
    empty = bytes(old.block_size)
    for number in numbers:
        data = os.pread(fd, old.block_size, section.offset + number * old.block_size)
        if data != empty:
            os.pwrite(scratch, data, number * old.block_size)
    return numbers


def _changed(fd: int, section: Section, old: Superblock, scratch: int, copied: list[int]) -> dict[int, bytes]:
    """What resize2fs changed before the old end. Unfit when that is more than was copied for it."""
    size = old.block_size
    known = set(copied)
    for start, length in data_extents(scratch, 0, old.size):
        for number in range(start // size, -(-(start + length) // size)):
            if number not in known and os.pread(scratch, size, number * size).strip(b"\0"):
                raise Unfit("resize2fs would have to move what is in it")
    changed = {}
    for number in copied:
        data = os.pread(scratch, size, number * size)
        if data != os.pread(fd, size, section.offset + number * size):
            changed[number] = data
    if SUPERBLOCK_OFFSET // size not in changed:
        raise Unfit("resize2fs changed nothing")
    return changed


def _fill_new(fd: int, section: Section, old: Superblock, new: Superblock, scratch: int, reserved: bool) -> None:
    """What lies behind the old end: zeros, and what resize2fs wrote there."""
    start, end = section.offset + old.size, section.offset + new.size
    if os.fstat(fd).st_size < end:
        os.ftruncate(fd, end)
    zero(fd, start, end - start, section.path, keep=reserved)
    if reserved:
        reserve(fd, start, end - start, section.path)
    for at, length in data_extents(scratch, old.size, new.size - old.size):
        copy(scratch, at, fd, section.offset + at, length)


def reserve(fd: int, start: int, length: int, path: str) -> None:
    """Take the range on disk, where the file system can. Raises OSError (ENOSPC)."""
    try:
        linux_file.fallocate(fd, 0, start, length, path)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def zero(fd: int, start: int, length: int, path: str, *, keep: bool) -> None:
    """Make the range read as zeros; as a hole unless ``keep``. Written only where the file system must."""
    if length <= 0:
        return
    mode = linux_file.FALLOC_ZERO_RANGE if keep else linux_file.FALLOC_PUNCH_HOLE
    try:
        linux_file.fallocate(fd, mode | linux_file.FALLOC_KEEP_SIZE, start, length, path)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        empty = bytes(_BUFFER)
        for at, size in list(data_extents(fd, start, length)):
            for here in range(at, at + size, _BUFFER):
                os.pwrite(fd, empty[: min(_BUFFER, at + size - here)], here)


def data_extents(fd: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """Stretches (offset, length) of the range that hold data (lseek(2) SEEK_DATA); holes lie between."""
    at, end = offset, offset + size
    while at < end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        if start >= end:
            return
        stop = min(end, os.lseek(fd, start, os.SEEK_HOLE))
        yield start, stop - start
        at = stop


def copy(source: int, source_offset: int, target: int, target_offset: int, size: int) -> None:
    """``size`` bytes from one file to another. Raises EOFError when the source is shorter."""
    done = 0
    while done < size:
        data = os.pread(source, min(_BUFFER, size - done), source_offset + done)
        if not data:
            raise EOFError(f"the source ends {size - done} bytes early")
        view = memoryview(data)
        while view:
            count = os.pwrite(target, view, target_offset + done)
            view, done = view[count:], done + count
