"""Larger and smaller ext3 overlays: what is asked for in bytes, and how it is done so that nothing is ever half done.

Growing happens in place (`overlay.manage.resize_grow`). Shrinking moves data, which no journal holds; it is done on a
copy that takes the old file's name when it is complete and on disk. More inodes than the size gives need a new file
system (`overlay.manage.rebuild`), which takes the old one's name in the same way.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from overlay import e2fsprogs, newfile, superblock
from overlay.failure import Failure
from overlay.locks import lock
from overlay.manage import check, resize_grow
from overlay.manage.create import BLOCK_SIZE
from overlay.section import Section
from overlay.size import format_size
from overlay.superblock import Superblock

_RECORDS: Final = "user.sifkit.lock."
_ALLOCATED: Final = 0.95  # an image of which this much is on disk was made to have its space reserved


class Wish(NamedTuple):
    """What is asked for, in bytes: the new ``size``, or ``add`` to the present one, or the ``minimum``; room for
    at least ``inodes`` files. With ``inodes`` alone the file system grows by what they take themselves.
    """

    size: int = 0
    add: int = 0
    minimum: bool = False
    inodes: int = 0


class Resized(NamedTuple):
    """The file system ``before`` and ``after``; ``in_place``: not by a copy that was swapped in."""

    before: Superblock
    after: Superblock
    in_place: bool


class Wanted(NamedTuple):
    """``size``: bytes of the file system, whole blocks; None: as few as can be. ``inodes``: to rebuild with, else 0."""

    size: int | None
    inodes: int = 0


def wanted(sb: Superblock, wish: Wish) -> Wanted:
    """What ``wish`` means for this file system, which has its inodes by size: one that is large enough gives them."""
    if wish.minimum:
        return Wanted(None)
    size = wish.size or sb.size + wish.add
    if wish.inodes > sb.inodes:
        from overlay.manage import rebuild

        if not (wish.size or wish.add):
            size = rebuild.size_for(sb, wish.inodes)
        # A last group that is cut short may be dropped by resize2fs, so whole groups are asked for.
        least = -(-wish.inodes // sb.inodes_per_group) * sb.blocks_per_group * sb.block_size
        if size < least:
            return Wanted(size - size % BLOCK_SIZE, wish.inodes)
    return Wanted(size - size % sb.block_size)


def resize_file(path: str, wish: Wish) -> Resized:
    """Resize the ext3 image ``path``, which is locked meanwhile.

    Killed at any moment, the old or the new overlay is there; after a kill while it grew it may need the replay
    of its journal, which its next user does. Raises InUse, `Failure`, OSError, ToolError, ValueError.
    """
    path = os.path.realpath(path)
    with lock.acquire(Section(path, 0, os.stat(path).st_size), exclusive=True) as held:
        section = Section(path, 0, os.fstat(held.fd).st_size)
        sb = sound(section)
        size, inodes = wanted(sb, wish)
        reserve = allocated(held.fd)
        if size is not None and size >= sb.size and not inodes:
            after = sb if size == sb.size else grown(section._replace(size=max(size, section.size)), size, reserve)
            if after is not None:
                os.truncate(path, after.size)  # what lay behind a file system that did not fill its file
                return Resized(sb, after, True)
        sound(section, thorough=True)
        with replacement(path, held.fd) as fd:
            after = fill(section, sb, fd, Wanted(size, inodes))
            if reserve:
                resize_grow.reserve(fd, 0, after.size, path)
        return Resized(sb, after, False)


def grown(section: Section, size: int, reserve: bool) -> Superblock | None:
    """`resize_grow.grow`; None where that cannot be and a copy is needed."""
    try:
        return resize_grow.grow(section, size, reserved=reserve)
    except resize_grow.Unfit:
        return None


def allocated(fd: int) -> bool:
    """Whether the file has its space on disk, so that an enlarged one is to have it too."""
    found = os.fstat(fd)
    return found.st_blocks * 512 >= found.st_size * _ALLOCATED


def sound(section: Section, *, thorough: bool = False) -> Superblock:
    """Have e2fsck mend what is safe to mend; the superblock then. `Failure` for damage that is left.

    Growing believes an image that was left properly, as it makes room behind everything else; who moves data
    wants a ``thorough`` check.
    """
    if not section.path.startswith(e2fsprogs.FD_PREFIX):
        from overlay.session import pending as session_pending

        session_pending.take_back(section)
    verdict = check.check(section, mend=True, force=thorough)
    if not verdict.usable:
        details = "; ".join(verdict.details[:3])
        cause = f"{verdict.summary} ({details})" if details else verdict.summary
        raise Failure(f"cannot resize {section.describe()}", cause, verdict.command)
    fd = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return superblock.read(fd, section.offset)
    finally:
        os.close(fd)


def fill(section: Section, sb: Superblock, fd: int, wish: Wanted) -> Superblock:
    """Make the empty file ``fd`` the file system of ``section``, as it is wanted; on disk when this returns."""
    if wish.inodes and wish.size is not None:
        from overlay.manage import rebuild

        return rebuild.fill(section, sb, fd, wish.size, wish.inodes)
    return _resized_copy(section, sb, fd, wish.size)


def _resized_copy(section: Section, sb: Superblock, fd: int, size: int | None) -> Superblock:
    source = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, sb.size)
        for at, length in resize_grow.data_extents(source, section.offset, sb.size):
            resize_grow.copy(source, at, fd, at - section.offset, length)
    finally:
        os.close(source)
    if size is not None and size > sb.size:
        os.ftruncate(fd, size)
    try:
        after = resize_grow.resize_whole(fd, sb, size)
    except e2fsprogs.ToolError as error:
        raise _refused(section, sb, size, error) from None
    os.ftruncate(fd, after.size)
    os.fsync(fd)
    return after


def _refused(section: Section, sb: Superblock, size: int | None, error: e2fsprogs.ToolError) -> Exception:
    """What to say of a failed resize2fs: too small a size, or what it said itself (a full disk)."""
    with contextlib.suppress(e2fsprogs.ToolError, ValueError):
        least = e2fsprogs.minimum_size(section, sb.block_size)
        if size is not None and size < least:
            cause = f"what is in it needs at least {format_size(least)}"
            hint = "--minimum makes it as small as it can be"
            return Failure(f"cannot shrink {section.describe()} to {format_size(size)}", cause, hint)
    return e2fsprogs.ToolError(error.program, section.path, error.status, error.said)


@contextlib.contextmanager
def replacement(path: str, old: int) -> Iterator[int]:
    """An empty file with mode, owner and attributes of the file open at ``old``; takes its name on success.

    Without a name until then (`overlay.newfile`). `Failure` for a file with several hard links.
    """
    status = os.fstat(old)
    if status.st_nlink > 1:
        cause = "the file has other hard links, which would keep the old overlay"
        raise Failure(f"cannot resize {path}", cause, "remove the other names, or resize a copy of it")
    directory = os.path.dirname(path)
    beside = os.path.join(directory, f".sifkit-{os.urandom(12).hex()}.new")
    with newfile.new_file(beside, 0o600) as fresh:
        yield fresh.fd
        with contextlib.suppress(PermissionError):  # an owner or group that we may not give: it is ours then
            os.fchown(fresh.fd, status.st_uid, status.st_gid)
        os.fchmod(fresh.fd, stat.S_IMODE(status.st_mode))
        for key in _attributes(old):
            with contextlib.suppress(OSError):  # one that may not be set keeps none of the others out
                os.setxattr(fresh.fd, key, os.getxattr(old, key))
        os.fsync(fresh.fd)
        fresh.publish()
        try:
            os.rename(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(at)
    finally:
        os.close(at)


def _attributes(fd: int) -> list[str]:
    """The attributes to be kept: sessions that wait for the image among them. Many file systems have none."""
    with contextlib.suppress(OSError):
        return [key for key in os.listxattr(fd) if not key.startswith(_RECORDS)]
    return []
