"""Deleted names and replaced directories of an overlay, in every spelling that drivers leave behind.

| what | kernel overlayfs | fuse-overlayfs on a directory | fuse-overlayfs on fuse2fs, AUFS, OCI layers |
|---|---|---|---|
| NAME is deleted | character device 0:0 | the same | empty file ``.wh.NAME`` |
| the directory is opaque: nothing below shows | ``trusted.`` or ``user.overlay.opaque`` = ``y`` | ``user.fuseoverlayfs.opaque`` = ``y``, ``.wh..wh..opq``, ``.wh..opq`` | the same |

Each driver shows the spelling of another as files, or the deleted names again. `scan_image` reads them all;
`normalise_directory` rewrites an upper directory into what every driver understands; for an image that is
only read, `overlay.stack.whiteout_layer` says the same in layers around it.
"""  # noqa: E501

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping

from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from typing import Final

    from overlay.extread.reader import Entry, ExtReader

PREFIX: Final = b".wh."
_RESERVED: Final = b".wh..wh."  # AUFS keeps its own things under these names
OPAQUE_NAMES: Final = frozenset({b".wh..wh..opq", b".wh..opq"})

KERNEL_MARK: Final = "user.overlay.opaque"  # under the mount option userxattr
FUSE_MARK: Final = "user.fuseoverlayfs.opaque"
ROOT_MARK: Final = "trusted.overlay.opaque"
OPAQUE_MARKS: Final = (KERNEL_MARK, FUSE_MARK, ROOT_MARK)
_YES: Final = b"y"

_LONGEST_PATH: Final = 65536
_UNTYPED, _DIRECTORY, _DEVICE = 0, 2, 3  # file types in directory entries of ext2/3/4


def marks_by(driver: str) -> tuple[str, ...]:
    """The marks that mean something in an upper that ``driver`` wrote last, "" for one that is not known.

    Of a directory that it copies up the kernel takes over the marks of others, as it takes over any attribute.
    """
    return (KERNEL_MARK,) if driver == "kernel" else OPAQUE_MARKS


def is_whiteout(mode: int, device: tuple[int, int]) -> bool:
    """Whether this is the device that kernel overlayfs reads as "deleted"."""
    return stat.S_ISCHR(mode) and device == (0, 0)


def deleted_name(name: bytes) -> bytes | None:
    """The name that the file ``name`` marks as deleted, or None."""
    if not name.startswith(PREFIX) or name.startswith(_RESERVED) or name in OPAQUE_NAMES:
        return None
    gone = name[len(PREFIX) :]
    return None if gone in (b"", b".", b"..") else gone  # those are no names


def is_opaque(xattrs: Mapping[bytes, bytes]) -> bool:
    """Whether a directory with these extended attributes hides what lies below it."""
    return any(xattrs.get(mark.encode()) == _YES for mark in OPAQUE_MARKS)


class Whiteouts(NamedTuple):
    """Paths relative to the upper directory (``b""`` is itself).

    ``deleted``: names that are gone, spelled either way; ``devices``: those of them spelled as devices;
    ``opaque``: replaced directories, with the marks each carries; ``markers``: files that only mean something.
    """

    deleted: tuple[bytes, ...]
    devices: frozenset[bytes]
    opaque: Mapping[bytes, frozenset[str]]
    markers: tuple[bytes, ...]

    @property
    def empty(self) -> bool:
        return not (self.deleted or self.opaque or self.markers)


def scan_image(reader: ExtReader, top: bytes = b"/upper") -> Whiteouts:
    """All whiteouts below ``top`` of an image. Raises ExtError when it is damaged.

    Looks at names first, and at the inodes of directories and devices only: a start waits for this.
    """
    deleted: list[bytes] = []
    devices: set[bytes] = set()
    opaque: dict[bytes, frozenset[str]] = {}
    markers: list[bytes] = []
    for directory, entries in _directories(reader, top, opaque):
        names = {entry.name for entry in entries}
        for name, number, kind in entries:
            marked = deleted_name(name) if name.startswith(PREFIX) else None
            if marked is not None or name in OPAQUE_NAMES:
                if reader.inode(number).is_directory:
                    continue
                markers.append(_join(directory, name))
                if marked is None:
                    opaque.setdefault(directory, frozenset())
                elif marked not in names:
                    deleted.append(_join(directory, marked))
                elif _is_directory(reader, entries, marked):  # it was made again, in place of all it held
                    opaque.setdefault(_join(directory, marked), frozenset())
            elif kind in (_UNTYPED, _DEVICE):
                inode = reader.inode(number)
                if is_whiteout(inode.mode, inode.device):
                    deleted.append(_join(directory, name))
                    devices.add(_join(directory, name))
    return Whiteouts(tuple(deleted), frozenset(devices), opaque, tuple(markers))


def _directories(
    reader: ExtReader, top: bytes, opaque: dict[bytes, frozenset[str]]
) -> Iterator[tuple[bytes, list[Entry]]]:
    """Every directory with its entries; those that carry marks are noted in ``opaque`` first."""
    first = reader.lookup(top)
    waiting = [(b"", first)] if first is not None and first.is_directory else []
    seen = set()
    while waiting:
        path, directory = waiting.pop()
        if directory.number in seen or len(path) > _LONGEST_PATH:
            raise ExtError(f"{path[-200:]!r}: a directory loop, or a path without end")
        seen.add(directory.number)
        marks = _marks(reader.xattrs(directory))
        if marks:
            opaque[path] = marks
        entries = list(reader.listdir(directory))
        yield path, entries
        for entry in entries:
            if entry.kind in (_UNTYPED, _DIRECTORY):
                inode = reader.inode(entry.inode)
                if inode.is_directory:
                    waiting.append((_join(path, entry.name), inode))


def _is_directory(reader: ExtReader, entries: list[Entry], name: bytes) -> bool:
    return any(entry.name == name and reader.inode(entry.inode).is_directory for entry in entries)


def _marks(xattrs: Mapping[bytes, bytes]) -> frozenset[str]:
    return frozenset(mark for mark in OPAQUE_MARKS if xattrs.get(mark.encode()) == _YES)


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def normalise_directory(upper: str, marks: tuple[str, ...] = OPAQUE_MARKS) -> int:
    """Rewrite every spelling below ``upper`` so that all drivers agree; returns how many were rewritten.

    Deleted names become devices 0:0, opaque directories carry both ``user.`` marks (root adds ``trusted.``),
    marker files go. A kill in the middle leaves a tree that means the same and can be normalised again: the
    new spelling is there before the old one goes. Times of directories are kept. Works as an ordinary user on
    one's own files, also in a user namespace. The caller holds the lock. Raises OSError.
    """
    changed = 0
    # A directory that its owner closed to himself is opened; it waits with its mode below what is in it.
    waiting: list[tuple[bytes, int | None]] = [(os.fsencode(upper), None)]
    try:
        while waiting:
            directory, mode = waiting.pop()
            if mode is not None:
                os.chmod(directory, mode)
                continue
            before = os.lstat(directory)
            try:
                entries, here = _visit(directory, marks)
            except PermissionError:
                closed = stat.S_IMODE(before.st_mode)
                os.chmod(directory, closed | 0o700)
                waiting.append((directory, closed))
                entries, here = _visit(directory, marks)
            if here:
                os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)
            changed += here
            waiting += [(e.path, None) for e in entries.values() if e.is_dir(follow_symlinks=False)]
    finally:
        for directory, mode in reversed(waiting):
            if mode is not None:
                os.chmod(directory, mode)
    return changed


def _visit(directory: bytes, marks: tuple[str, ...]) -> tuple[dict[bytes, os.DirEntry[bytes]], int]:
    entries = _entries(directory)
    return entries, _normalise_one(directory, entries, marks)


@contextlib.contextmanager
def _opened(directory: bytes) -> Iterator[None]:
    """Within the block, a directory that its owner closed to himself (mode 0500, 0000) is open to him."""
    mode = stat.S_IMODE(os.lstat(directory).st_mode)
    os.chmod(directory, mode | 0o700)
    try:
        yield
    finally:
        os.chmod(directory, mode)


def _entries(directory: bytes) -> dict[bytes, os.DirEntry[bytes]]:
    with os.scandir(directory) as found:
        return {entry.name: entry for entry in found}


def _normalise_one(directory: bytes, entries: dict[bytes, os.DirEntry[bytes]], marks: tuple[str, ...]) -> int:
    changed = 0
    opaque = [entry for name, entry in entries.items() if name in OPAQUE_NAMES]
    if opaque or _has_mark(directory, marks):
        changed += mark_opaque(directory)
        for entry in opaque:
            os.unlink(entry.path)
            changed += 1
    for name, entry in entries.items():
        marked = deleted_name(name)
        if marked is None or entry.is_dir(follow_symlinks=False):
            continue
        again = entries.get(marked)
        if again is None:
            make_whiteout(directory + b"/" + marked)
        elif again.is_dir(follow_symlinks=False):
            mark_opaque(again.path)
        os.unlink(entry.path)
        changed += 1
    return changed


def _has_mark(directory: bytes, marks: tuple[str, ...]) -> bool:
    try:
        present = os.listxattr(directory, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    return any(mark in present and value_of(directory, mark) == _YES for mark in marks)


def value_of(directory: bytes, mark: str) -> bytes:
    """The value of the opaque mark ``mark`` of a directory; empty where it has none, or nobody may see it."""
    try:
        return os.getxattr(directory, mark, follow_symlinks=False)
    except OSError:  # trusted ones are listed to nobody but root; a race with nobody, for we hold the lock
        return b""


def mark_opaque(directory: bytes) -> int:
    """Give ``directory`` every opaque mark it lacks that the caller may set; 1 if there was one, else 0."""
    missing = [mark for mark in (KERNEL_MARK, FUSE_MARK) if value_of(directory, mark) != _YES]
    try:
        _set(directory, missing)
    except PermissionError:
        with _opened(directory):
            _set(directory, missing)
    if value_of(directory, ROOT_MARK) != _YES:
        # Only root outside of user namespaces may; the kernel driver under root reads no other.
        with contextlib.suppress(PermissionError):
            os.setxattr(directory, ROOT_MARK, _YES, follow_symlinks=False)
            return 1
    return 1 if missing else 0


def _set(directory: bytes, marks: list[str]) -> None:
    for mark in marks:
        os.setxattr(directory, mark, _YES, follow_symlinks=False)


def give(path: bytes, uid: int, gid: int) -> None:
    """chown(2), where it is allowed: an ordinary user has but one owner to give, and a user namespace knows but one."""
    try:
        os.chown(path, uid, gid)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise


def make_whiteout(path: bytes) -> None:
    """Mark ``path`` as deleted: character device 0:0, which ordinary users may make since Linux 5.8."""
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
