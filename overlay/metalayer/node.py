"""What a builder of metadata layers is given: one `Node` for everything in a base.

This is the seam between where the metadata comes from and what is made of it. `overlay.metalayer.walk` looks at
the files; a reader of a catalog can give the same without touching one.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable

from overlay.records import QuickTuple


class Node(QuickTuple):
    """One name in a base. ``path``: relative to its top, which is ``b""`` itself.

    ``size`` in bytes. ``links``: names of the inode; where there are several, ``inode`` tells which belong together.
    ``device``: of device nodes (st_rdev). ``target``: of symbolic links. ``attributes``: ``user.*`` with full names.
    ``ctime_ns``: 0 where it is not known.
    """

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int = 0
    links: int = 1
    inode: int = 0
    device: int = 0
    target: bytes = b""
    attributes: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


# Every directory comes before what is in it; names of one directory come one after the other.
Nodes = Iterable[Node]
