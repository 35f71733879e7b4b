"""A tree written as a tar archive, entry by entry, to a pipe or a file."""

from __future__ import annotations

import stat
from typing import IO, Final

from overlay.tree.loss import Report
from overlay.tree.tar_write import Head, TarWriter
from overlay.tree.view import Entry, Extent, Tree, pieces

_ALIGNED: Final = 512


def write_tar(tree: Tree, stream: IO[bytes], report: Report) -> None:
    """Write all of ``tree``; its top is ``./``. ``report`` is told of what tar has no way to say (sockets).

    Raises what the tree raises, OSError of the stream (BrokenPipeError), EOFError for a file that shrank.
    """
    writer = TarWriter(stream)
    names: dict[int, bytes] = {}  # inode of a file with several names -> the name it has in the archive
    writer.add(_head(b"./", tree.top), tree.xattrs(tree.top))
    for path, entry in tree.walk():
        if stat.S_ISSOCK(entry.mode):
            report(path, "sockets, which tar cannot hold")
        elif entry.is_directory:
            writer.add(_head(path + b"/", entry), tree.xattrs(entry))
        elif entry.links > 1 and names.setdefault(entry.inode, path) is not path:
            writer.add(_head(path, entry)._replace(target=names[entry.inode]), {}, link=True)
        elif entry.is_file:
            _file(writer, tree, path, entry)
        elif entry.is_symlink:
            writer.add(_head(path, entry)._replace(target=tree.readlink(entry)), tree.xattrs(entry))
        else:
            writer.add(_head(path, entry), tree.xattrs(entry))
    writer.end()


def _head(name: bytes, entry: Entry) -> Head:
    return Head(name, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime_ns, entry.device)


def _file(writer: TarWriter, tree: Tree, path: bytes, entry: Entry) -> None:
    extents = tree.extents(entry)
    attributes = tree.xattrs(entry)
    if not entry.size or sum(extent.length for extent in extents) == entry.size:
        writer.add_file(_head(path, entry), attributes, (data for _, data in pieces(tree, entry, extents)))
        return
    extents = _aligned(extents, entry.size)
    writer.add_sparse(_head(path, entry), attributes, extents, (data for _, data in pieces(tree, entry, extents)))


def _aligned(extents: list[Extent], size: int) -> list[Extent]:
    """``extents``, widened so that their bytes fill whole blocks of the archive.

    sqfstar 4.5 takes what fills up the last block for the next header. Holes are whole blocks of a file
    system, so there is room in front of the last piece.
    """
    ends = [(e.start - e.start % _ALIGNED, min(size, e.start + e.length + -(e.start + e.length) % _ALIGNED))
            for e in extents]  # fmt: skip
    if ends and (ends[-1][1] - ends[-1][0]) % _ALIGNED:
        start, end = ends[-1]
        before = ends[-2][1] if len(ends) > 1 else 0
        ends[-1] = (max(before, start - _ALIGNED + (end - start) % _ALIGNED), end)
    return [Extent(start, end - start) for start, end in ends]
