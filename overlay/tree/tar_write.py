"""A tar archive written entry by entry: ustar, with pax records for what that cannot say (pax(1), POSIX.1-2017).

Not the standard library's tarfile: it takes four times as long for each entry, keeps every entry in memory, and
writes no holes. Attributes are ``SCHILY.xattr.`` records and holes "GNU.sparse 1.0", as GNU tar, bsdtar, Go's
archive/tar (so OCI tools) and sqfstar read them. Names are bytes; where a record holds one that is not UTF-8,
``hdrcharset=BINARY`` says so.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Mapping
from typing import IO, Final, NamedTuple

from overlay.tree.view import Extent

BLOCK: Final = 512
_HEADER: Final = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_CHECKSUM_AT: Final = 148
_RECORD: Final = 20 * BLOCK  # the archive's length is a multiple of it
_LARGEST_ID: Final = 0o7777777
_LARGEST_SIZE = _LATEST = 0o77777777777
_SECOND: Final = 10**9
_TYPES: Final = {
    stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4", stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}  # fmt: skip
LINK: Final = b"1"


class Head(NamedTuple):
    """What a header says. ``mtime_ns``: nanoseconds since 1970; ``device``: of os.makedev."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    device: int = 0
    target: bytes = b""


class TarWriter:
    """Writes to ``stream``. ``whole_seconds``: leave out what is below a second, which saves most records."""

    def __init__(self, stream: IO[bytes], *, whole_seconds: bool = False) -> None:
        self._stream = stream
        self._whole = whole_seconds
        self._written = 0

    def add(self, head: Head, attributes: Mapping[bytes, bytes], *, link: bool = False) -> None:
        """Everything but files with contents: directories, symbolic links, nodes; ``link``: a hard link to ``target``.

        Raises ValueError for what tar has no type for (sockets).
        """
        kind = LINK if link else self._type(head.mode)
        self._write(self._headers(head._replace(size=0), kind, self._records(head, attributes)))

    def add_file(self, head: Head, attributes: Mapping[bytes, bytes], pieces: Iterable[bytes]) -> None:
        """A file whose contents, exactly ``head.size`` bytes, are ``pieces``. Raises EOFError when they are fewer."""
        self._write(self._headers(head, b"0", self._records(head, attributes)))
        self._contents(pieces, head.size, head.name)

    def add_sparse(
        self, head: Head, attributes: Mapping[bytes, bytes], extents: list[Extent], pieces: Iterable[bytes]
    ) -> None:
        """A file with holes; ``pieces`` are the bytes of ``extents`` alone."""
        if not extents or extents[-1].start + extents[-1].length < head.size:
            extents = [*extents, Extent(head.size, 0)]  # how GNU tar says where the file ends
        numbers = b"".join(b"%d\n%d\n" % extent for extent in extents)
        sparse_map = b"%d\n" % len(extents) + numbers
        sparse_map += bytes(-len(sparse_map) % BLOCK)
        records = self._records(head, attributes)
        records += [
            (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", head.name),
            (b"GNU.sparse.realsize", b"%d" % head.size),
        ]  # fmt: skip
        data = sum(extent.length for extent in extents)
        stored = head._replace(size=len(sparse_map) + data)
        self._write(self._headers(stored, b"0", records))
        self._write(sparse_map)
        self._contents(pieces, data, head.name)

    def end(self) -> None:
        """Two blocks of zeros, and more up to a whole record; the stream stays open."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self._written % _RECORD))

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._written += len(data)

    def _contents(self, pieces: Iterable[bytes], size: int, name: bytes) -> None:
        left = size
        for piece in pieces:
            if len(piece) > left:  # it grew since
                piece = piece[:left]
            self._write(piece)
            left -= len(piece)
            if not left:
                break
        if left:
            raise EOFError(f"{os.fsdecode(name)} became shorter while it was read")
        self._write(bytes(-size % BLOCK))

    def _type(self, mode: int) -> bytes:
        try:
            return _TYPES[stat.S_IFMT(mode)]
        except KeyError:
            raise ValueError("tar has no type for this kind of file") from None

    def _records(self, head: Head, attributes: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Pax records for attributes and times; those for names and numbers depend on what is stored."""
        records = [(b"SCHILY.xattr." + name, attributes[name]) for name in sorted(attributes)]
        seconds, rest = divmod(head.mtime_ns, _SECOND)
        if not 0 <= seconds <= _LATEST or (rest and not self._whole):
            fraction = b".%09d" % rest if rest and not self._whole else b""
            if seconds < 0 and fraction:  # the fraction counts away from zero there
                seconds, rest = seconds + 1, _SECOND - rest
                fraction = b".%09d" % rest
            sign = b"-" if head.mtime_ns < 0 and seconds == 0 else b""
            records.append((b"mtime", sign + b"%d" % seconds + fraction))
        return records

    def _headers(self, head: Head, kind: bytes, records: list[tuple[bytes, bytes]]) -> bytes:
        """The header, behind an extended one where that is needed."""
        name, target = head.name, head.target
        if len(name) > 100:
            records.append((b"path", name))
            name = _last(name)
        if len(target) > 100:
            records.append((b"linkpath", target))
            target = target[:100]
        uid, gid, size = head.uid, head.gid, head.size
        if uid > _LARGEST_ID:
            records.append((b"uid", b"%d" % uid))
            uid = 0
        if gid > _LARGEST_ID:
            records.append((b"gid", b"%d" % gid))
            gid = 0
        if size > _LARGEST_SIZE:
            records.append((b"size", b"%d" % size))
            size = 0
        seconds = min(max(head.mtime_ns // _SECOND, 0), _LATEST)
        plain = _header(name, head.mode, uid, gid, size, seconds, kind, target, head.device)
        if not records:
            return plain
        body = b"".join(_record(*record) for record in records)
        if any(not _is_text(value) for key, value in records if key in (b"path", b"linkpath", b"GNU.sparse.name")):
            body = _record(b"hdrcharset", b"BINARY") + body
        extended = _header(_last(b"PaxHeaders/" + head.name), 0o644, 0, 0, len(body), seconds, b"x", b"", 0)
        return extended + body + bytes(-len(body) % BLOCK) + plain


def _last(name: bytes) -> bytes:
    """At most 100 bytes of a name: those who know no pax records see them."""
    return name[:100]


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, where LENGTH counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _header(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, target: bytes, device: int
) -> bytes:
    header = bytearray(_HEADER.pack(
        name, b"%07o" % (mode & 0o7777), b"%07o" % uid, b"%07o" % gid, b"%011o" % size, b"%011o" % mtime,
        b"        ", kind, target, b"ustar\x0000", b"", b"", b"%07o" % os.major(device), b"%07o" % os.minor(device),
        b"",
    ))  # fmt: skip
    header[_CHECKSUM_AT : _CHECKSUM_AT + 8] = b"%06o\0 " % sum(header)
    return bytes(header)
