"""An image's whiteouts said again in layers of our own, for an image that is only read.

Kernel overlayfs does not read fuse-overlayfs's spelling, and under a FUSE server that gives no type with
each name (fuse2fs before 1.47.3) it lists even its own whiteouts as names that cannot be opened. The image
cannot be changed, so its upper directory is stacked between two small directories:

    ABOVE : image's upper : BELOW : other layers

ABOVE holds a whiteout for every deleted name and for every marker file, which hides both everywhere below.
An opaque directory must hide the other layers and still show what the image has in it: a mark in ABOVE
would hide both, a whiteout for each name of the other layers would have to be kept up with them. So the mark
is in BELOW, underneath the image and above the rest, where it says exactly that.

Directories in ABOVE stand for those of the image when they are looked at, hence carry their mode, times and
attributes. fuse-overlayfs reads all spellings by itself and is given the image alone.
"""

from __future__ import annotations

import os

from overlay import whiteout
from overlay.extread.look_like import look_like
from overlay.extread.reader import ExtReader, Inode
from overlay.records import NamedTuple
from overlay.whiteout import Whiteouts

_MODE_WHILE_MAKING = 0o700


class Layers(NamedTuple):
    """Which of the two directories are needed; empty strings for those that were not made."""

    above: str
    below: str


def build(
    reader: ExtReader, found: Whiteouts, above: str, below: str, *, typed: bool, mark: str, top: bytes = b"/upper"
) -> Layers:
    """Make the directories ``above`` and ``below``, as far as ``found`` (of ``scan_image``) needs them.

    ``typed``: the mounted image gives d_type, so the kernel knows its devices by itself. ``mark``: the
    attribute the mount will read, whiteout.KERNEL_MARK under userxattr, whiteout.ROOT_MARK without.
    Raises OSError: EEXIST, EOPNOTSUPP where extended attributes are missing (tmpfs before Linux 6.6).
    """
    hidden = [path for path in found.deleted if not (typed and path in found.devices)]
    hidden += found.markers
    opaque = [path for path, marks in found.opaque.items() if mark not in marks]
    if hidden:
        _above(reader, above, hidden, top)
    if opaque:
        _below(below, opaque)
    return Layers(above if hidden else "", below if opaque else "")


def _below(place: str, opaque: list[bytes]) -> None:
    os.mkdir(place, 0o755)
    for path in opaque:
        directory = os.path.join(os.fsencode(place), path)
        os.makedirs(directory, 0o755, exist_ok=True)
        whiteout.mark_opaque(directory.rstrip(b"/"))


def _above(reader: ExtReader, place: str, hidden: list[bytes], top: bytes) -> None:
    """Make the whiteouts, and after them, deepest first, the directories look like the image's."""
    base = os.fsencode(place)
    os.mkdir(base, _MODE_WHILE_MAKING)
    made = {b""}
    for path in hidden:
        parent = path.rpartition(b"/")[0]
        _make_parents(base, parent, made)
        whiteout.make_whiteout(base + b"/" + path)
    for path, inode in _inodes(reader, top, made):
        look_like(reader, inode, base + b"/" + path if path else base)


def _make_parents(base: bytes, path: bytes, made: set[bytes]) -> None:
    missing = []
    while path not in made:
        missing.append(path)
        made.add(path)
        path = path.rpartition(b"/")[0]
    for directory in reversed(missing):
        os.mkdir(base + b"/" + directory, _MODE_WHILE_MAKING)


def _inodes(reader: ExtReader, top: bytes, paths: set[bytes]) -> list[tuple[bytes, Inode]]:
    """The image's inodes of ``paths``, below before above: giving a directory its times must come last."""
    found: dict[bytes, Inode] = {}
    for path in sorted(paths, key=lambda path: (path.count(b"/"), path)):
        parent, _, name = path.rpartition(b"/")
        inode = reader.lookup(top) if not path else _child(reader, found.get(parent), name)
        if inode is not None:
            found[path] = inode
    return list(reversed(found.items()))


def _child(reader: ExtReader, directory: Inode | None, name: bytes) -> Inode | None:
    if directory is None:
        return None
    number = next((entry.inode for entry in reader.listdir(directory) if entry.name == name), 0)
    return reader.inode(number) if number else None
