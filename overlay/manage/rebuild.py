"""An ext3 overlay written anew with more inodes, whose number a file system keeps for its life.

All that is in it is carried over: owners, times, attributes, marks of every spelling, holes, hard links; label and
UUID too. What an ext3 file system of ours lacks goes: blocks smaller than 4 KiB, features of ext4, chattr flags.
"""

from __future__ import annotations

import errno
import os

from overlay import superblock
from overlay.e2fsprogs import FD_PREFIX, ToolError
from overlay.extwrite.sink import ExtSink
from overlay.extwrite.volume import NoSpace
from overlay.extwrite.writer import Writer, unchanged
from overlay.failure import Failure
from overlay.manage import check
from overlay.manage.create import BLOCK_SIZE, INODE_SIZE, format_like
from overlay.section import Section
from overlay.size import format_size
from overlay.superblock import ExtError, Superblock
from overlay.tree.copy import Copier, Marks
from overlay.tree.image import ExtTree
from overlay.tree.view import Entry


def size_for(old: Superblock, inodes: int) -> int:
    """Bytes of a file system with as much room for contents as ``old`` has and with ``inodes`` inodes."""
    more = max(0, inodes - old.inodes) * INODE_SIZE
    return -(-(old.size + more) // BLOCK_SIZE) * BLOCK_SIZE


def fill(section: Section, old: Superblock, fd: int, size: int, inodes: int) -> Superblock:
    """Make the empty file ``fd`` a file system of ``size`` bytes with ``inodes`` inodes and all that ``section`` holds.

    On disk and checked when this returns. The image in ``section`` is sound and locked. `Failure` when it does not
    fit; raises OSError, ToolError, ExtError.
    """
    os.ftruncate(fd, size)
    new = Section(f"{FD_PREFIX}{fd}", 0, size)
    try:
        format_like(new, old, inodes)
        with ExtTree(section) as tree, Writer(new, None) as writer:
            _carry(tree, writer)
            writer.finish()
    except (NoSpace, ToolError):  # mke2fs: not even its tables and journal fit
        brief = f"cannot rebuild {section.describe()} with a size of {format_size(size)}"
        cause = f"what is in it does not fit beside {inodes} inodes, which take {format_size(inodes * INODE_SIZE)}"
        raise Failure(brief, cause, "give it more: --size SIZE") from None
    verdict = check.check(new, mend=False)
    if not verdict.usable:  # nobody has seen it yet: the old one stays
        raise ExtError(f"the rebuilt image is not sound: {'; '.join(verdict.details[:3])}")
    os.fsync(fd)
    return superblock.read(fd)


def _carry(tree: ExtTree, writer: Writer) -> None:
    def times(entry: Entry) -> tuple[int, int]:
        found = tree.reader.inode(entry.inode)
        return found.atime_ns, found.ctime_ns

    def refuse(path: bytes, what: str) -> None:
        raise OSError(errno.ENOTSUP, what, os.fsdecode(path))

    sink = ExtSink(writer, writer.root, refuse, times)
    Copier(tree, sink, Marks.KEEP).copy_inside(tree.top, writer.root, b"/")
    for path in (b"", b"lost+found"):  # those two are there already
        number, found = writer.resolve(path), tree.reader.lookup(path)
        if number and found is not None:
            writer.set_attributes(number, unchanged(found, tree.reader.xattrs(found)))
