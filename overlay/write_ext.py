"""A tree written into a fresh ext3 image, as its upper/, without mounting it; and how large that has to be."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Final, NamedTuple

from overlay import ext_data, ext_inode, ext_xattr, whiteout
from overlay.ext_inode import Attributes
from overlay.ext_volume import Volume
from overlay.ext_write import Writer
from overlay.loss import Report
from overlay.section import Section
from overlay.size import MIB
from overlay.tree import Entry, Extent, Tree, pieces

_MOST_LINKS: Final = 60000
_FAST_LINK: Final = 60
_BLOCK: Final = 4096
_GROUP: Final = 8 * _BLOCK  # blocks that one bitmap speaks for


class Needs(NamedTuple):
    """Blocks of 4 KiB for contents, listings and attributes; and inodes."""

    blocks: int
    inodes: int


def needs(tree: Tree) -> Needs:
    """What ``tree`` takes in an ext3 image, on the safe side. Walks it once."""
    blocks, inodes = 16, 17
    waiting = [(b"", 24)]  # the directories that lead here, and the bytes of their listings so far
    seen: set[int] = set()
    for path, entry in tree.walk():
        while waiting[-1][0] and not path.startswith(waiting[-1][0] + b"/"):
            blocks += _listing(waiting.pop()[1])
        parent, size = waiting[-1]
        waiting[-1] = (parent, size + 8 + len(entry.name) + 3)
        if entry.is_directory:
            waiting.append((path, 24))
        elif entry.links > 1:
            if entry.inode in seen:
                continue
            seen.add(entry.inode)
        if not whiteout.is_whiteout(entry.mode, (os.major(entry.device), os.minor(entry.device))):
            inodes += 1
            blocks += _blocks(tree, entry)
    return Needs(blocks + sum(_listing(size) for _, size in waiting), inodes)


def _blocks(tree: Tree, entry: Entry) -> int:
    """Blocks for the contents and attributes of an entry."""
    blocks = 0
    if entry.is_file and entry.size:
        extents = tree.extents(entry) if entry.size > 16 * _BLOCK else [Extent(0, entry.size)]
        blocks = sum(-(-extent.length // _BLOCK) + 1 for extent in extents)
        blocks += blocks // 1024 + 4 if blocks > 11 else 0
    elif entry.is_symlink and entry.size >= _FAST_LINK:
        blocks = 1
    attributes = tree.xattrs(entry)
    return blocks + (sum(len(k) + len(v) + 20 for k, v in attributes.items()) > 80)


def _listing(size: int) -> int:
    # Blocks of an indexed directory are filled to two thirds on average, and have an index above them.
    return 1 if size < _BLOCK - 24 else size * 3 // 2 // _BLOCK + 3


def image_size(wanted: Needs, inodes: int) -> int:
    """Bytes of an image of ``inodes`` inodes with room for ``wanted`` and a quarter more, at least 64 MiB."""
    tables = -(-inodes * 256 // _BLOCK)
    blocks = wanted.blocks * 5 // 4 + tables + 6144  # the journal takes 4096 at most
    groups = -(-blocks // (_GROUP - 8)) + 1
    blocks += groups * 16 + 2 * 1024 * min(groups, 8)  # bitmaps, copies of the descriptors and room for more of them
    return max(64 * MIB, -(-blocks * _BLOCK // MIB) * MIB)


def write_ext(tree: Tree, section: Section, report: Report) -> None:
    """Write all of ``tree`` into upper/ of the fresh ext3 image ``section``, and give that the top's metadata.

    The image is of no use when this raises: what the tree raises, OSError (NoSpace when it is too small).
    """
    with Writer(section, None) as writer:
        _Copy(tree, writer, report).run()
        writer.finish()


class _Copy:
    def __init__(self, tree: Tree, writer: Writer, report: Report) -> None:
        self._tree = tree
        self._writer = writer
        self._report = report
        self._names: dict[int, int] = {}  # inode of a file with several names -> its inode in the image
        self._whiteout = self._whiteouts = 0
        sb = writer.superblock
        self._room, self._block_size = ext_inode.room(sb.inode_size), sb.block_size

    def run(self) -> None:
        writer, top = self._writer, self._tree.top
        upper = writer.lookup(writer.root, b"upper")
        writer.set_attributes(upper, self._attributes(b"", top))
        waiting = [(b"", upper)]
        for path, entry in self._tree.walk():
            while waiting[-1][0] and not path.startswith(waiting[-1][0] + b"/"):
                writer.close_directory(waiting.pop()[1])
            parent = waiting[-1][1]
            try:
                if entry.is_directory:
                    waiting.append((path, writer.mkdir(parent, entry.name, self._attributes(path, entry))))
                else:
                    self._one(parent, path, entry)
            except OSError as error:
                if error.errno not in (errno.EMLINK, errno.ENAMETOOLONG, errno.EFBIG):
                    raise
                raise OSError(error.errno, error.strerror, os.fsdecode(path)) from None

    def _one(self, parent: int, path: bytes, entry: Entry) -> None:
        writer, name = self._writer, entry.name
        if whiteout.is_whiteout(entry.mode, (os.major(entry.device), os.minor(entry.device))):
            self._hide(parent, path, entry)
            return
        if entry.links > 1:
            known = self._names.get(entry.inode)
            if known is not None:
                writer.link(parent, name, known)
                return
        attributes = self._attributes(path, entry)
        if entry.is_file:
            number = writer.create_from(parent, name, lambda volume: self._contents(volume, entry), attributes)
        elif entry.is_symlink:
            number = writer.symlink(parent, name, self._tree.readlink(entry), attributes)
        else:
            number = writer.mknod(parent, name, entry.device, attributes)
        if entry.links > 1:
            self._names[entry.inode] = number

    def _contents(self, volume: Volume, entry: Entry) -> ext_inode.Body:
        extents = self._tree.extents(entry)
        if entry.size <= ext_data.AT_ONCE and sum(e.length for e in extents) == entry.size:
            data = b"".join(piece for _, piece in pieces(self._tree, entry, extents))
            return ext_data.store_bytes(volume, data) if data else ext_inode.NOTHING
        spans = _spans(extents, entry.size, self._block_size)
        whole = [Extent(start * self._block_size, min(entry.size, end * self._block_size) - start * self._block_size)
                 for start, end in spans]  # fmt: skip
        return ext_data.store_pieces(volume, entry.size, spans, pieces(self._tree, entry, whole))

    def _hide(self, parent: int, path: bytes, entry: Entry) -> None:
        """Whiteouts are names of one inode, as the kernel makes them: a deletion costs no inode."""
        if self._whiteout and self._whiteouts < _MOST_LINKS:
            self._writer.link(parent, entry.name, self._whiteout)
            self._whiteouts += 1
        else:
            attributes = self._attributes(path, entry)
            self._whiteout, self._whiteouts = self._writer.mknod(parent, entry.name, 0, attributes), 1

    def _attributes(self, path: bytes, entry: Entry) -> Attributes:
        return Attributes(
            entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.mtime_ns, entry.mtime_ns,
            self._fitting(path, self._tree.xattrs(entry)),
        )  # fmt: skip

    def _fitting(self, path: bytes, attributes: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """``attributes`` without those that ext3 has no place for, or no room: the largest go first."""
        kept = dict(attributes)
        while kept:
            try:
                ext_xattr.encode(kept, self._room, self._block_size)
                break
            except OSError as error:
                if error.errno == errno.ENOTSUP:
                    lost, why = next(name for name in kept if not _has_place(name)), "which ext3 cannot have"
                else:
                    lost, why = max(kept, key=lambda name: len(kept[name])), "for which ext3 has no room"
            del kept[lost]
            self._report(path, f"attributes {os.fsdecode(lost)}, {why}")
        return kept


def _has_place(name: bytes) -> bool:
    try:
        ext_xattr.encode({name: b""} if not name.startswith(b"system.posix_acl") else {}, 1 << 16, 1 << 16)
    except OSError:
        return False
    return True


def _spans(extents: list[Extent], size: int, block_size: int) -> list[tuple[int, int]]:
    """Blocks that hold any of ``extents``: (first, one behind the last), ascending."""
    spans: list[tuple[int, int]] = []
    for start, length in extents:
        first, last = start // block_size, -(-min(start + length, size) // block_size)
        if spans and first <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
        else:
            spans.append((first, last))
    return spans
