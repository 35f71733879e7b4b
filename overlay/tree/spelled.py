"""An overlay's upper layer with all its marks in one spelling, as it is to be written somewhere.

`DEVICES`: a deleted name is a character device 0:0, and an opaque directory carries every mark in use, so that
kernel overlayfs (for root and for others), fuse-overlayfs and Apptainer as root honour it. Apptainer as an ordinary
user mounts kernel overlayfs without ``userxattr``, where no mark can be read. So with a base, what an opaque directory
hides of it is deleted name by name instead of being marked. Not both: in a marked directory the kernel lists
whiteouts as if they were files. `FILES`: ``.wh.NAME`` and ``.wh..wh..opq``, as in the layers of OCI images, before what
else is in their directory.

What drivers note for themselves (``user.overlay.origin`` and so on) and the labels of the host's security module
(security.selinux) are left out. An entry that is not all there, because it says "content as in the image"
(``metacopy``, ``redirect``), is refused.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping
from typing import Final

from overlay import whiteout
from overlay.failure import Failure
from overlay.tree.layer import Content, content
from overlay.tree.view import BY_NAME, Entry, Extent, Tree

DEVICES, FILES = "devices", "files"
OPAQUE_FILE: Final = b".wh..wh..opq"
_PREFIX: Final = b".wh."
_NOTES: Final = (b"user.overlay.", b"trusted.overlay.", b"user.fuseoverlayfs.")
_LABEL: Final = b"security.selinux"
_REFERENCES: Final = (
    b"user.overlay.metacopy", b"trusted.overlay.metacopy", b"user.overlay.redirect", b"trusted.overlay.redirect",
)  # fmt: skip
_MARKS: Final = {whiteout.KERNEL_MARK.encode(): b"y"}  # why not the others: commit_tree


def own(attributes: Mapping[bytes, bytes], name: bytes) -> dict[bytes, bytes]:
    """What of ``attributes`` belongs to the file itself. `Failure` when the file, ``name``, is not all there."""
    if not attributes:
        return {}
    for reference in _REFERENCES:
        if reference in attributes:
            raise Failure(
                f"cannot take {os.fsdecode(name)} out of its overlay",
                f"it refers to another place in the image ({reference.decode()}), so only part of it is here",
                "copy it within a run that shows both (cp -a FILE NEW; mv NEW FILE), then try again",
            )
    return {k: v for k, v in attributes.items() if not k.startswith(_NOTES) and k != _LABEL}


class SpelledTree(Tree):
    """``layer`` with its marks spelled as ``spelling`` says; closing it closes the layer.

    ``opaque``: how many opaque directories there were so far.
    """

    def __init__(self, layer: Tree, spelling: str = DEVICES, base: Tree | None = None) -> None:
        """``base``: what the layer lies on, to name what opaque directories delete (with `DEVICES`)."""
        self._layer = layer
        self._base = base
        # inode of a directory -> the base's directory there, and whether that is hidden
        self._under: dict[int, tuple[Entry, bool]] = {} if base is None else {layer.top.inode: (base.top, False)}
        self.opaque = 0
        self._spelling = spelling
        self.top = layer.top
        self._replaced: set[int] = set()  # inodes of directories that a file beside them makes opaque
        self._last: tuple[int, Content] | None = None

    def close(self) -> None:
        self._layer.close()

    def _content(self, directory: Entry) -> Content:
        if self._last is None or self._last[0] != directory.inode:
            found = content(self._layer, directory, directory.inode in self._replaced)
            self._replaced.update(e.inode for e in found.entries if e.name in found.replaced)
            self._last = (directory.inode, found)
            self.opaque += found.opaque and directory is not self.top
        return self._last[1]

    def _mark(self, name: bytes) -> Entry:
        top = self.top
        mode = stat.S_IFCHR if self._spelling == DEVICES else stat.S_IFREG | 0o600
        return Entry(name, mode, top.uid, top.gid, 0, 1, 0, top.mtime_ns, 0, None)

    def listdir(self, directory: Entry) -> list[Entry]:
        found = self._content(directory)
        hidden = self._hidden(directory, found) if directory.inode in self._under else []
        if hidden:
            gone = {deleted.name for deleted in found.deleted}.union(hidden)
            return sorted([*found.entries, *map(self._mark, gone)], key=BY_NAME)
        if not found.deleted and not (found.opaque and self._spelling == FILES):
            return found.entries
        if self._spelling == DEVICES:
            return sorted([*found.entries, *(self._mark(gone.name) for gone in found.deleted)], key=BY_NAME)
        marks = [OPAQUE_FILE] if found.opaque else []
        marks += [_PREFIX + gone.name for gone in found.deleted]
        return [*map(self._mark, marks), *found.entries]

    def _hidden(self, directory: Entry, here: Content) -> list[bytes]:
        """Names of the base that the opaque ``directory``, or one above it, hides and that are not in it."""
        assert self._base is not None
        under, hides = self._under[directory.inode]
        hides = hides or (here.opaque and directory is not self.top)
        names = {entry.name: entry for entry in self._base.listdir(under)}
        for entry in here.entries:
            below = names.pop(entry.name, None)
            if below is not None and below.is_directory and entry.is_directory:
                self._under[entry.inode] = (below, hides)
        return list(names) if hides else []

    def xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        if entry.where is None:
            return {}
        attributes = own(self._layer.xattrs(entry), entry.name)
        # That the top is opaque would mean that there is no image; no driver reads it so.
        marked = self._spelling == DEVICES and entry.is_directory and entry is not self.top
        if marked and entry.inode not in self._under and self._content(entry).opaque:
            attributes.update(_MARKS)
        return attributes

    def readlink(self, entry: Entry) -> bytes:
        return self._layer.readlink(entry)

    def extents(self, entry: Entry) -> list[Extent]:
        return self._layer.extents(entry) if entry.where is not None else []

    def open(self, entry: Entry) -> io.BufferedIOBase:
        return self._layer.open(entry) if entry.where is not None else io.BytesIO()
