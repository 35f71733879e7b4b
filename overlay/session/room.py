"""Room for a commit: what it needs against what the image has, and growing the image by what is missing.

Computed before anything is written. Blocks come with `overlay.manage.resize`; inodes too, as ext3 has them by
size. Where that many would make it much too large, the image is rebuilt with more of them (`overlay.manage.rebuild`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable

from overlay import superblock
from overlay.e2fsprogs import ToolError
from overlay.failure import Failure
from overlay.locks import ofd
from overlay.manage import rebuild, resize, resize_grow
from overlay.manage.create import BLOCK_SIZE
from overlay.records import NamedTuple
from overlay.section import Section
from overlay.size import MIB, format_size

# Given the section and the size in bytes that its file system is to have: grows it and says where it is then. Given
# a number of inodes too, not 0: rebuilds it with as many, or raises `CannotRebuild` with nothing changed.
Enlarge = Callable[[Section, int, int], Section]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Limit(NamedTuple):
    """How far an image may grow: not at all without ``grow``, else to ``most`` bytes.

    0: by half of what is free on the image's file system.
    """

    grow: bool = True
    most: int = 0


class NoRoom(Exception):
    """The changes do not fit. ``size``: bytes that the image would need, 0 when more would not help.

    ``hint``: a command that has to come before the commit.
    """

    def __init__(self, cause: str, size: int = 0, hint: str = "") -> None:
        super().__init__(cause)
        self.size = size
        self.hint = hint


class CannotRebuild(Exception):
    """Why an image cannot be rebuilt where it is. ``hint``: the command that gives it inodes, if one can."""

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.hint = hint


class _Wanted(NamedTuple):
    """The size in bytes to have, and the inodes to rebuild with; 0: it grows in place."""

    size: int
    inodes: int = 0


def make(section: Section, size: int, inodes: int, limit: Limit, enlarge: Enlarge) -> Section:
    """Have ``section`` hold ``size`` more bytes and ``inodes`` more inodes, growing it by ``enlarge`` if need be.

    Where the image is then. Raises NoRoom with nothing changed, `Failure`, OSError, ExtError.
    """
    facts = _facts(section)
    wanted = _resized(facts, size, inodes)
    if wanted.size <= facts.size:
        return section
    missing = _words(facts, size, inodes)
    most = limit.most or facts.size + _half_of_free(section.path)
    hint = ""
    if inodes > facts.free_inodes and wanted.size > min(most, 2 * facts.size):
        rebuilt = _rebuilt(facts, size, inodes)
        if not limit.grow or rebuilt.size > most:
            wanted = min(wanted, rebuilt)
        else:
            try:
                section = _grow(section, missing, rebuilt, most, enlarge)
                facts = _facts(section)  # what it holds may lie in it in another way: blocks may lack now
                wanted = _resized(facts, size, inodes)
                if wanted.size <= facts.size:
                    return section
            except CannotRebuild as error:
                missing, hint = f"{missing}, and it cannot be rebuilt with more: {error}", error.hint
    if not limit.grow:
        raise NoRoom(f"{missing}, and --no-grow is given", wanted.size)
    if wanted.size > most:
        where = "--max-size" if limit.most else "half of what is free on its file system"
        needed = f"it would need a size of {format_size(wanted.size)}"
        raise NoRoom(f"{missing}: {needed}, and {where} allows {format_size(most)}", wanted.size, hint)
    return _grow(section, missing, wanted, most, enlarge)


def _grow(section: Section, missing: str, wanted: _Wanted, most: int, enlarge: Enlarge) -> Section:
    # A little more than needed: the next run will write too, and growing costs a look at all metadata.
    spare = 0 if wanted.inodes else max(64 * MIB, wanted.size // 8)
    generous = min(most, wanted.size + spare)
    try:
        return enlarge(section, generous - generous % BLOCK_SIZE, wanted.inodes)
    except ToolError as error:
        raise NoRoom(f"{missing}, and it cannot grow: {error.said}", wanted.size) from None
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise NoRoom(f"{missing}, and there is no space for more of it: {error.strerror}") from None


def _facts(section: Section) -> superblock.Superblock:
    fd = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return superblock.read(fd, section.offset)
    finally:
        os.close(fd)


def _resized(facts: superblock.Superblock, size: int, inodes: int) -> _Wanted:
    """The size that gives room by growing in place; the present one when there is room."""
    grown = _lacking_blocks(facts, size)
    if inodes > facts.free_inodes:
        # The last group may be cut short and bring fewer; whole groups are asked for.
        group = facts.blocks_per_group * facts.block_size
        groups = -(-(inodes - facts.free_inodes) // facts.inodes_per_group)
        whole = facts.groups * group - facts.size
        grown = max(grown, groups * group + whole)
    return _Wanted(facts.size + grown)


def _rebuilt(facts: superblock.Superblock, size: int, inodes: int) -> _Wanted:
    """The same by a new file system with as many inodes as are needed, and a quarter more for the next run."""
    number = facts.inodes + inodes - facts.free_inodes
    number += number // 4
    least = rebuild.size_for(facts, number) + _lacking_blocks(facts, size)
    return _Wanted(least + max(MIB, least // 64), number)


def _lacking_blocks(facts: superblock.Superblock, size: int) -> int:
    """Bytes by which the file system must grow to hold ``size`` more; 0 when it need not."""
    free = (facts.free_blocks - facts.reserved_blocks) * facts.block_size
    if size <= free:
        return 0
    group = facts.blocks_per_group * facts.block_size
    # What a new group keeps for itself: bitmaps, its inodes, a copy of the descriptors.
    descriptors = 1 + facts.reserved_gdt_blocks + facts.groups // 64
    kept = facts.inodes_per_group * facts.inode_size + (2 + descriptors) * facts.block_size
    return (size - free) * group // max(group - kept, facts.block_size) + group // 4


def _words(facts: superblock.Superblock, size: int, inodes: int) -> str:
    if inodes > facts.free_inodes:
        return f"it has {facts.free_inodes} inodes free, and the changes need {inodes}"
    free = max(0, facts.free_blocks - facts.reserved_blocks) * facts.block_size
    return f"it has {free // 1024} KiB free, and the changes need {-(-size // 1024)} KiB"


def _half_of_free(path: str) -> int:
    space = os.statvfs(os.path.dirname(os.path.abspath(path)))
    return space.f_bavail * space.f_frsize // 2


def enlarge_file(section: Section, size: int, inodes: int = 0) -> Section:
    """`Enlarge` for the ext3 image that is its whole file. The caller holds the lock exclusively."""
    if section.offset:
        raise NoRoom("it lies inside another file, where it cannot grow by itself", size)
    if inodes:
        return _rebuild_file(section, size, inodes)
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


def _rebuild_file(section: Section, size: int, inodes: int) -> Section:
    """A new file with more inodes takes the name of the image. Killed before that, nothing is left of it."""
    path = os.path.realpath(section.path)
    old = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        facts = resize.sound(section, thorough=True)
        with resize.replacement(path, old) as fd:
            after = resize.fill(section, facts, fd, resize.Wanted(size, inodes))
            if resize.allocated(old):
                resize_grow.reserve(fd, 0, after.size, path)
            lock_for_good(os.dup(fd), Section(path, 0, after.size))
    except Failure as failure:
        raise CannotRebuild(failure.cause) from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise CannotRebuild(f"its directory cannot be written ({error.strerror})") from None
        if error.errno == errno.EINVAL:  # its group is not one of the namespace's: outside it can be kept
            raise CannotRebuild("its group cannot be kept from inside the run") from None
        raise
    finally:
        os.close(old)
    return Section(section.path, 0, after.size)


def lock_for_good(kept: int, new: Section) -> None:
    """Lock the ``new`` image before anybody can find it, until this process and its children have ended.

    ``kept``: the file, open, and never to be closed: it keeps the lock. The caller's own is on the old image.
    """
    with contextlib.suppress(ofd.CannotLock):  # then the caller has none either, and has said so
        ofd.try_lock(kept, fcntl.F_WRLCK, new.offset, new.size, new.path)


def refusal(brief: str, error: NoRoom, session: str) -> Failure:
    """What a person is told of changes of ``session`` that do not fit."""
    commit = f"sifkit session commit {session}"
    larger = f"sifkit session commit --max-size {-(-error.size // MIB)}M {session}" if error.size else ""
    first = f"{error.hint}, then {commit}" if error.hint else ""
    return Failure(brief, str(error), "; or ".join(text for text in (first, larger) if text) or commit)
