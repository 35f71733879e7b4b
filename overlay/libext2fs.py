"""libext2fs, the library of e2fsprogs, through ctypes: what of it `overlay.extwrite.volume` uses, and nothing else.

Its part in writing: it opens the file system, keeps the bitmaps and every counter that follows from them, hashes
names for indexed directories, writes the undo log that e2undo reads, and puts bitmaps, group descriptors and the
superblock in place. Prototypes and layouts are those of <ext2fs/ext2fs.h> and <et/com_err.h>, 1.43 to 1.47; the
few fields that are read directly are compared with our own reading of the superblock before anything is written.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_uint, c_uint32, c_uint64, c_ulong, c_void_p

from overlay import superblock
from overlay.failure import Failure
from overlay.records import TYPE_CHECKING
from overlay.section import Section

if TYPE_CHECKING:
    from typing import Any, Final

_LIBRARY: Final = "libext2fs.so.2"

_RW, _64BITS = 0x01, 0x20000  # EXT2_FLAG_RW, EXT2_FLAG_64BITS (ext2fs.h)
_DIRTY = 0x02  # EXT2_FLAG_DIRTY: the superblock has changed
_NO_SUCH = errno.ENOENT  # what the searches of bitmaps answer when there is nothing to find
_ERRNO_LIMIT: Final = 4096
_TABLES_BASE: Final = 2133571328  # ext2_err.et
_NO_BLOCK, _NO_INODE = _TABLES_BASE + 45, _TABLES_BASE + 44  # EXT2_ET_BLOCK_ALLOC_FAIL, EXT2_ET_INODE_ALLOC_FAIL


class Ext2Error(OSError):
    """A function of libext2fs failed: ``function``, com_err's text, and the path of the image."""

    def __init__(self, function: str, code: int, text: str, path: str) -> None:
        number = code if 0 < code < _ERRNO_LIMIT else errno.ENOSPC if code in (_NO_BLOCK, _NO_INODE) else errno.EIO
        super().__init__(number, f"{function}: {text}", path)
        self.function = function
        self.code = code


class _Filsys(ctypes.Structure):
    """The head of struct_ext2_filsys, unchanged since 1.41 (ext2fs.h)."""

    _fields_ = [
        ("magic", c_long),
        ("io", c_void_p),
        ("flags", c_int),
        ("device_name", c_char_p),
        ("super", c_void_p),
        ("blocksize", c_uint),
        ("fragsize", c_int),
        ("group_desc_count", c_uint32),
        ("desc_blocks", c_ulong),
        ("group_desc", c_void_p),
        ("inode_blocks_per_group", c_uint),
        ("inode_map", c_void_p),
        ("block_map", c_void_p),
    ]


_FS = POINTER(_Filsys)
_PROTOTYPES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "ext2fs_open2": (c_long, [c_char_p, c_char_p, c_int, c_int, c_uint, c_void_p, POINTER(_FS)]),
    "ext2fs_read_bitmaps": (c_long, [_FS]),
    "ext2fs_flush2": (c_long, [_FS, c_int]),
    "ext2fs_free": (None, [_FS]),
    "ext2fs_close_free": (c_long, [POINTER(_FS)]),
    "ext2fs_find_first_zero_block_bitmap2": (c_long, [c_void_p, c_uint64, c_uint64, POINTER(c_uint64)]),
    "ext2fs_find_first_set_block_bitmap2": (c_long, [c_void_p, c_uint64, c_uint64, POINTER(c_uint64)]),
    "ext2fs_find_first_zero_inode_bitmap2": (c_long, [c_void_p, c_uint32, c_uint32, POINTER(c_uint32)]),
    "ext2fs_find_first_set_inode_bitmap2": (c_long, [c_void_p, c_uint32, c_uint32, POINTER(c_uint32)]),
    "ext2fs_block_alloc_stats_range": (None, [_FS, c_uint64, c_uint32, c_int]),
    "ext2fs_inode_alloc_stats2": (None, [_FS, c_uint32, c_int, c_int]),
    "ext2fs_block_bitmap_loc": (c_uint64, [_FS, c_uint32]),
    "ext2fs_inode_bitmap_loc": (c_uint64, [_FS, c_uint32]),
    "ext2fs_inode_table_loc": (c_uint64, [_FS, c_uint32]),
    "ext2fs_descriptor_block_loc2": (c_uint64, [_FS, c_uint64, c_uint32]),
    "ext2fs_dirhash": (c_long, [c_int, c_char_p, c_int, c_void_p, POINTER(c_uint32), POINTER(c_uint32)]),
    "io_channel_write_blk64": (c_long, [c_void_p, c_uint64, c_int, c_char_p]),
    "set_undo_io_backing_manager": (c_long, [c_void_p]),
    "set_undo_io_backup_file": (c_long, [c_char_p]),
    "initialize_ext2_error_table": (None, []),
    "error_message": (c_char_p, [c_long]),
}

_loaded: list[ctypes.CDLL] = []


def load() -> ctypes.CDLL:
    """The library, loaded once. Raises `Failure` when this host has none that is fit."""
    if not _loaded:
        try:
            library = ctypes.CDLL(_LIBRARY)
            for name, (result, arguments) in _PROTOTYPES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
            library.initialize_ext2_error_table()
        except (OSError, AttributeError) as error:
            raise Failure(
                "cannot write into ext3 images",
                f"{_LIBRARY}: {error}",
                "install the package e2fsprogs (1.43 or later), or write through fuse2fs (--overlay IMAGE:fuse)",
            ) from None
        _loaded.append(library)
    return _loaded[0]


def _manager(name: str) -> c_void_p:
    return c_void_p.in_dll(load(), name)


def _demand(function: str, code: int, path: str) -> None:
    if code:
        text = load().error_message(code) or b"unknown error"
        raise Ext2Error(function, code, text.decode("utf-8", "replace"), path)


def _open(section: Section, flags: int, manager: str, options: str = "") -> Any:
    """ext2fs_open2. Options are always given, for without them a ``?`` in the path would begin some."""
    fs = _FS()
    several = "&".join(filter(None, [f"offset={section.offset}" if section.offset else "", options]))
    code = load().ext2fs_open2(
        os.fsencode(section.path), several.encode(), flags | _64BITS, 0, 0, _manager(manager), byref(fs)
    )
    _demand("ext2fs_open2", code, section.path)
    return fs


class Filesystem:
    """An open file system: its bitmaps, and every count that follows from them.

    Nothing is written before `flush`; `close` without it leaves the image as it was.
    """

    def __init__(self, section: Section, known: superblock.Superblock, raw: bytes) -> None:
        """``known``, ``raw``: the superblock as we read it. Raises Ext2Error, Failure."""
        self._path = section.path
        self._c = load()
        self._fs = _open(section, _RW, "unix_io_manager")
        try:
            head = self._fs.contents
            if (
                (head.blocksize, head.group_desc_count) != (known.block_size, known.groups)
                or not head.super
                or ctypes.string_at(head.super, superblock.SUPERBLOCK_SIZE) != raw
            ):
                raise Failure(
                    f"cannot write into {section.describe()}",
                    f"this host's {_LIBRARY} is laid out in a way we do not know",
                    "write through fuse2fs (--overlay IMAGE:fuse), and report the version of e2fsprogs",
                )
            _demand("ext2fs_read_bitmaps", self._c.ext2fs_read_bitmaps(self._fs), self._path)
        except BaseException:
            self.close()
            raise
        self._count_inode = self._c.ext2fs_inode_alloc_stats2
        self._super = head.super
        self._blocks = known.blocks
        self._inodes = known.inodes
        self._groups = known.groups
        self._first = known.first_data_block
        self.tables = [self._c.ext2fs_inode_table_loc(self._fs, group) for group in range(known.groups)]

    def close(self) -> None:
        """Forget everything that was not flushed."""
        if self._fs:
            self._c.ext2fs_free(self._fs)
            self._fs = None

    def _run(self, kind: str, number: Any, bitmap: int, first: int, last: int) -> tuple[int, int]:
        """The first run of free ones in first..last: (start, length), length 0 when there is none."""
        zero = getattr(self._c, f"ext2fs_find_first_zero_{kind}_bitmap2")
        used = getattr(self._c, f"ext2fs_find_first_set_{kind}_bitmap2")
        if first > last:
            return 0, 0
        start, end = number(), number()
        code = zero(bitmap, first, last, byref(start))
        if code == _NO_SUCH:
            return 0, 0
        _demand(f"ext2fs_find_first_zero_{kind}_bitmap2", code, self._path)
        code = used(bitmap, start.value, last, byref(end))
        if code == _NO_SUCH:
            return start.value, last + 1 - start.value
        _demand(f"ext2fs_find_first_set_{kind}_bitmap2", code, self._path)
        return start.value, end.value - start.value

    def free_blocks(self, goal: int) -> tuple[int, int]:
        """The first run of free blocks from ``goal`` on: (start, length), length 0 when there is none."""
        return self._run("block", c_uint64, self._fs.contents.block_map, goal, self._blocks - 1)

    def free_inodes(self, goal: int) -> tuple[int, int]:
        """The first run of free inodes from ``goal`` on: (start, length), length 0 when there is none."""
        return self._run("inode", c_uint32, self._fs.contents.inode_map, goal, self._inodes)

    def count_blocks(self, start: int, length: int, by: int) -> None:
        """Mark a run of blocks as used (``by`` 1) or free (-1)."""
        self._c.ext2fs_block_alloc_stats_range(self._fs, start, length, by)

    def count_inode(self, number: int, by: int, directory: bool) -> None:
        """Mark an inode as used (``by`` 1) or free (-1)."""
        self._count_inode(self._fs, number, by, directory)

    def set_superblock(self, at: int, data: bytes) -> None:
        """Overwrite bytes of the superblock, to be written with `flush`."""
        ctypes.memmove(self._super + at, data, len(data))
        self._fs.contents.flags |= _DIRTY

    def own_blocks(self) -> list[int]:
        """The blocks that `flush` may write: bitmaps, group descriptors, the superblock's."""
        head = self._fs.contents
        found = {superblock.SUPERBLOCK_OFFSET // head.blocksize}
        for group in range(self._groups):
            found.add(self._c.ext2fs_block_bitmap_loc(self._fs, group))
            found.add(self._c.ext2fs_inode_bitmap_loc(self._fs, group))
        for index in range(head.desc_blocks):
            found.add(self._c.ext2fs_descriptor_block_loc2(self._fs, self._first, index))
        return sorted(found)

    def hasher(self, version: int, seed: bytes) -> Callable[[bytes], int]:
        """The hash of names in indexed directories (``version`` as the superblock has it, 3 more if unsigned)."""
        function = self._c.ext2fs_dirhash
        result = c_uint32()
        pointer = byref(result)
        key = ctypes.create_string_buffer(seed, 16) if any(seed) else None

        def hash_of(name: bytes) -> int:
            _demand("ext2fs_dirhash", function(version, name, len(name), key, pointer, None), self._path)
            return result.value

        return hash_of

    def flush(self) -> None:
        """Write bitmaps, group descriptors and, last, the superblock; ends with fsync."""
        _demand("ext2fs_flush2", self._c.ext2fs_flush2(self._fs, 0), self._path)


@contextlib.contextmanager
def undo_log(section: Section, path: str, block_size: int) -> Iterator[Callable[[int, bytes], None]]:
    """Make ``path``, a log for e2undo; yields save(first block, their present content).

    The content is written back where it came from, through the undo manager, which records it: so the log is
    complete before anything changes, and the blocks exist in a sparse image before a rollback needs them. The
    log is whole when the context ends without an error.
    """
    c = load()
    _demand("set_undo_io_backing_manager", c.set_undo_io_backing_manager(_manager("unix_io_manager")), path)
    _demand("set_undo_io_backup_file", c.set_undo_io_backup_file(os.fsencode(path)), path)
    fs = _open(section, _RW, "undo_io_manager", f"tdb_data_size={block_size}")
    try:
        channel = fs.contents.io

        def save(first: int, content: bytes) -> None:
            code = c.io_channel_write_blk64(channel, first, len(content) // block_size, content)
            _demand("io_channel_write_blk64", code, section.path)

        yield save
    except BaseException:
        c.ext2fs_free(fs)
        raise
    _demand("ext2fs_close_free", c.ext2fs_close_free(byref(fs)), path)
