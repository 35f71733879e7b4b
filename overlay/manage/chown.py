"""Who owns the changes: everything below upper/ and work/ given to one user, without mounting.

An overlay that another user's container wrote, or root's, cannot be written by you; one for --fakeroot runs must
belong to root. In an image the inodes are changed by debugfs, many at a time, so that any owner can be set by
anybody who may write the file. A kill in the middle leaves some done and some not; run again, it does the rest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from overlay import e2fsprogs
from overlay.extread.reader import ExtReader
from overlay.failure import Failure
from overlay.manage import check
from overlay.section import Section

_TOPS: Final = (b"upper", b"work")
_LARGEST: Final = 2**32 - 2  # (uid_t) -1 means "leave it" to chown(2)
_AT_ONCE: Final = 20_000  # inodes; debugfs repeats each command on its output, which is kept until it ends
_CAPABILITIES: Final = "security.capability"


def parse_owner(text: str) -> tuple[int, int]:
    """The uid and gid that ``UID:GID``, ``UID``, ``me`` or ``fakeroot`` (0:0) names. Raises ValueError."""
    if text == "me":
        return os.geteuid(), os.getegid()
    if text in ("fakeroot", "root"):
        return 0, 0
    uid, colon, gid = text.partition(":")
    numbers = (uid, gid if colon else uid)
    if not all(n.isascii() and n.isdigit() and int(n) <= _LARGEST for n in numbers):
        raise ValueError(f"{text!r} is no owner; write UID:GID in numbers, me, or fakeroot")
    return int(numbers[0]), int(numbers[1])


def chown_image(section: Section, uid: int, gid: int) -> int:
    """Give upper/ and work/ of the image to ``uid``:``gid``; how many inodes had another owner.

    Modes, times and attributes stay, capabilities of files too. The caller holds the lock. Raises `Failure` for a
    damaged image, OSError, ExtError, ToolError.
    """
    verdict = check.check(section, mend=True)
    if not verdict.usable:
        raise Failure(f"cannot change the owner of {section.describe()}", verdict.summary, verdict.command)
    with ExtReader(section) as reader:
        numbers = sorted(
            {
                inode.number
                for top in _TOPS
                for _, inode in reader.walk(b"/" + top)
                if (inode.uid, inode.gid) != (uid, gid)
            }
        )
    for at in range(0, len(numbers), _AT_ONCE):
        e2fsprogs.debugfs(section, _commands(numbers[at : at + _AT_ONCE], uid, gid), write=True)
    return len(numbers)


def _commands(numbers: list[int], uid: int, gid: int) -> Iterator[list[bytes]]:
    for number in numbers:
        inode = b"<%d>" % number
        yield [b"set_inode_field", inode, b"uid", b"%d" % uid]
        yield [b"set_inode_field", inode, b"gid", b"%d" % gid]


def chown_directory(path: str, uid: int, gid: int) -> int:
    """The same for a directory overlay, by lchown(2); the caller holds the lock.

    Set-uid bits and capabilities, which chown(2) takes away, are put back. Raises `Failure` where only root may.
    """
    changed = 0
    for top in _TOPS:
        start = os.path.join(os.fsencode(path), top)
        if os.path.lexists(start):
            changed += _chown_tree(start, uid, gid)
    return changed


def _chown_tree(top: bytes, uid: int, gid: int) -> int:
    changed = 0
    waiting = [top]
    while waiting:
        here = waiting.pop()
        found = os.lstat(here)
        if stat.S_ISDIR(found.st_mode):
            # Before it may belong to somebody else, who closed it to us.
            with _open_to_us(here, found):
                waiting += [os.path.join(here, name) for name in os.listdir(here)]
        if (found.st_uid, found.st_gid) != (uid, gid):
            _chown_one(here, found, uid, gid)
            changed += 1
    return changed


@contextlib.contextmanager
def _open_to_us(directory: bytes, found: os.stat_result) -> Iterator[None]:
    """Within the block the directory can be listed, even if its owner, who is us, closed it (work/work is 000)."""
    closed = found.st_uid == os.geteuid() != 0 and found.st_mode & 0o500 != 0o500
    if closed:
        os.chmod(directory, 0o700)
    try:
        yield
    finally:
        if closed:
            os.chmod(directory, stat.S_IMODE(found.st_mode))


def _chown_one(path: bytes, found: os.stat_result, uid: int, gid: int) -> None:
    regular = stat.S_ISREG(found.st_mode)
    capabilities = _capabilities(path) if regular else b""
    try:
        os.lchown(path, uid, gid)
    except PermissionError:
        name = os.fsdecode(path)
        cause = f"{name} belongs to {found.st_uid}:{found.st_gid}, and only root gives files to others"
        raise Failure(f"cannot change the owner to {uid}:{gid}", cause, "run it as root (sudo)") from None
    if regular and found.st_mode & 0o6000:
        os.chmod(path, stat.S_IMODE(found.st_mode))
    if capabilities:
        os.setxattr(path, _CAPABILITIES, capabilities, follow_symlinks=False)


def _capabilities(path: bytes) -> bytes:
    try:
        return os.getxattr(path, _CAPABILITIES, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EACCES):
            return b""
        raise
