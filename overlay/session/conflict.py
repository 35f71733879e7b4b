"""Whether what a session changed has been changed in the image since the session began: by another run, or tool.

Told by times of inodes (ctime), which no ordinary program can set. A path that was deleted from the image since leaves
no inode; it is told by the time of its directory, when the session holds a changed copy of what was there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from overlay import whiteout
from overlay.extread.reader import ExtReader, Inode
from overlay.section import Section

_SECOND = 10**9
_ORIGIN = "user.overlay.origin"  # on what kernel overlayfs copied up


def conflicts(section: Section, upper: str, since: float) -> Iterator[bytes]:
    """Paths that both the tree ``upper`` and, after ``since`` (seconds since 1970), the image have changed.

    Raises OSError, ExtError.
    """
    with ExtReader(section) as reader:
        top = reader.lookup(b"/upper")
        if top is not None:
            yield from _directory(reader, top, os.fsencode(upper), b"", int(since * _SECOND))


def _directory(reader: ExtReader, inode: Inode, directory: bytes, lead: bytes, since: int) -> Iterator[bytes]:
    here = {entry.name: entry.inode for entry in reader.listdir(inode)}
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = lead + entry.name
            number = here.get(entry.name)
            if number is None:
                if inode.ctime_ns > since and not entry.is_dir(follow_symlinks=False) and _copied_up(entry.path):
                    yield path
                continue
            there = reader.inode(number)
            found = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False) and there.is_directory and not _opaque(entry.path):
                yield from _directory(reader, there, entry.path, path + b"/", since)
            elif _changed(reader, there, since) and not _both_deleted(found, there):
                yield path


def _changed(reader: ExtReader, inode: Inode, since: int) -> bool:
    """Whether ``inode``, or anything below it, has changed. Tools that write without mounting count whole seconds."""
    if inode.ctime_ns > since or (inode.ctime_ns % _SECOND == 0 and inode.ctime_ns >= since - since % _SECOND):
        return True
    return inode.is_directory and any(_changed(reader, reader.inode(e.inode), since) for e in reader.listdir(inode))


def _both_deleted(found: os.stat_result, inode: Inode) -> bool:
    ours = whiteout.is_whiteout(found.st_mode, (os.major(found.st_rdev), os.minor(found.st_rdev)))
    return ours and stat.S_ISCHR(inode.mode) and inode.device == (0, 0)


def _opaque(path: bytes) -> bool:
    return any(mark in os.listxattr(path, follow_symlinks=False) for mark in whiteout.OPAQUE_MARKS)


def _copied_up(path: bytes) -> bool:
    return _ORIGIN in os.listxattr(path, follow_symlinks=False)
