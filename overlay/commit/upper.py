"""What a commit reads of the host: the upper directory of a session, and the layers below the image."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

from overlay import whiteout
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

# Of overlay drivers, or of the host: security labels of where the session lies mean nothing in the image.
_NOT_KEPT: Final = (
    "user.overlay.", "trusted.overlay.", "user.fuseoverlayfs.", "security.selinux", "security.ima", "security.evm",
)  # fmt: skip
_NO_XATTRS: Final = (errno.EOPNOTSUPP, errno.ENOSYS)
_YES: Final = b"y"
_LONG_PATH: Final = 3500
_COMPARED: Final = 2**20

# Directories of the layers below that merge at one place, topmost first; None: they are not known
Lowers = Sequence[bytes] | None


class Found(NamedTuple):
    """A name in the upper directory. ``deletes``: the name that it marks as deleted, or None."""

    name: bytes
    path: bytes
    stat: os.stat_result
    deletes: bytes | None

    def open(self) -> int:
        """A descriptor of the regular file; should it have become something else, we neither follow nor wait."""
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def look(directory: bytes) -> Iterator[Found]:
    """The names in a directory of the upper, as they come. Markers of opaque directories are left out."""
    with os.scandir(directory) as entries:
        for entry in entries:
            name, found = entry.name, entry.stat(follow_symlinks=False)
            if not name.startswith(b".wh.") and not stat.S_ISCHR(found.st_mode):
                yield Found(name, entry.path, found, None)
            elif name not in whiteout.OPAQUE_NAMES:
                deletes = _deletes(name, found)
                # Where the name is there as well, it was made again after it had been deleted.
                if deletes in (None, name) or not os.path.lexists(os.path.join(directory, deletes)):
                    yield Found(name, entry.path, found, deletes)


def _deletes(name: bytes, found: os.stat_result) -> bytes | None:
    if _is_whiteout(found):
        return name
    return None if stat.S_ISDIR(found.st_mode) else whiteout.deleted_name(name)


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


def replaced(directory: bytes) -> bool:
    """Whether a directory of the upper hides what the image has there.

    Only by the kernel's own mark: of a directory it copies up it takes over the marks of other drivers, as it
    takes over any attribute, and they say nothing about the copy. (fuse-overlayfs leaves a marker file, too.)
    """
    return marked_opaque(directory, (whiteout.KERNEL_MARK,))


def marked_opaque(directory: bytes, marks: tuple[str, ...] = whiteout.OPAQUE_MARKS) -> bool:
    """Whether a directory hides what lies below it, in any spelling."""
    for mark in marks:
        try:
            if os.getxattr(directory, mark, follow_symlinks=False) == _YES:
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EPERM, *_NO_XATTRS):
                raise
    return any(os.path.lexists(os.path.join(directory, name)) for name in whiteout.OPAQUE_NAMES)


def nearer(directory: bytes) -> tuple[bytes, int]:
    """A path below which names can be reached, and the descriptor that it needs, or -1.

    The kernel takes paths of 4096 bytes, but directories may lie deeper.
    """
    if len(directory) <= _LONG_PATH:
        return directory, -1
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    return b"/proc/self/fd/%d" % fd, fd


def same_file(one: bytes, other: bytes) -> bool:
    """Whether two regular files say the same: contents, owner, permissions, time of change, attributes."""
    first, second = os.lstat(one), os.lstat(other)
    if _says(first) != _says(second) or kept_xattrs(one) != kept_xattrs(other):
        return False
    with open(one, "rb") as left, open(other, "rb") as right:
        while True:
            piece = left.read(_COMPARED)
            if piece != right.read(_COMPARED):
                return False
            if not piece:
                return True


def _says(found: os.stat_result) -> tuple[int, ...]:
    return found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns


def is_shown(name: bytes, lowers: Lowers) -> bool:
    """Whether one of the layers, topmost first, shows ``name``; unknown layers may."""
    if lowers is None:
        return True
    for lower in lowers:
        found = _lstat(os.path.join(lower, name))
        if found is not None:
            return not _is_whiteout(found)
    return False


def child_lowers(name: bytes, lowers: Lowers) -> Lowers:
    """The directories ``name`` of the layers that merge with one of that name above them."""
    if not lowers:
        return lowers
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
