"""Making a file or directory of the host look like one in an ext image."""

from __future__ import annotations

import contextlib
import os
import stat

from overlay import whiteout
from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from overlay.extread.reader import ExtReader, Inode

_SKIPPED: Final = (b"trusted.", b"security.", b"user.overlay.", b"user.fuseoverlayfs.")


def look_like(reader: ExtReader, inode: Inode, there: bytes) -> None:
    """Give the file or directory ``there`` attributes, owner (where that is allowed), mode and times of ``inode``.

    Marks of drivers, and attributes that only root may set, are left out; so are those that the host does not take.
    """
    for name, value in reader.xattrs(inode).items():
        if not name.startswith(_SKIPPED):
            with contextlib.suppress(OSError):  # system.posix_acl_* are not ours to decode
                os.setxattr(there, name, value)
    whiteout.give(there, inode.uid, inode.gid)
    os.chmod(there, stat.S_IMODE(inode.mode))
    os.utime(there, ns=(inode.atime_ns, inode.mtime_ns))
