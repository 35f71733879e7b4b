"""One read-only view over a tree, whatever holds it: a directory, an ext image or a squashfs.

Nothing is mounted. Paths and names are bytes. `listdir` gives what is there as it is stored; what of it are
marks for deleted and replaced things is said by `overlay.tree.layer`.
"""

from __future__ import annotations

import abc
import errno
import io
import os
import stat
from collections.abc import Hashable, Iterator
from operator import itemgetter
from types import TracebackType
from typing import Final, NamedTuple, Self

from overlay.whiteout import OPAQUE_MARKS

KINDS: Final = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char-device",
    stat.S_IFBLK: "block-device", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
}  # fmt: skip
BY_NAME: Final = itemgetter(0)


class Entry(NamedTuple):
    """A name and what stat(2) says: sizes in bytes, times in nanoseconds since 1970.

    ``device``: of a device node, as os.makedev spells it, else 0. ``inode`` is the same for hard links of one
    file; ``where`` is the tree's own handle.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    links: int
    inode: int
    mtime_ns: int
    device: int
    where: object

    @property
    def kind(self) -> str:
        return KINDS.get(stat.S_IFMT(self.mode), "unknown")

    @property
    def is_directory(self) -> bool:
        return self.mode & 0o170000 == 0o040000

    @property
    def is_file(self) -> bool:
        return self.mode & 0o170000 == 0o100000

    @property
    def is_symlink(self) -> bool:
        return self.mode & 0o170000 == 0o120000


class Extent(NamedTuple):
    """``length`` bytes of data from byte ``start`` of a file on; what no extent names is a hole."""

    start: int
    length: int


class Tree(abc.ABC):
    """A tree; ``top`` is its root entry, with an empty name. Use it as a context manager or `close` it.

    Methods raise OSError where the host refuses, and ValueError (ExtError, SquashError) where an image is
    damaged.
    """

    top: Entry
    opaque_marks: tuple[str, ...] = OPAQUE_MARKS  # attributes that mean something in it, when it is an upper layer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - a directory holds nothing open
        """Let go of the image."""

    @abc.abstractmethod
    def listdir(self, directory: Entry) -> list[Entry]:
        """What is in ``directory``, by name."""

    @abc.abstractmethod
    def readlink(self, entry: Entry) -> bytes:
        """Where a symbolic link points."""

    @abc.abstractmethod
    def xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        """Extended attributes with full names, as far as the caller may see them."""

    @abc.abstractmethod
    def open(self, entry: Entry) -> io.BufferedIOBase:
        """The contents of a regular file as a stream; valid while the tree is open."""

    def extents(self, entry: Entry) -> list[Extent]:
        """Where a regular file has data, ascending; what lies between is holes. Small files may have none."""
        return [Extent(0, entry.size)] if entry.size else []

    def identity(self, entry: Entry) -> Hashable:
        """The same for all hard links of one file, and for nothing else in the tree."""
        return entry.inode

    def lookup(self, path: bytes) -> Entry | None:
        """What is at ``path`` below the top; symbolic links are not followed. None when nothing is."""
        found = self.top
        for part in path.split(b"/"):
            if part in (b"", b"."):
                continue
            if not found.is_directory:
                return None
            below = next((entry for entry in self.listdir(found) if entry.name == part), None)
            if below is None:
                return None
            found = below
        return found

    def walk(self, top: Entry | None = None) -> Iterator[tuple[bytes, Entry]]:
        """Everything below ``top`` with its path relative to it: parents first, siblings by name."""
        waiting = [iter([(b"", top or self.top)])]
        while waiting:
            found = next(waiting[-1], None)
            if found is None:
                waiting.pop()
                continue
            path, entry = found
            if path:
                yield found
            if entry.is_directory:
                lead = path + b"/" if path else b""
                waiting.append(iter([(lead + below.name, below) for below in self.listdir(entry)]))


class DirectoryTree(Tree):
    """A directory of the host."""

    def __init__(self, path: str) -> None:
        """Raises OSError when ``path`` is no directory, or cannot be looked at."""
        where = os.fsencode(path)
        self.top = _of_stat(b"", os.stat(where), where)
        if not self.top.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)

    def listdir(self, directory: Entry) -> list[Entry]:
        assert isinstance(directory.where, bytes)
        with os.scandir(directory.where) as found:
            entries = [_of_stat(entry.name, entry.stat(follow_symlinks=False), entry.path) for entry in found]
        entries.sort(key=BY_NAME)
        return entries

    def readlink(self, entry: Entry) -> bytes:
        assert isinstance(entry.where, bytes)
        return os.readlink(entry.where)

    def xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        assert isinstance(entry.where, bytes)
        try:
            names = os.listxattr(entry.where, follow_symlinks=False)
            return {os.fsencode(n): os.getxattr(entry.where, n, follow_symlinks=False) for n in names}
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODATA):
                return {}
            raise

    def extents(self, entry: Entry) -> list[Extent]:
        if entry.size < _LEAST_WITH_HOLES:
            return super().extents(entry)
        with self.open(entry) as stream:
            return list(_holes(stream.fileno(), entry.size))

    def open(self, entry: Entry) -> io.BufferedIOBase:
        assert isinstance(entry.where, bytes)
        # Should it have become a link or a pipe since, we neither follow nor wait.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        return io.BufferedReader(io.FileIO(os.open(entry.where, flags), "rb"))

    def identity(self, entry: Entry) -> Hashable:
        assert isinstance(entry.where, bytes)
        return os.lstat(entry.where).st_dev, entry.inode  # a directory may have other file systems in it

    def at(self, path: bytes) -> Entry:
        """What is at ``path`` of the host; symbolic links as the last part are not followed. Raises OSError."""
        return _of_stat(os.path.basename(path), os.lstat(path), path)


_PIECE: Final = 1 << 20
_LEAST_WITH_HOLES: Final = 64 << 10


def pieces(tree: Tree, entry: Entry, extents: list[Extent] | None = None) -> Iterator[tuple[int, bytes]]:
    """The data of a regular file (of ``extents`` of it): pieces of at most 1 MiB, each with its offset; no holes.

    Raises EOFError when the file has become shorter, besides what the tree raises.
    """
    with tree.open(entry) as stream:
        for start, length in tree.extents(entry) if extents is None else extents:
            if stream.tell() != start:
                stream.seek(start)
            at, end = start, start + length
            while at < end:
                piece = stream.read(min(end - at, _PIECE))
                if not piece:
                    raise EOFError(f"{os.fsdecode(entry.name)} became shorter while it was read")
                yield at, piece
                at += len(piece)


def _holes(fd: int, size: int) -> Iterator[Extent]:
    """The extents of the regular file open at ``fd`` (lseek(2), SEEK_DATA)."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            start, at = at, size  # a file system that knows no holes
        if start < size:
            yield Extent(start, min(at, size) - start)


def _of_stat(name: bytes, found: os.stat_result, where: bytes) -> Entry:
    return Entry(
        name, found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_nlink, found.st_ino,
        found.st_mtime_ns, found.st_rdev, where,
    )  # fmt: skip
