"""Larger and smaller ext3 overlays: what is asked for in bytes, and how it is done so that nothing is ever half done.

Growing happens in place (`overlay.resize_grow`). Shrinking moves data, which no journal holds; it is done on a
copy that takes the old file's name when it is complete and on disk.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from overlay import check, e2fsprogs, lock, newfile, resize_grow, superblock
from overlay.failure import Failure
from overlay.section import Section
from overlay.size import format_size
from overlay.superblock import Superblock

_RECORDS: Final = "user.sifkit.lock."
_ALLOCATED: Final = 0.95  # an image of which this much is on disk was made to have its space reserved


class Wish(NamedTuple):
    """What is asked for, in bytes: the new ``size``, or ``add`` to the present one, or the ``minimum``; room for
    at least ``inodes`` files. With ``inodes`` alone the file system grows as far as they need.
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


def wanted_size(sb: Superblock, wish: Wish) -> int | None:
    """The bytes that the file system is to have, whole blocks; None for the fewest it can.

    Raises ValueError for room for files that the size asked for does not give: ext3 has its inodes by size.
    """
    if wish.minimum:
        return None
    size = wish.size or sb.size + wish.add
    if wish.inodes > sb.inodes:
        # A last group that is cut short may be dropped by resize2fs, so whole groups are asked for.
        least = -(-wish.inodes // sb.inodes_per_group) * sb.blocks_per_group * sb.block_size
        if not (wish.size or wish.add):
            size = max(size, least)
        elif size < least:
            each = sb.blocks_per_group * sb.block_size // sb.inodes_per_group
            raise ValueError(
                f"{wish.inodes} inodes need a size of {format_size(least)} here: this file system has one for "
                f"{format_size(each)}, which only a new one can change (sifkit overlay create --inodes)"
            )
    return size - size % sb.block_size


def resize_file(path: str, wish: Wish) -> Resized:
    """Resize the ext3 image ``path``, which is locked meanwhile.

    Killed at any moment, the old or the new overlay is there; after a kill while it grew it may need the replay
    of its journal, which its next user does. Raises InUse, `Failure`, OSError, ToolError, ValueError.
    """
    path = os.path.realpath(path)
    with lock.acquire(Section(path, 0, os.stat(path).st_size), exclusive=True) as held:
        section = Section(path, 0, os.fstat(held.fd).st_size)
        sb = sound(section)
        size = wanted_size(sb, wish)
        reserve = allocated(held.fd)
        if size is not None and size >= sb.size:
            after = sb if size == sb.size else grown(section._replace(size=max(size, section.size)), size, reserve)
            if after is not None:
                os.truncate(path, after.size)  # what lay behind a file system that did not fill its file
                return Resized(sb, after, True)
        sound(section, thorough=True)
        with replacement(path, held.fd) as fd:
            after = fill_copy(section, sb, fd, size)
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
        from overlay import session_pending

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


def fill_copy(section: Section, sb: Superblock, fd: int, size: int | None) -> Superblock:
    """Make the empty file ``fd`` the file system of ``section``, resized; on disk when this returns."""
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
        with contextlib.suppress(OSError):  # attributes are a convenience: many file systems have none
            for key in os.listxattr(old):
                if not key.startswith(_RECORDS):
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
