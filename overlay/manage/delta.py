"""What an overlay's upper layer says against its base: added, changed, deleted, replaced.

Without the base only what is certain: "A" is present in the overlay, new or in place of something; "O" is a
directory that hides whatever directory the base has there; "D" is deleted, if the base has it.

With the base: "A" the base has nothing there; "M" another content, target or kind; "m" only mode, owner, time
or attributes differ; "D" the base has it and the overlay hides it, a directory with all below it in one entry.
What is as in the base is left out, and opaque directories become what they delete.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from overlay.tree.layer import Content, Unreadable, content, steps
from overlay.tree.view import Entry, Tree

LETTERS: Final = "AMmDO"
_PIECE: Final = 1 << 20
# What drivers and security modules keep for themselves.
_OURS: Final = (b"user.overlay.", b"trusted.overlay.", b"user.fuseoverlayfs.", b"trusted.", b"security.selinux")
_SECOND: Final = 10**9


class Change(NamedTuple):
    """One entry: ``path`` is relative to the root. ``entry``: of the overlay, or with a base what is deleted.

    It is None for a deletion without a base. ``differs``: "content", "kind", "mode", "owner", "time",
    "attributes", as far as it was looked at.
    """

    letter: str
    path: bytes
    entry: Entry | None
    differs: tuple[str, ...] = ()


def changes(layer: Tree, base: Tree | None, unreadable: list[Unreadable]) -> Iterator[Change]:
    """All changes, depth first, siblings by name. The root itself is none. Raises as `Tree` does.

    Directories of the layer that may not be read are put on ``unreadable``.
    """
    return _alone(layer, unreadable) if base is None else _Comparison(layer, base, unreadable).run()


def _alone(layer: Tree, unreadable: list[Unreadable]) -> Iterator[Change]:
    for path, what, entry, _, _ in steps(layer, unreadable):
        if path:
            yield Change("D" if entry is None else "O" if what == "opaque" else "A", path, entry)


class _Comparison:
    """A layer, the base it lies on, and whose files runs make theirs."""

    def __init__(self, layer: Tree, base: Tree, unreadable: list[Unreadable]) -> None:
        self._layer = layer
        self._base = base
        self._unreadable = unreadable

    def run(self) -> Iterator[Change]:
        """Every change."""
        top = content(self._layer, self._layer.top)
        waiting = [self._directory(b"", top, self._base.top)]
        while waiting:
            found = next(waiting[-1], None)
            if found is None:
                waiting.pop()
                continue
            change, below = found
            if change is not None:
                yield change
            if below is not None:
                waiting.append(self._directory(*below))

    def _directory(
        self, lead: bytes, here: Content, under: Entry | None
    ) -> Iterator[tuple[Change | None, tuple[bytes, Content, Entry | None] | None]]:
        """What ``here`` says of the base's directory ``under``; with each directory what is to follow."""
        if under is None or not under.is_directory:
            for entry in here.entries:
                yield self._present(lead, entry, None, here)
            return
        old = {entry.name: entry for entry in self._base.listdir(under)}
        gone = old.keys() - {e.name for e in here.entries} if here.opaque else {d.name for d in here.deleted}
        new = {entry.name: entry for entry in here.entries}
        for name in sorted(new.keys() | (gone & old.keys())):
            if name in new:
                yield self._present(lead, new[name], old.get(name), here)
            else:
                yield Change("D", lead + name, old[name]), None

    def _present(
        self, lead: bytes, entry: Entry, old: Entry | None, here: Content
    ) -> tuple[Change | None, tuple[bytes, Content, Entry | None] | None]:
        path = lead + entry.name
        change = self._change(path, entry, old)
        if not entry.is_directory:
            return change, None
        try:
            below = content(self._layer, entry, entry.name in here.replaced)
        except PermissionError as error:
            self._unreadable.append(Unreadable(path, error))
            return change, None
        if here.opaque:  # nothing of the base shows in it, nor in what is in it
            below = below._replace(opaque=True)
        return change, (path + b"/", below, old)

    def _change(self, path: bytes, entry: Entry, old: Entry | None) -> Change | None:
        if old is None:
            return Change("A", path, entry)
        if entry.kind != old.kind:
            return Change("M", path, entry, ("kind",))
        content_differs = self._content_differs(entry, old)
        differs = [*(["content"] if content_differs else []), *self._metadata(entry, old)]
        if not differs:
            return None
        return Change("M" if content_differs else "m", path, entry, tuple(differs))

    def _content_differs(self, entry: Entry, old: Entry) -> bool:
        if entry.is_symlink:
            return self._layer.readlink(entry) != self._base.readlink(old)
        if not entry.is_file:
            return entry.device != old.device
        if entry.size != old.size:
            return True
        with self._layer.open(entry) as ours, self._base.open(old) as theirs:
            while True:
                piece = ours.read(_PIECE)
                if piece != theirs.read(_PIECE):
                    return True
                if not piece:
                    return False

    def _metadata(self, entry: Entry, old: Entry) -> Iterator[str]:
        if entry.mode != old.mode and not entry.is_symlink:
            yield "mode"
        # What a run copies up belongs to whoever runs it, whose the layer is: that is no change somebody made.
        owner = (self._layer.top.uid, self._layer.top.gid)
        if (entry.uid, entry.gid) not in ((old.uid, old.gid), owner):
            yield "owner"
        # A directory's time changes with what is in it. Squashfs and mke2fs -d keep whole seconds.
        if not entry.is_directory and _differ(entry.mtime_ns, old.mtime_ns):
            yield "time"
        if _own(self._layer.xattrs(entry)) != _own(self._base.xattrs(old)):
            yield "attributes"


def _differ(one: int, other: int) -> bool:
    if one % _SECOND and other % _SECOND:
        return one != other
    return one // _SECOND != other // _SECOND


def _own(attributes: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in attributes.items() if not name.startswith(_OURS)}


class Totals:
    """Sums over changes: entries by letter, bytes and inodes in all and below each directory.

    Bytes are those of the overlay's regular files, each counted once however many names it has; what is deleted
    has none.
    """

    def __init__(self) -> None:
        self.letters = dict.fromkeys(LETTERS, 0)
        self.bytes = self.inodes = 0
        self._own: dict[bytes, list[int]] = {}  # directory -> bytes and inodes directly in it
        self._seen: set[int] = set()

    def add(self, change: Change) -> None:
        self.letters[change.letter] += 1
        entry = change.entry
        if entry is None or change.letter == "D":
            return
        if entry.links > 1 and not entry.is_directory:
            if entry.inode in self._seen:
                return
            self._seen.add(entry.inode)
        size = entry.size if entry.is_file else 0
        self.bytes += size
        self.inodes += 1
        sums = self._own.setdefault(change.path.rpartition(b"/")[0], [0, 0])
        sums[0] += size
        sums[1] += 1

    def largest(self, count: int, by_inodes: bool) -> list[tuple[bytes, int]]:
        """The ``count`` directories with the most bytes (or inodes) in and below them, the top left out."""
        sums: dict[bytes, int] = {}
        for path, own in self._own.items():
            amount = own[by_inodes]
            while path:
                sums[path] = sums.get(path, 0) + amount
                path = path.rpartition(b"/")[0]
        return sorted(((p, s) for p, s in sums.items() if s), key=lambda pair: (-pair[1], pair[0]))[:count]
