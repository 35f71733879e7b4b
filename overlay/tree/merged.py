"""A base with an overlay's upper layer over it, as one tree: what a container would see.

Deleted names are gone, opaque directories hide the base's, every spelling is understood and none shows up.
"""

from __future__ import annotations

import io
from typing import NamedTuple

from overlay.tree.layer import content
from overlay.tree.spelled import own
from overlay.tree.view import BY_NAME, Entry, Extent, Tree


class _Place(NamedTuple):
    """An entry of the merged tree: what the layer has there, and what the base has under it.

    Of both only directories have both, and those that are to get the base's owner. ``replaced``: a file beside
    it in the layer makes it opaque.
    """

    layer: Entry | None
    base: Entry | None
    replaced: bool = False


class MergedTree(Tree):
    """``layer`` over ``base``; closing it closes both."""

    def __init__(self, base: Tree, layer: Tree, *, keep_owners: bool = True) -> None:
        """``keep_owners=False``: what belongs to the layer's own owner gets the owner that the base's file had.

        What an ordinary user's run changes belongs to him, whoever owned it in the base. What is new gets the
        owner of the directory it is in. Root's layers say who owns what, and are believed.
        """
        self._base = base
        self._layer = layer
        self._me = None if keep_owners or not layer.top.uid else (layer.top.uid, layer.top.gid)
        # The layer's top was made with the overlay, not copied from the base.
        self.top = base.top._replace(where=_Place(layer.top, base.top))

    def close(self) -> None:
        try:
            self._layer.close()
        finally:
            self._base.close()

    @staticmethod
    def _place(entry: Entry) -> _Place:
        assert isinstance(entry.where, _Place)
        return entry.where

    def _of_layer(self, directory: Entry, entry: Entry, base: Entry | None, replaced: bool) -> Entry:
        uid, gid = entry.uid, entry.gid
        if (uid, gid) == self._me:
            like = base or directory
            uid, gid = like.uid, like.gid
        under = base if entry.is_directory and base is not None and base.is_directory else None
        return entry._replace(uid=uid, gid=gid, inode=2 * entry.inode + 1, where=_Place(entry, under, replaced))

    @staticmethod
    def _of_base(entry: Entry) -> Entry:
        return entry._replace(inode=2 * entry.inode, where=_Place(None, entry))

    def listdir(self, directory: Entry) -> list[Entry]:
        place = self._place(directory)
        if place.layer is None:
            assert place.base is not None
            return [self._of_base(entry) for entry in self._base.listdir(place.base)]
        here = content(self._layer, place.layer, place.replaced)
        top = directory is self.top  # no driver lets that hide the image
        below: dict[bytes, Entry] = {}
        if place.base is not None and (top or not here.opaque):
            below = {entry.name: entry for entry in self._base.listdir(place.base)}
        for gone in here.deleted:
            below.pop(gone.name, None)
        found = [
            self._of_layer(directory, entry, below.pop(entry.name, None), entry.name in here.replaced)
            for entry in here.entries
        ]
        found += map(self._of_base, below.values())
        found.sort(key=BY_NAME)
        return found

    def _source(self, entry: Entry) -> tuple[Tree, Entry]:
        place = self._place(entry)
        if place.layer is not None and entry is not self.top:
            return self._layer, place.layer
        assert place.base is not None
        return self._base, place.base

    def xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        tree, source = self._source(entry)
        return own(tree.xattrs(source), entry.name)

    def readlink(self, entry: Entry) -> bytes:
        tree, source = self._source(entry)
        return tree.readlink(source)

    def extents(self, entry: Entry) -> list[Extent]:
        tree, source = self._source(entry)
        return tree.extents(source)

    def open(self, entry: Entry) -> io.BufferedIOBase:
        tree, source = self._source(entry)
        return tree.open(source)
