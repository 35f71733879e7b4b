"""A tar archive as a tree, in whatever order it tells things; a compressed one is unpacked to a nameless file first."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from typing import IO, Any, Final

from overlay.extread.file import Extent as Stored
from overlay.extread.file import ExtFile
from overlay.tree import tar_index
from overlay.tree.view import Entry, Extent, Tree

_PIECE: Final = 1 << 20
_COLUMNS: Final = "node.mode, uid, gid, size, links, node.id, mtime_ns, device"
# first bytes -> the module of the standard library that unpacks them ("": the caller's function for zstd)
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "lzma", b"\x28\xb5\x2f\xfd": ""}

# A stream of zstd -> what it unpacks to.
Unzstd = Callable[[IO[bytes]], IO[bytes]]


class TarTree(Tree):
    """The archive in ``stream``, which stays open until `close`; a seekable file is read where it is."""

    def __init__(self, stream: IO[bytes], unzstd: Unzstd, scratch: str | None = None) -> None:
        """``scratch``: where what must be unpacked, or came by a pipe, is put. Raises TarError, OSError."""
        self._stream = seekable(stream, unzstd, scratch)
        try:
            self._table = tar_index.build(self._stream)
        except BaseException:
            self._stream.close()
            raise
        self.top = self._entry(b"", self._table.execute(f"SELECT {_COLUMNS} FROM node WHERE id = 1").fetchone())

    def close(self) -> None:
        self._table.close()
        self._stream.close()

    @staticmethod
    def _entry(name: bytes, row: tuple[Any, ...]) -> Entry:
        mode, uid, gid, size, links, number, mtime_ns, device = row
        return Entry(name, mode, uid or 0, gid or 0, size or 0, links or 1, number, mtime_ns or 0, device or 0, number)

    def listdir(self, directory: Entry) -> list[Entry]:
        rows = self._table.execute(
            f"SELECT name, {_COLUMNS} FROM name JOIN node ON node.id = name.node WHERE parent = ? ORDER BY name",
            (directory.inode,),
        )
        return [self._entry(row[0], row[1:]) for row in rows]

    def _column(self, entry: Entry, column: str) -> Any:
        (value,) = self._table.execute(f"SELECT {column} FROM node WHERE id = ?", (entry.inode,)).fetchone()
        return value

    def readlink(self, entry: Entry) -> bytes:
        return bytes(self._column(entry, "target"))

    def xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        return dict(tar_index.attributes_of(self._column(entry, "attributes") or b""))

    def extents(self, entry: Entry) -> list[Extent]:
        packed = self._column(entry, "extents")
        return super().extents(entry) if packed is None else tar_index.unpacked(packed)

    def open(self, entry: Entry) -> io.BufferedIOBase:
        place = int(self._column(entry, "data") or 0)
        stored = []
        for start, length in self.extents(entry):
            stored.append(Stored(start, place, length))
            place += length
        return io.BufferedReader(ExtFile(self._stream.fileno(), entry.size, stored))


def seekable(stream: IO[bytes], unzstd: Unzstd, scratch: str | None) -> IO[bytes]:
    """``stream`` itself if it can seek and is not compressed, else a nameless file in ``scratch`` with its contents."""
    there = stream.seekable()
    start = stream.tell() if there else 0
    first = stream.read(6)
    form = next((name for magic, name in _COMPRESSED.items() if first.startswith(magic)), None)
    if there:
        stream.seek(start)
        if form is None and not start:
            return stream
        source: IO[bytes] = stream
    else:
        source = io.BufferedReader(_Joined(first, stream), _PIECE)
    spool = tempfile.TemporaryFile(dir=scratch)
    try:
        unpacked = source if form is None else _unpacked(form, source, unzstd)
        while piece := unpacked.read(_PIECE):
            spool.write(piece)
        spool.seek(0)
    except (EOFError, OSError, ValueError) as error:
        spool.close()
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise tar_index.TarError(f"damaged compressed data: {error}") from None
    return spool


def _unpacked(form: str, source: IO[bytes], unzstd: Unzstd) -> IO[bytes]:
    if not form:
        return unzstd(source)
    from importlib import import_module

    opened: IO[bytes] = import_module(form).open(source, "rb")
    return opened


class _Joined(io.RawIOBase):
    """``first``, then the rest of ``stream``."""

    def __init__(self, first: bytes, stream: IO[bytes]) -> None:
        self._first = first
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` with what there is."""
        data = self._first[: len(buffer)] if self._first else self._stream.read(len(buffer))
        self._first = self._first[len(data) :] if self._first else b""
        memoryview(buffer).cast("B")[: len(data)] = data
        return len(data)
