"""A tree written into a fresh ext3 image, as its upper/, without mounting it; and how large that has to be."""

from __future__ import annotations

import os

from overlay import whiteout
from overlay.extwrite.sink import ExtSink
from overlay.extwrite.writer import Writer
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.section import Section
from overlay.size import MIB
from overlay.tree.copy import Copier, Marks
from overlay.tree.loss import Report
from overlay.tree.view import Entry, Extent, Tree

if TYPE_CHECKING:
    from typing import Final

_FAST_LINK: Final = 60
_BLOCK: Final = 4096
_GROUP: Final = 8 * _BLOCK  # blocks that one bitmap speaks for


class Needs(NamedTuple):
    """Blocks of 4 KiB for contents, listings and attributes; and inodes."""

    blocks: int
    inodes: int


def needs(tree: Tree) -> Needs:
    """What ``tree`` takes in an ext3 image, on the safe side. Walks it once."""
    blocks, inodes = 16, 17
    waiting = [(b"", 24)]  # the directories that lead here, and the bytes of their listings so far
    seen: set[int] = set()
    for path, entry in tree.walk():
        while waiting[-1][0] and not path.startswith(waiting[-1][0] + b"/"):
            blocks += _listing(waiting.pop()[1])
        parent, size = waiting[-1]
        waiting[-1] = (parent, size + 8 + len(entry.name) + 3)
        if entry.is_directory:
            waiting.append((path, 24))
        elif entry.links > 1:
            if entry.inode in seen:
                continue
            seen.add(entry.inode)
        if not whiteout.is_whiteout(entry.mode, (os.major(entry.device), os.minor(entry.device))):
            inodes += 1
            blocks += _blocks(tree, entry)
    return Needs(blocks + sum(_listing(size) for _, size in waiting), inodes)


def _blocks(tree: Tree, entry: Entry) -> int:
    """Blocks for the contents and attributes of an entry."""
    blocks = 0
    if entry.is_file and entry.size:
        extents = tree.extents(entry) if entry.size > 16 * _BLOCK else [Extent(0, entry.size)]
        blocks = sum(-(-extent.length // _BLOCK) + 1 for extent in extents)
        blocks += blocks // 1024 + 4 if blocks > 11 else 0
    elif entry.is_symlink and entry.size >= _FAST_LINK:
        blocks = 1
    attributes = tree.xattrs(entry)
    return blocks + (sum(len(k) + len(v) + 20 for k, v in attributes.items()) > 80)


def _listing(size: int) -> int:
    # Blocks of an indexed directory are filled to two thirds on average, and have an index above them.
    return 1 if size < _BLOCK - 24 else size * 3 // 2 // _BLOCK + 3


def image_size(wanted: Needs, inodes: int) -> int:
    """Bytes of an image of ``inodes`` inodes with room for ``wanted`` and a quarter more, at least 64 MiB."""
    tables = -(-inodes * 256 // _BLOCK)
    blocks = wanted.blocks * 5 // 4 + tables + 6144  # the journal takes 4096 at most
    groups = -(-blocks // (_GROUP - 8)) + 1
    blocks += groups * 16 + 2 * 1024 * min(groups, 8)  # bitmaps, copies of the descriptors and room for more of them
    return max(64 * MIB, -(-blocks * _BLOCK // MIB) * MIB)


def write_ext(tree: Tree, section: Section, report: Report) -> None:
    """Write all of ``tree`` into upper/ of the fresh ext3 image ``section``, and give that the top's metadata.

    The image is of no use when this raises: what the tree raises, OSError (NoSpace when it is too small).
    """
    with Writer(section, None) as writer:
        upper = writer.lookup(writer.root, b"upper")
        sink = ExtSink(writer, upper, report)
        Copier(tree, sink, Marks.KEEP).copy_inside(tree.top, sink.made(upper), b"")
        sink.leave(upper, tree.top, tree.xattrs(tree.top), b"")
        writer.finish()
