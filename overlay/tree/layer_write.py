"""Writing into the upper layer of an overlay, whatever holds it: what concerns the base that is not there."""

from __future__ import annotations

import abc
import os
import stat
import time

from overlay.tree.copy import H, Sink
from overlay.tree.loss import Report
from overlay.tree.view import Entry, Tree


class LayerSink(Sink[H]):
    """A sink that is an overlay's upper layer, ``top`` its top directory.

    A deleted name that is written again exists again; as a directory it is opaque, so that nothing comes back that
    was deleted. ``guessed``: directories made on the way to something without a base that tells what they look like.
    """

    top: H

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.guessed: list[bytes] = []

    def place(self, directory: bytes, base: Tree | None) -> H:
        """The directory at this path; where it is missing it is made, with its parents, as ``base`` has them.

        They belong to whom the top does. Raises OSError; ValueError where the base has something else there.
        """
        here, path, alone = self.top, b"", self.is_opaque(self.top)
        for name in directory.split(b"/"):
            if name in (b"", b"."):
                continue
            path += b"/" + name
            try:
                alone = alone or self.hides(here, name)
                if self.has_directory(here, name):
                    here = self.keep(self.directory(here, name, path))
                    alone = alone or self.is_opaque(here)
                else:
                    here = self._make(here, name, path, 0o755 if alone else parent_mode(path, base))
            except OSError as error:
                raise OSError(error.errno, error.strerror, os.fsdecode(path)) from None
        return here

    def _make(self, parent: H, name: bytes, path: bytes, mode: int | None) -> H:
        if mode is None:
            self.guessed.append(path)
        uid, gid = self.owner()
        kind = stat.S_IFDIR | (0o755 if mode is None else mode)
        made = self.directory(parent, name, path)
        kept = self.keep(made)
        self.leave(made, Entry(name, kind, uid, gid, 0, 2, 0, time.time_ns(), 0, b""), {}, path)
        return kept

    @abc.abstractmethod
    def owner(self) -> tuple[int, int]:
        """Of the top."""

    @abc.abstractmethod
    def has_directory(self, parent: H, name: bytes) -> bool:
        """Whether there is a directory ``name`` in ``parent``."""

    @abc.abstractmethod
    def hides(self, parent: H, name: bytes) -> bool:
        """Whether the layer says of ``name`` that it is deleted, or was before it was made again."""

    @abc.abstractmethod
    def is_opaque(self, directory: H) -> bool:
        """Whether nothing of the base shows in the directory."""

    @abc.abstractmethod
    def keep(self, directory: H) -> H:
        """The directory, to be used further when `leave` has been called for it."""


def parent_mode(path: bytes, base: Tree | None) -> int | None:
    """The mode of a directory that must be made in an overlay because the base has it; None when nobody knows.

    0755 where the base has none. Raises ValueError where it has something else, which a directory would hide.
    """
    if base is None:
        return None
    found = base.lookup(path)
    if found is None:
        return 0o755
    if found.is_symlink:
        target = os.fsdecode(base.readlink(found))
        raise ValueError(f"{os.fsdecode(path)} is a symbolic link to {target} in the image: copy to that directory")
    if not found.is_directory:
        raise ValueError(f"{os.fsdecode(path)} is a {found.kind} in the image, and a directory would hide it")
    return stat.S_IMODE(found.mode)
