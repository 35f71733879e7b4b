"""A directory overlay for commands that show no owners: subordinate ids are taken on when something is closed without.

To find out if there is anything of theirs takes a look at every file, so half as long as `overlay diff`. What can be
read without them is the same with them, but for its owners.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TypeVar

from overlay.tree.view import DirectoryTree, Entry
from sifkit.cli import subids

T = TypeVar("T")


class OwnerlessTree(DirectoryTree):
    """An overlay's ``upper/``. As a namespace is entered in the midst of reading, no other thread may run beside it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._overlay = os.path.dirname(path)
        self._asked = False

    def _despite(self, read: Callable[[Entry], T], entry: Entry) -> T:
        try:
            return read(entry)
        except PermissionError:
            if self._asked:
                raise
            self._asked = True
            if subids.enter_for([self._overlay]) is None:
                raise
            return read(entry)

    def listdir(self, directory: Entry) -> list[Entry]:
        return self._despite(super().listdir, directory)

    def xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        return self._despite(super().xattrs, entry)

    def open(self, entry: Entry) -> io.BufferedIOBase:
        return self._despite(super().open, entry)
