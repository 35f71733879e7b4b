"""What a tar archive holds, as a table on disk: archives say things in any order, twice, and by the million.

The standard library's tarfile reads the headers. What it finds goes into an SQLite database that has no name and
is gone with its connection; memory does not grow with the archive. A later entry replaces an earlier one of
the same name, as when the archive is unpacked.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final

from overlay.tree.view import Extent

_SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16384;
CREATE TABLE node (id INTEGER PRIMARY KEY, mode INT, uid INT, gid INT, size INT, links INT, mtime_ns INT,
                   device INT, data INT, target BLOB, extents BLOB, attributes BLOB);
CREATE TABLE name (parent INT, name BLOB, node INT, PRIMARY KEY (parent, name)) WITHOUT ROWID;
"""
TOP: Final = 1
_KINDS: Final = {
    tarfile.REGTYPE: stat.S_IFREG, tarfile.AREGTYPE: stat.S_IFREG, tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK, tarfile.DIRTYPE: stat.S_IFDIR, tarfile.FIFOTYPE: stat.S_IFIFO,
}  # fmt: skip
_XATTR: Final = "SCHILY.xattr."
_REMEMBERED: Final = 10_000  # directories whose place in the table is known
_SECOND: Final = 10**9
_LARGEST: Final = 2**63 - 1


class TarError(ValueError):
    """The bytes are not a tar archive this code can trust; the text says where and why."""


def build(stream: IO[bytes]) -> sqlite3.Connection:
    """The table of the archive in ``stream``, a seekable file. Raises TarError, OSError."""
    table = sqlite3.connect("")  # "": a file of its own without a name, made when there is much
    try:
        table.executescript(_SCHEMA)
        _Index(table).read(stream)
    except BaseException:
        table.close()
        raise
    return table


class _Index:
    def __init__(self, table: sqlite3.Connection) -> None:
        self._table = table
        self._directories: dict[bytes, int] = {}
        self._insert(stat.S_IFDIR | 0o755)

    def read(self, stream: IO[bytes]) -> None:
        try:
            with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
                while (member := archive.next()) is not None:
                    self._add(member)
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                # At a header it does not understand it just stops, as if that were the end.
                stream.seek(archive.offset)
                if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise TarError(f"damaged, or cut off, at byte {archive.offset}")
        except tarfile.TarError as error:
            raise TarError(f"it is no tar archive, or a damaged one: {error}") from None
        several = self._table.execute("SELECT count(*), node FROM name GROUP BY node HAVING count(*) > 1")
        self._table.executemany("UPDATE node SET links = ? WHERE id = ?", several)

    def _insert(self, mode: int, **fields: object) -> int:
        names = ["mode", *fields]
        marks = ",".join("?" * len(names))
        done = self._table.execute(
            f"INSERT INTO node ({','.join(names)}) VALUES ({marks})",
            (mode, *fields.values()),
        )
        assert done.lastrowid is not None
        return done.lastrowid

    def _add(self, member: tarfile.TarInfo) -> None:
        parts = _parts(_raw(member.name))
        if member.islnk():
            self._link(parts, _parts(_raw(member.linkname)))
            return
        kind = _KINDS.get(member.type)
        if kind is None:
            raise TarError(f"{member.name!r}: an entry of type {member.type!r}, which is not known here")
        fields = _fields(member, kind)
        mode = kind | member.mode & 0o7777
        if not parts:
            if kind == stat.S_IFDIR:
                self._change(TOP, mode, fields)
            return
        parent = self._directory(parts[:-1])
        found = self._lookup(parent, parts[-1])
        if found is not None and kind == stat.S_IFDIR and self._is_directory(found):
            self._change(found, mode, fields)
            return
        self._put(parent, parts[-1], self._insert(mode, **fields))

    def _link(self, parts: list[bytes], target: list[bytes]) -> None:
        node: int | None = TOP
        for part in target:
            node = self._lookup(node, part) if node is not None else None
        if node is None or self._is_directory(node):
            raise TarError(f"{os.fsdecode(b'/'.join(parts))}: a hard link to {os.fsdecode(b'/'.join(target))}, "
                           "which is no file in the archive before it")  # fmt: skip
        if parts:
            self._put(self._directory(parts[:-1]), parts[-1], node)

    def _put(self, parent: int, name: bytes, node: int) -> None:
        replaced = self._lookup(parent, name)
        if replaced is not None and self._is_directory(replaced):
            self._directories.clear()
        self._table.execute("INSERT OR REPLACE INTO name VALUES (?,?,?)", (parent, name, node))

    def _change(self, node: int, mode: int, fields: Mapping[str, object]) -> None:
        assignments = ",".join(f"{name} = ?" for name in fields)
        self._table.execute(f"UPDATE node SET mode = ?, {assignments} WHERE id = ?",
                            (mode, *fields.values(), node))  # fmt: skip

    def _lookup(self, parent: int, name: bytes) -> int | None:
        found = self._table.execute("SELECT node FROM name WHERE parent = ? AND name = ?", (parent, name)).fetchone()
        return None if found is None else int(found[0])

    def _is_directory(self, node: int) -> bool:
        (mode,) = self._table.execute("SELECT mode FROM node WHERE id = ?", (node,)).fetchone()
        return stat.S_ISDIR(mode)

    def _directory(self, parts: list[bytes]) -> int:
        """The directory ``parts``; what of it the archive has not named is made."""
        path, depth = b"/".join(parts), len(parts)
        while depth and path not in self._directories:
            depth -= 1
            path = path.rpartition(b"/")[0]
        node = self._directories[path] if depth else TOP
        for name in parts[depth:]:
            path = path + b"/" + name if path else name
            node = self._below(node, name, path)
            if len(self._directories) >= _REMEMBERED:
                self._directories.clear()
            self._directories[path] = node
        return node

    def _below(self, parent: int, name: bytes, path: bytes) -> int:
        node = self._lookup(parent, name)
        if node is None:
            node = self._insert(stat.S_IFDIR | 0o755)
            self._table.execute("INSERT INTO name VALUES (?,?,?)", (parent, name, node))
        elif not self._is_directory(node):
            raise TarError(f"{os.fsdecode(path)} is no directory, and yet something lies below it")
        return node


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _parts(path: bytes) -> list[bytes]:
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts or any(len(part) > 255 or b"\0" in part for part in parts):
        raise TarError(f"{os.fsdecode(path)[:200]!r}: not a path an archive may have")
    return parts


def _fields(member: tarfile.TarInfo, kind: int) -> dict[str, object]:
    size = member.size if kind == stat.S_IFREG else 0
    device = 0
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        device = os.makedev(member.devmajor, member.devminor)
    target = _raw(member.linkname) if kind == stat.S_IFLNK else b""
    # A larger one is no uid, and cut to 32 bits it may be root's.
    owners = all(-(2**31) <= number < 2**32 for number in (member.uid, member.gid))
    if not owners or not 0 <= size <= _LARGEST or not 0 <= device <= _LARGEST:
        raise TarError(f"{member.name!r}: impossible numbers")
    attributes = {
        _raw(key[len(_XATTR) :]): _raw(value) for key, value in member.pax_headers.items() if key.startswith(_XATTR)
    }
    told: Any = member.sparse  # (start, length), which typeshed does not know
    extents = [Extent(start, length) for start, length in told or () if length]
    if any(e.start < 0 or e.length < 0 or e.start + e.length > size for e in extents):
        raise TarError(f"{member.name!r}: data outside the file")
    return {
        "uid": member.uid & 0xFFFFFFFF, "gid": member.gid & 0xFFFFFFFF, "size": size or len(target), "links": 1,
        "mtime_ns": _mtime(member), "device": device, "data": member.offset_data, "target": target,
        "extents": _packed(extents) if told is not None else None,
        "attributes": _pairs(attributes),
    }  # fmt: skip


def _mtime(member: tarfile.TarInfo) -> int:
    """Nanoseconds since 1970; tarfile's own number is a float, which has not as many digits."""
    text = member.pax_headers.get("mtime", "")
    seconds, _, fraction = text.partition(".")
    try:
        whole = int(seconds or "0") if text else int(member.mtime)
        rest = int(fraction[:9].ljust(9, "0")) if fraction else 0
    except (ValueError, OverflowError):
        return 0
    found = whole * _SECOND + (-rest if text.startswith("-") else rest)
    return min(max(found, -_LARGEST), _LARGEST)


def _packed(extents: list[Extent]) -> bytes:
    return b"".join(b"%d %d\n" % extent for extent in extents)


def unpacked(data: bytes) -> list[Extent]:
    """The extents in the column of that name."""
    return [Extent(*map(int, line.split())) for line in data.splitlines()]


def _pairs(attributes: Mapping[bytes, bytes]) -> bytes | None:
    if not attributes:
        return None
    return b"".join(b"%d %d\n%b%b" % (len(k), len(v), k, v) for k, v in attributes.items())


def attributes_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The pairs in the column ``attributes``."""
    at = 0
    while at < len(data):
        line = data.index(b"\n", at)
        name, value = map(int, data[at:line].split())
        middle = line + 1 + name
        yield data[line + 1 : middle], data[middle : middle + value]
        at = middle + value
