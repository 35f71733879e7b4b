"""Copying from a tree (`overlay.tree.view`) to wherever a `Sink` writes: a directory, an ext image.

Everything is kept that the sink can keep: owner, mode, time, attributes, holes, hard links among what is copied.
What it cannot is reported (`overlay.tree.loss`).
"""

from __future__ import annotations

import abc
import enum
import errno
import os
import stat
from collections.abc import Hashable
from typing import Generic, TypeVar

from overlay import whiteout
from overlay.tree.layer import content
from overlay.tree.loss import Report
from overlay.tree.spelled import own
from overlay.tree.view import Entry, Tree

H = TypeVar("H")


class Marks(enum.Enum):
    """What becomes of the marks for deleted and replaced things (`overlay.whiteout`).

    LEAVE them out: from an overlay to plain files. REFUSE: from plain files, where something that looks like one
    would delete, into an overlay. KEEP: from an overlay to another.
    """

    LEAVE = "leave"
    REFUSE = "refuse"
    KEEP = "keep"


class Sink(abc.ABC, Generic[H]):
    """Where entries are written. H stands for a directory that is being filled.

    ``path`` is only for messages. Methods raise OSError. What exists is replaced, but not a directory by anything else
    nor anything else by a directory; a directory that exists is filled and keeps its own attributes.
    """

    def __init__(self, report: Report) -> None:
        """``report`` is told what cannot be kept."""
        self.report = report

    @abc.abstractmethod
    def directory(self, parent: H, name: bytes, path: bytes) -> H:
        """Open the directory ``name`` of ``parent``, made if it is missing."""

    @abc.abstractmethod
    def leave(self, directory: H, entry: Entry, attributes: dict[bytes, bytes], path: bytes) -> None:
        """The directory is complete: give it what belongs to it, if it was made."""

    @abc.abstractmethod
    def file(
        self, parent: H, name: bytes, entry: Entry, attributes: dict[bytes, bytes], tree: Tree, path: bytes
    ) -> None:
        """Write the regular file ``entry`` of ``tree``."""

    @abc.abstractmethod
    def special(
        self, parent: H, name: bytes, entry: Entry, attributes: dict[bytes, bytes], target: bytes, path: bytes
    ) -> bool:
        """Make a symbolic link to ``target``, a device, a pipe or a socket; False where that cannot be."""

    @abc.abstractmethod
    def link(self, parent: H, name: bytes, existing: bytes, path: bytes) -> bool:
        """Make ``name`` another name of what was written as ``existing`` (a ``path``); False where that cannot be."""


class Copier(Generic[H]):
    """One act of copying; hard links are known across its `copy` calls.

    ``left_out`` counts marks that were left out, ``missing`` what could not be made.
    """

    def __init__(self, tree: Tree, sink: Sink[H], marks: Marks) -> None:
        self._tree = tree
        self._sink = sink
        self._marks = marks
        self._written: dict[Hashable, bytes] = {}
        self.left_out = self.missing = 0

    def copy(self, entry: Entry, parent: H, name: bytes, path: bytes) -> None:
        """Copy ``entry`` with all below it to ``name`` in ``parent``; ``path`` is that place, for messages.

        Raises OSError with a path in it; ValueError for what is refused, and for damage.
        """
        waiting = [iter([(name, entry)])]
        places = [(parent, entry, path[: len(path) - len(name)])]
        try:
            while waiting:
                into, of, lead = places[-1]
                found = next(waiting[-1], None)
                if found is None:
                    waiting.pop()
                    places.pop()
                    if waiting:
                        path = lead[:-1]
                        self._sink.leave(into, of, self._attributes(of), path)
                    continue
                name, entry = found
                path = lead + name
                if entry.is_directory:
                    directory = self._sink.directory(into, name, path)
                    places.append((directory, entry, path + b"/"))
                    waiting.append(iter(self._inside(entry, path)))
                else:
                    self._one(into, name, entry, path)
        except EOFError as error:
            raise OSError(errno.EIO, str(error), os.fsdecode(path)) from error
        except OSError as error:
            error.filename = os.fsdecode(path)
            raise

    def copy_inside(self, directory: Entry, into: H, path: bytes) -> None:
        """`copy` of everything in ``directory`` to the directory ``into``, which is ``path``."""
        lead = path.rstrip(b"/") + b"/" if path else b""
        for name, entry in self._inside(directory, path):
            self.copy(entry, into, name, lead + name)

    def _inside(self, directory: Entry, path: bytes) -> list[tuple[bytes, Entry]]:
        if self._marks is Marks.LEAVE:
            said = content(self._tree, directory)
            self.left_out += len(said.deleted) + said.opaque
            return [(entry.name, entry) for entry in said.entries]
        found = self._tree.listdir(directory)
        if self._marks is Marks.REFUSE:
            for entry in found:
                refuse_mark(entry, path + b"/" + entry.name)
        return [(entry.name, entry) for entry in found]

    def _attributes(self, entry: Entry) -> dict[bytes, bytes]:
        found = self._tree.xattrs(entry)
        return own(found, entry.name) if found and self._marks is not Marks.KEEP else found

    def _one(self, into: H, name: bytes, entry: Entry, path: bytes) -> None:
        """Anything but a directory."""
        key: Hashable = None
        if entry.links > 1:
            key = self._tree.identity(entry)
            first = self._written.get(key)
            if first is not None:
                if self._sink.link(into, name, first, path):
                    return
                if not whiteout.is_whiteout(entry.mode, (os.major(entry.device), os.minor(entry.device))):
                    self._sink.report(path, "hard links, of which this file system has no more")
        if entry.is_file:
            self._sink.file(into, name, entry, self._attributes(entry), self._tree, path)
        else:
            target = self._tree.readlink(entry) if entry.is_symlink else b""
            if not self._sink.special(into, name, entry, self._attributes(entry), target, path):
                self.missing += 1
                return
        if key is not None:
            self._written.setdefault(key, path)


def refuse_mark(entry: Entry, path: bytes) -> None:
    """ValueError for what would delete something if it came to lie in an overlay."""
    device = entry.mode & 0o170000 == stat.S_IFCHR and not entry.device
    if device or (entry.name.startswith(whiteout.PREFIX) and not entry.is_directory):
        spelled = "a device 0:0" if device else "a name that begins with .wh."
        raise ValueError(f"{os.fsdecode(path)!r}: {spelled} means in an overlay that something is deleted")
