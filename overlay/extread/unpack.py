"""The layer of an ext image as a directory: for a host without FUSE, and for so little that mounting takes longer.

Unlike ``debugfs rdump`` it keeps whiteouts, attributes, hard links and holes, and says deletions as the kernel reads
them. An ordinary user owns all of it.
"""

from __future__ import annotations

import contextlib
import os
import stat

from overlay import whiteout
from overlay.extread import inode as extread_inode
from overlay.extread.look_like import look_like
from overlay.extread.reader import ExtReader, Inode
from overlay.records import TYPE_CHECKING
from overlay.section import Section

if TYPE_CHECKING:
    from typing import IO, Final

_PIECE: Final = 1 << 20


def unpack(section: Section, target: str, top: str = "upper") -> int:
    """Unpack the directory ``top`` of the image into the empty directory ``target``; the number of names made.

    Raises OSError, ExtError.
    """
    directories: list[tuple[bytes, Inode]] = []
    first: dict[int, bytes] = {}
    base = os.fsencode(target)
    count = 0
    with ExtReader(section) as reader:
        for path, inode in reader.walk(b"/" + os.fsencode(top)):
            there = base + b"/" + path if path else base
            if inode.is_directory:
                if path:
                    os.mkdir(there, 0o700)
                directories.append((there, inode))
            elif inode.links > 1 and inode.number in first:
                os.link(first[inode.number], there, follow_symlinks=False)
            else:
                _make(reader, inode, there)
                first[inode.number] = there
            count += 1
        whiteout.normalise_directory(target)
        for there, inode in reversed(directories):
            if any(mark.encode() in reader.xattrs(inode) for mark in whiteout.OPAQUE_MARKS):
                whiteout.mark_opaque(there)
            # Only the kernel reads it, and would show what it does not know as an attribute like any other.
            with contextlib.suppress(OSError):
                os.removexattr(there, whiteout.FUSE_MARK)
            look_like(reader, inode, there)
    return count


def _make(reader: ExtReader, inode: Inode, there: bytes) -> None:
    kind = stat.S_IFMT(inode.mode)
    if inode.is_symlink:
        os.symlink(reader.readlink(inode), there)
        os.utime(there, ns=(inode.atime_ns, inode.mtime_ns), follow_symlinks=False)
        return
    if inode.is_file:
        with open(there, "xb") as file:
            _fill(reader, inode, file)
    elif kind == stat.S_IFCHR and inode.device == (0, 0):
        whiteout.make_whiteout(there)
        return
    elif kind == stat.S_IFIFO:
        os.mkfifo(there)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        os.mknod(there, kind | 0o600, os.makedev(*inode.device))
    else:  # a socket: nobody answers it any more
        return
    look_like(reader, inode, there)


def _fill(reader: ExtReader, inode: Inode, file: IO[bytes]) -> None:
    file.truncate(inode.size)
    with reader.open(inode) as content:
        if inode.flags & extread_inode.FLAG_INLINE:
            file.write(content.read())
            return
        for extent in reader.extents(inode):
            content.seek(extent.start)
            file.seek(extent.start)
            left = extent.length
            while left > 0 and (piece := content.read(min(left, _PIECE))):
                file.write(piece)
                left -= len(piece)
