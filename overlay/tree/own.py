"""A directory tree of one's own, in which what its owner closed to himself is read all the same.

``/etc/shadow`` of some distributions has mode 0000, which means nothing to root, nor to a container's. Such an entry
is opened to its owner for the moment: a file while it is opened or its attributes are read, a directory until the
tree is closed. A process in a user namespace may read them as they are, but sees the groups of others as nobody's.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from typing import TypeVar

from overlay.tree.view import DirectoryTree, Entry

T = TypeVar("T")


class OwnTree(DirectoryTree):
    """Close it, so that closed directories get their mode back."""

    def __init__(self, path: str) -> None:
        self._opened: dict[bytes, int] = {}  # directory -> the mode it had
        super().__init__(path)

    def close(self) -> None:
        while self._opened:
            os.chmod(*self._opened.popitem())

    def _despite(self, entry: Entry, read: Callable[[Entry], T]) -> T:
        try:
            return read(entry)
        except PermissionError:
            if entry.uid != os.geteuid() or not (entry.is_file or entry.is_directory):
                raise
        assert isinstance(entry.where, bytes)
        mode = stat.S_IMODE(entry.mode)
        os.chmod(entry.where, mode | (stat.S_IRWXU if entry.is_directory else stat.S_IRUSR))
        if entry.is_directory:
            self._opened[entry.where] = mode
            return read(entry)
        try:
            return read(entry)
        finally:
            os.chmod(entry.where, mode)

    def listdir(self, directory: Entry) -> list[Entry]:
        found = self._despite(directory, super().listdir)
        return [self._as_it_was(entry) for entry in found] if self._opened else found

    def _as_it_was(self, entry: Entry) -> Entry:
        assert isinstance(entry.where, bytes)
        mode = self._opened.get(entry.where)
        return entry if mode is None else entry._replace(mode=stat.S_IFMT(entry.mode) | mode)

    def xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        return self._despite(entry, super().xattrs)

    def open(self, entry: Entry) -> io.BufferedIOBase:
        return self._despite(entry, super().open)
