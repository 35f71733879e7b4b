"""Room for a commit: what it needs against what the image has, and growing the image by what is missing.

Computed before anything is written. Blocks come with `overlay.resize`; inodes too, as ext3 has them by size.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from overlay import resize, superblock
from overlay.e2fsprogs import ToolError
from overlay.failure import Failure
from overlay.section import Section
from overlay.size import MIB, format_size

# Given the section and the size in bytes that its file system is to have: grows it and says where it is then.
Enlarge = Callable[[Section, int], Section]


class Limit(NamedTuple):
    """How far an image may grow: not at all without ``grow``, else to ``most`` bytes.

    0: by half of what is free on the image's file system.
    """

    grow: bool = True
    most: int = 0


class NoRoom(Exception):
    """The changes do not fit. ``size``: bytes that the image would need, 0 when more would not help."""

    def __init__(self, cause: str, size: int = 0) -> None:
        super().__init__(cause)
        self.size = size


def make(section: Section, size: int, inodes: int, limit: Limit, enlarge: Enlarge) -> Section:
    """Have ``section`` hold ``size`` more bytes and ``inodes`` more inodes, growing it by ``enlarge`` if need be.

    Where the image is then. Raises NoRoom with nothing changed, `Failure`, OSError, ExtError.
    """
    facts = _facts(section)
    lacking = _lacking(facts, size, inodes)
    if lacking <= 0:
        return section
    missing = _words(facts, size, inodes)
    wanted = facts.size + lacking
    if not limit.grow:
        raise NoRoom(f"{missing}, and --no-grow is given", wanted)
    most = limit.most or facts.size + _half_of_free(section.path)
    if wanted > most:
        where = "--max-size" if limit.most else "half of what is free on its file system"
        needed = f"it would need a size of {format_size(wanted)}"
        raise NoRoom(f"{missing}: {needed}, and {where} allows {format_size(most)}", wanted)
    # A little more than needed: the next run will write too, and growing costs a look at all metadata.
    generous = min(most, wanted + max(64 * MIB, wanted // 8))
    try:
        return enlarge(section, generous - generous % facts.block_size)
    except ToolError as error:
        raise NoRoom(f"{missing}, and it cannot grow: {error.said}", wanted) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise NoRoom(f"{missing}, and there is no space for more of it: {error.strerror}") from None


def _facts(section: Section) -> superblock.Superblock:
    fd = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return superblock.read(fd, section.offset)
    finally:
        os.close(fd)


def _lacking(facts: superblock.Superblock, size: int, inodes: int) -> int:
    """Bytes by which the file system must grow; 0 when it need not."""
    free = (facts.free_blocks - facts.reserved_blocks) * facts.block_size
    group = facts.blocks_per_group * facts.block_size
    # What a new group keeps for itself: bitmaps, its inodes, a copy of the descriptors.
    descriptors = 1 + facts.reserved_gdt_blocks + facts.groups // 64
    kept = facts.inodes_per_group * facts.inode_size + (2 + descriptors) * facts.block_size
    grown = 0
    if size > free:
        grown = (size - free) * group // max(group - kept, facts.block_size) + group // 4
    if inodes > facts.free_inodes:
        # The last group may be cut short and bring fewer; whole groups are asked for.
        groups = -(-(inodes - facts.free_inodes) // facts.inodes_per_group)
        whole = facts.groups * group - facts.size
        grown = max(grown, groups * group + whole)
    return grown


def _words(facts: superblock.Superblock, size: int, inodes: int) -> str:
    if inodes > facts.free_inodes:
        return f"it has {facts.free_inodes} inodes free, and the changes need {inodes}"
    free = max(0, facts.free_blocks - facts.reserved_blocks) * facts.block_size
    return f"it has {free // 1024} KiB free, and the changes need {-(-size // 1024)} KiB"


def _half_of_free(path: str) -> int:
    space = os.statvfs(os.path.dirname(os.path.abspath(path)))
    return space.f_bavail * space.f_frsize // 2


def enlarge_file(section: Section, size: int) -> Section:
    """Grow the ext3 image that is its whole file, in place. The caller holds the lock exclusively."""
    if section.offset:
        raise NoRoom("it lies inside another file, where it cannot grow by itself", size)
    fd = os.open(section.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        reserve = resize.allocated(fd)
        after = resize.grown(section._replace(size=max(size, section.size)), size, reserve)
        if after is None:
            raise NoRoom("its features do not let it grow where it is", size)
        with contextlib.suppress(OSError):
            os.ftruncate(fd, after.size)
    finally:
        os.close(fd)
    return Section(section.path, 0, after.size)


def refusal(brief: str, error: NoRoom, session: str) -> Failure:
    """What a person is told of changes of ``session`` that do not fit."""
    room = f"--max-size {-(-error.size // MIB)}M " if error.size else ""
    return Failure(brief, str(error), f"sifkit session commit {room}{session}")
