"""What a commit reads of the host: the upper directory of a session, and the layers below the image."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from overlay import whiteout
from overlay.ext_inode import Attributes, attributes_of

# Of overlay drivers, or of the host: security labels of where the session lies mean nothing in the image.
_NOT_KEPT: Final = (
    "user.overlay.", "trusted.overlay.", "user.fuseoverlayfs.", "security.selinux", "security.ima", "security.evm",
)  # fmt: skip
_NO_XATTRS: Final = (errno.EOPNOTSUPP, errno.ENOSYS)
_YES: Final = b"y"


class Found(NamedTuple):
    """A name in the upper directory. ``deletes``: the name that it marks as deleted, or None."""

    name: bytes
    path: bytes
    stat: os.stat_result
    deletes: bytes | None

    def open(self) -> Opened:
        return Opened(self.path)


class Opened:
    """A regular file, open for reading while the context lasts."""

    def __init__(self, path: bytes) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def attributes(self, found: os.stat_result) -> Attributes:
        return attributes_of(found, kept_xattrs(self.fd))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)


def look(directory: bytes) -> Iterator[Found]:
    """The names in a directory of the upper, as they come. Markers of opaque directories are left out."""
    with os.scandir(directory) as entries:
        for entry in entries:
            name, found = entry.name, entry.stat(follow_symlinks=False)
            deletes: bytes | None = None
            if whiteout.is_whiteout(found.st_mode, (os.major(found.st_rdev), os.minor(found.st_rdev))):
                deletes = name
            elif name[:4] == b".wh." and not stat.S_ISDIR(found.st_mode):
                if name in whiteout.OPAQUE_NAMES:
                    continue
                deletes = whiteout.deleted_name(name)
                # Where the name is there as well, it was made again after it had been deleted.
                if deletes is not None and os.path.lexists(os.path.join(directory, deletes)):
                    continue
            yield Found(name, entry.path, found, deletes)


def kept_xattrs(file: bytes | int) -> dict[bytes, bytes]:
    """The extended attributes that go into the image, of a path (no link followed) or an open file."""
    follow = isinstance(file, int)
    try:
        names = os.listxattr(file, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return {}
        raise
    if not names:
        return {}
    return {
        os.fsencode(name): os.getxattr(file, name, follow_symlinks=follow)
        for name in names
        if not name.startswith(_NOT_KEPT)
    }


def marked_opaque(directory: bytes) -> bool:
    """Whether a directory hides what lies below it, in any spelling."""
    for mark in whiteout.OPAQUE_MARKS:
        try:
            if os.getxattr(directory, mark, follow_symlinks=False) == _YES:
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EPERM, *_NO_XATTRS):
                raise
    return any(os.path.lexists(os.path.join(directory, name)) for name in whiteout.OPAQUE_NAMES)


def is_shown(name: bytes, lowers: Sequence[bytes]) -> bool:
    """Whether one of the layers, topmost first, shows ``name``."""
    for lower in lowers:
        found = _lstat(os.path.join(lower, name))
        if found is not None:
            return not _is_whiteout(found)
    return False


def child_lowers(name: bytes, lowers: Sequence[bytes]) -> list[bytes]:
    """The directories ``name`` of the layers that merge with one of that name above them."""
    merged = []
    for lower in lowers:
        path = os.path.join(lower, name)
        found = _lstat(path)
        if found is None:
            continue
        if not stat.S_ISDIR(found.st_mode):
            break
        merged.append(path)
        if marked_opaque(path):
            break
    return merged


def _is_whiteout(found: os.stat_result) -> bool:
    return whiteout.is_whiteout(found.st_mode, (os.major(found.st_rdev), os.minor(found.st_rdev)))


def _lstat(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
