"""A tree of a session, an upper directory of kernel overlayfs, carried into an image name by name."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping

from overlay import whiteout
from overlay.commit.upper import (
    Found,
    Lowers,
    child_lowers,
    is_shown,
    kept_xattrs,
    look,
    nearer,
    replaced,
    same_file,
)
from overlay.extwrite.inode import SECOND, Attributes
from overlay.extwrite.writer import Writer
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

UPPER: Final = b"upper"
# Only the kernel's. fuse2fs lists `trusted.` ones to users who may not read them, and then the kernel cannot copy the
# directory up (ENODATA); fuse-overlayfs's own it copies up with the directory; fuse-overlayfs reads the kernel's.
_OPAQUE: Final = {whiteout.KERNEL_MARK.encode(): b"y"}
_MOST_WHITEOUTS: Final = 60000  # names for one inode
_BY_DESCRIPTOR: Final = b"/proc/self/fd/"


class Report(NamedTuple):
    """What a commit did: counts of names, the ``sockets`` that were left out, ``bytes_written`` into the image."""

    added: int
    changed: int
    deleted: int
    sockets: tuple[bytes, ...]
    bytes_written: int


class _Directory(NamedTuple):
    """A directory of the session to be carried over: where it is, where it goes, what lies below it."""

    where: bytes
    inside: bytes
    inode: int
    fresh: bool  # nothing of it was in the image
    lowers: Lowers


class Carrier:
    """Carries one tree. ``note`` is told what is left out."""

    def __init__(self, writer: Writer, note: Callable[[str], None]) -> None:
        self._writer = writer
        self._note = note
        self._links: dict[tuple[int, int], int] = {}  # (device, inode) of the session -> inode of the image
        self._whiteout = 0
        self._whiteouts = 0
        # A number is the descriptor by which all that was put here after it is reached.
        self._waiting: list[_Directory | int] = []
        self._parted: dict[int, tuple[bytes, int]] = {}  # inode with several names -> replaced by, stored as
        self._sockets: list[bytes] = []
        self._now = time.time_ns()
        self.added = self.changed = self.deleted = 0

    def report(self) -> Report:
        """What was done so far."""
        return Report(self.added, self.changed, self.deleted, tuple(self._sockets), self._writer.bytes_written)

    def carry(self, upper: bytes, below: Lowers) -> None:
        """The whole tree, directory by directory."""
        writer = self._writer
        found = os.stat(upper)
        top = writer.lookup(writer.root, UPPER)
        if not top:
            top = writer.mkdir(writer.root, UPPER, self._attributes(found, {}))
        self._merge(upper, b"", top, found, below)
        try:
            while self._waiting:
                each = self._waiting.pop()
                if isinstance(each, int):
                    os.close(each)
                    continue
                near, fd = nearer(each.where)
                if fd >= 0:
                    self._waiting.append(fd)
                self._enter(each._replace(where=near))
                writer.close_directory(each.inode)
        finally:
            for left in self._waiting:
                if isinstance(left, int):
                    os.close(left)

    def _merge(self, where: bytes, inside: bytes, inode: int, found: os.stat_result, lowers: Lowers) -> None:
        """A directory that the image has, too."""
        writer = self._writer
        opaque = replaced(where)
        was_opaque = whiteout.is_opaque(writer.xattrs(inode))
        xattrs = kept_xattrs(where)
        if was_opaque or (opaque and lowers != []):
            xattrs.update(_OPAQUE)
        if opaque:
            self.deleted += sum(1 for _ in writer.directory(inode))
            writer.clear_directory(inode)
        writer.set_attributes(inode, self._with_fraction(self._attributes(found, xattrs), inode))
        self._waiting.append(_Directory(where, inside, inode, opaque, [] if opaque or was_opaque else lowers))

    def _enter(self, directory: _Directory) -> None:
        gone: set[bytes] = set()
        for entry in look(directory.where):
            try:
                deleted = entry.deletes
                if deleted is None:
                    self._one(directory, entry)
                elif deleted not in gone:
                    gone.add(deleted)
                    self._delete(directory, deleted, entry)
            except OSError as error:
                error.filename = os.fsdecode(_join(directory.inside, entry.name))
                raise

    def _delete(self, directory: _Directory, name: bytes, entry: Found) -> None:
        """A name that is gone: not in the image any more, and hidden where a lower layer shows it."""
        writer = self._writer
        number = 0 if directory.fresh else writer.lookup(directory.inode, name)
        wanted = is_shown(name, directory.lowers)
        if number:
            inode = writer.inode(number)
            if whiteout.is_whiteout(inode.mode, inode.device):
                if wanted:
                    return
            else:
                self.deleted += 1
            writer.unlink(directory.inode, name)
        elif wanted:
            self.deleted += 1
        if wanted:
            self._hide(directory.inode, name, entry)

    def _hide(self, parent: int, name: bytes, entry: Found) -> None:
        """Whiteouts are names of one inode, as the kernel makes them: a deletion costs no inode."""
        if self._whiteout and self._whiteouts < _MOST_WHITEOUTS:
            self._writer.link(parent, name, self._whiteout)
        else:
            attributes = self._attributes(entry.stat, {})._replace(mode=stat.S_IFCHR)
            self._whiteout = self._writer.mknod(parent, name, os.makedev(0, 0), attributes)
            self._whiteouts = 0
        self._whiteouts += 1

    def _one(self, directory: _Directory, entry: Found) -> None:
        name, found = entry.name, entry.stat
        if stat.S_ISSOCK(found.st_mode):
            self._sockets.append(_join(directory.inside, name))
            self._note(f"socket left out: /{os.fsdecode(_join(directory.inside, name))}")
            self._delete(directory, name, entry)
            return
        number = 0 if directory.fresh else self._writer.lookup(directory.inode, name)
        if stat.S_ISDIR(found.st_mode):
            self._directory(directory, entry, number)
        else:
            self._file(directory, entry, number)

    def _directory(self, directory: _Directory, entry: Found, number: int) -> None:
        writer, name, inside = self._writer, entry.name, _join(directory.inside, entry.name)
        lowers = child_lowers(name, directory.lowers)
        covering = bool(number)  # what the image has there hides what lies below it
        if number:
            if writer.inode(number).is_directory:
                self.changed += 1
                self._merge(entry.path, inside, number, entry.stat, lowers)
                return
            self._clear_way(directory, name, number)
        else:
            self.added += 1
        xattrs = kept_xattrs(entry.path)
        if lowers != [] and (covering or replaced(entry.path)):
            xattrs.update(_OPAQUE)
            lowers = []
        number = writer.mkdir(directory.inode, name, self._attributes(entry.stat, xattrs))
        self._waiting.append(_Directory(entry.path, inside, number, True, lowers))

    def _clear_way(self, directory: _Directory, name: bytes, number: int) -> None:
        """Remove what the image has under a name that becomes something else."""
        inode = self._writer.inode(number)
        if whiteout.is_whiteout(inode.mode, inode.device):
            self.added += 1
        else:
            self.changed += 1
        self._writer.unlink(directory.inode, name)

    def _file(self, directory: _Directory, entry: Found, number: int) -> None:
        writer, found = self._writer, entry.stat
        identity = (found.st_dev, found.st_ino)
        known = self._links.get(identity, 0) if found.st_nlink > 1 else 0
        if known and known == number:
            self.changed += 1
            return
        if number and not known and number not in self._parted and stat.S_ISREG(found.st_mode):
            inode = writer.inode(number)
            if inode.is_file and inode.links == 1:  # in place: the directory need not be written
                self.changed += 1
                fd = entry.open()
                try:
                    self._rewrite(number, fd, found)
                finally:
                    os.close(fd)
                self._remember(identity, number, found)
                return
        if number:
            known = known or self._rejoin(entry, number)
            self._clear_way(directory, entry.name, number)
        else:
            self.added += 1
        if known:
            writer.link(directory.inode, entry.name, known)
        else:
            made = self._make(directory.inode, entry)
            self._remember(identity, made, found)
            if number and stat.S_ISREG(found.st_mode) and not entry.path.startswith(_BY_DESCRIPTOR):
                self._parted.setdefault(number, (entry.path, made))

    def _rewrite(self, number: int, fd: int, found: os.stat_result) -> None:
        """A file of the image that was copied up, for its contents or only for its attributes."""
        attributes = self._attributes(found, kept_xattrs(fd))
        if self._writer.holds(number, fd, found):
            self._writer.set_attributes(number, self._with_fraction(attributes, number))
        else:
            self._writer.rewrite(number, fd, attributes, found)

    def _attributes(self, found: os.stat_result, xattrs: Mapping[bytes, bytes]) -> Attributes:
        """As in the session, but changed now: that tells a session from before that it comes too late."""
        times = found.st_atime_ns, found.st_mtime_ns, self._now
        return Attributes(found.st_mode, found.st_uid, found.st_gid, *times, xattrs)

    def _with_fraction(self, attributes: Attributes, number: int) -> Attributes:
        """What was copied up through fuse2fs, which shows whole seconds, keeps the fraction that the image has."""
        present = self._writer.inode(number).mtime_ns
        cut = attributes.mtime_ns == present - present % SECOND
        return attributes._replace(mtime_ns=present) if cut else attributes

    def _rejoin(self, entry: Found, number: int) -> int:
        """Names of one file of the image that were changed alike (chmod -R) and so came apart, but say the same."""
        other, made = self._parted.get(number, (b"", 0))
        return made if made and stat.S_ISREG(entry.stat.st_mode) and same_file(entry.path, other) else 0

    def _remember(self, identity: tuple[int, int], number: int, found: os.stat_result) -> None:
        if found.st_nlink > 1:
            self._links[identity] = number

    def _make(self, parent: int, entry: Found) -> int:
        writer, name, found = self._writer, entry.name, entry.stat
        if stat.S_ISREG(found.st_mode):
            fd = entry.open()
            try:
                return writer.create(parent, name, fd, self._attributes(found, kept_xattrs(fd)), found)
            finally:
                os.close(fd)
        attributes = self._attributes(found, kept_xattrs(entry.path))
        if stat.S_ISLNK(found.st_mode):
            return writer.symlink(parent, name, os.readlink(entry.path), attributes)
        return writer.mknod(parent, name, found.st_rdev, attributes)


def _join(inside: bytes, name: bytes) -> bytes:
    return inside + b"/" + name if inside else name
