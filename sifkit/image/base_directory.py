"""A directory as a base to read: what is closed to the caller is told as something about the base.

Otherwise a command that writes a tree from it would name the place in the new image, and nobody could tell that it
was reading that failed. An image in a file has no such files: whoever reads the file reads all of it.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

from overlay.failure import Failure
from overlay.tree.view import DirectoryTree, Entry

_LEAST_SUBORDINATE = 65536  # useradd(8) gives ranges from 100000; nobody has them among the ids of people


class BaseDirectory(DirectoryTree):
    """Its methods raise `Failure` where DirectoryTree's raise PermissionError."""

    def listdir(self, directory: Entry) -> list[Entry]:
        with _told(directory):
            return super().listdir(directory)

    def xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        with _told(entry):
            return super().xattrs(entry)

    def open(self, entry: Entry) -> io.BufferedIOBase:
        with _told(entry):
            return super().open(entry)


@contextlib.contextmanager
def _told(entry: Entry) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        assert isinstance(entry.where, bytes)
        kind = "directory" if entry.is_directory else "file"
        mode = entry.mode & 0o7777
        cause = f"this {kind} of the base is closed to you (uid {entry.uid}, mode {mode:04o})"
        hint = "run it as root, or give a SIF or squashfs file of that base, in which nothing is closed"
        if entry.uid >= _LEAST_SUBORDINATE:
            hint = f"if uid {entry.uid} is a subordinate one of yours: unshare --map-root-user --map-auto sifkit ..."
        raise Failure(f"cannot read {os.fsdecode(entry.where)}", cause, hint) from None
