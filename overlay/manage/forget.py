"""Forgetting changes: a name taken out of an overlay, so that what the base has there shows again.

The same for files and directories that the overlay holds and for names that it deletes, in every spelling.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from overlay import remove, whiteout
from overlay.tree.layer import Content, content
from overlay.tree.view import Entry, Tree

if TYPE_CHECKING:
    from overlay.extwrite.writer import Writer

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """What an overlay says of a name. ``names``: what stands for it in the directory ``parent``, a path in upper/.

    ``kind``: of what is there, "" when the name is only deleted. ``hidden``: the directory on the way that hides
    the base's, so that nothing shows there again, or None.
    """

    parent: bytes
    names: tuple[bytes, ...]
    kind: str
    hidden: bytes | None


class Finder:
    """Finds names in ``layer``; each directory on the way is read once, however many names are asked for."""

    def __init__(self, layer: Tree) -> None:
        self._layer = layer
        self._read: dict[bytes, tuple[Content, dict[bytes, Entry], dict[bytes, Entry]]] = {}

    def _directory(
        self, path: bytes, entry: Entry, replaced: bool
    ) -> tuple[Content, dict[bytes, Entry], dict[bytes, Entry]]:
        """What the directory says, its entries, and all that is stored in it."""
        found = self._read.get(path)
        if found is None:
            here = content(self._layer, entry, replaced)
            stored = {below.name: below for below in self._layer.listdir(entry)}
            found = self._read[path] = here, {below.name: below for below in here.entries}, stored
        return found

    def find(self, path: bytes) -> Found:
        """What the layer says of ``path``, which is not its top.

        Raises FileNotFoundError when it says nothing, NotADirectoryError; both with the part of the path in question.
        """
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        here, entries, stored = self._directory(b"", self._layer.top, False)
        hidden = b"/" if here.opaque else None
        so_far = b""
        for number, part in enumerate(parts):
            parent, so_far = so_far, so_far + b"/" + part
            below = entries.get(part)
            if number + 1 == len(parts):
                mark = stored.get(whiteout.PREFIX + part)
                names = [part] if part in stored else []
                names += [whiteout.PREFIX + part] if mark is not None and not mark.is_directory else []
                if not names:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(so_far))
                return Found(parent[1:], tuple(names), below.kind if below is not None else "", hidden)
            if below is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(so_far))
            if not below.is_directory:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(so_far))
            replaced = part in here.replaced
            here, entries, stored = self._directory(so_far, below, replaced)
            hidden = so_far if here.opaque else hidden
        raise ValueError("the top of an overlay is no name in it")


def forget(overlay: str, found: Found) -> None:
    """Take what was found out of the directory overlay ``overlay``, which is locked. Raises OSError.

    By one rename into work/, where a kill leaves it for ``sifkit overlay check --fix``.
    """
    work = os.path.join(os.fsencode(overlay), b"work")
    aside = os.path.join(work, b".sifkit-%s.old" % os.urandom(12).hex().encode())
    with contextlib.suppress(FileExistsError):
        os.mkdir(work, 0o755)
    os.mkdir(aside, 0o700)
    try:
        directory = _open(os.fsencode(f"{overlay}/upper"), found.parent)
        try:
            for name in found.names:
                _set_aside(directory, name, aside + b"/" + name)
        finally:
            os.close(directory)
    finally:
        remove.remove(aside)


def forget_in_image(writer: Writer, top: int, found: Found) -> None:
    """Take what was found out of the image that ``writer`` has open, below its inode ``top``."""
    directory = top
    for part in found.parent.split(b"/"):
        directory = writer.lookup(directory, part) if part else directory
    for name in found.names:
        writer.unlink(directory, name)


def _set_aside(directory: int, name: bytes, new: bytes) -> None:
    try:
        os.rename(name, new, src_dir_fd=directory)
    except PermissionError:  # a directory that its owner closed: moving it changes its ".."
        os.chmod(name, 0o700, dir_fd=directory)
        os.rename(name, new, src_dir_fd=directory)


def _open(top: bytes, path: bytes) -> int:
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in path.split(b"/"):
        if part:
            try:
                below = os.open(part, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
    return fd
