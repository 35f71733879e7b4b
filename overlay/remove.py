"""Removing a tree of the host: as deep as it may be, and with directories in it that their owner closed."""

from __future__ import annotations

import os
import stat


def remove(path: str | bytes) -> None:
    """Remove ``path`` and, if it is a directory, all that is in it. FileNotFoundError when there is nothing.

    Directories are moved up to the top before they are emptied: no path becomes too long, no stack too deep.
    """
    path = os.fsencode(path)
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    os.chmod(path, 0o700)
    waiting = _empty(path, path, 0)
    count = len(waiting)
    while waiting:
        name = waiting.pop()
        found = _empty(path + b"/" + name, path, count)
        os.rmdir(path + b"/" + name)
        count += len(found)
        waiting += found
    os.rmdir(path)


def _empty(directory: bytes, top: bytes, count: int) -> list[bytes]:
    """Remove what is in ``directory`` but directories, which come to lie in ``top``: their new names."""
    moved: list[bytes] = []
    with os.scandir(directory) as entries:
        found = list(entries)
    for entry in found:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)
            continue
        os.chmod(entry.path, 0o700)
        name = b".sifkit-removed-%d-%d" % (os.getpid(), count + len(moved))
        os.rename(entry.path, top + b"/" + name)
        moved.append(name)
    return moved
