"""A layer made of nodes: directories and links as they are, and of every file its metadata.

A file of a metadata layer is empty and sparse, of the right size, mode and times, and carries two marks
(Documentation/filesystems/overlayfs.rst): ``user.overlay.metacopy``, empty, and ``user.overlay.redirect``, the path
in the base, from its top. Through a mount with the base as data-only layer it belongs to who made it, and its
content is read from the base.

Space on ext4, whose inodes of 256 bytes have 92 for attributes: with a path of up to 24 bytes both marks lie in the
inode. Up to 56 the path alone does. The other mark, the same for all files, then goes into a block that up to 1024
files share (mbcache), if it is set last; set first it would take the path's place, and every file would have a
block of its own, as files with longer paths do. See decision 29.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from overlay import deep
from overlay.metalayer.node import Node, Nodes
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

METACOPY: Final = b"user.overlay.metacopy"
REDIRECT: Final = b"user.overlay.redirect"

# Past this a redirect can be looked up by no kernel (PATH_MAX) nor stored by ext4 (one block): the file is copied.
LONGEST_REDIRECT: Final = 3900
_TOO_LONG: Final = (errno.ENOSPC, errno.E2BIG, errno.ERANGE)
_SURELY_FITS: Final = 1000
STEP: Final = 256  # entries after which it is told how far it has come
_INODE: Final = 256  # bytes of one on ext4
_SAMPLED: Final = 8  # of so many files one is asked what it takes


class Written(NamedTuple):
    """What was made. ``directories``: path and ctime of each, which tell later if one was changed.

    ``space``: bytes that the layer takes on disk, about. ``left_out``: device nodes, which this user may not make.
    ``last``: the newest ctime in the layer, ns.
    """

    entries: int
    space: int
    directories: list[tuple[bytes, int]]
    left_out: list[bytes]
    last: int


def write(
    nodes: Nodes, top: int, base: int, *, files: bool, owners: bool = False, step: Callable[[int], None] | None = None
) -> Written:
    """Make the layer of ``nodes`` in the empty directory open at ``top``; ``base``: the directory they come from.

    ``files``: everything; else directories alone. ``owners``: give everything its owner, which takes root. ``step``
    is called now and then with the number of entries made. Raises OSError; what was made is left.
    """
    writer = _Writer(top, base, files, owners)
    for number, node in enumerate(nodes):
        if not node.path or node.is_directory or files:
            writer.add(node)
        if step is not None and number % STEP == 0:
            step(number)
    return writer.finish()


class _Writer:
    def __init__(self, top: int, base: int, files: bool, owners: bool) -> None:
        self._top = top
        self._base = base
        self._owners = owners
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._directories: list[Node] = []
        self._place: bytes | None = None  # the directory open at _here
        self._here = -1
        self._first: dict[int, bytes] = {}  # inode -> where it was made
        self._left_out: list[bytes] = []
        self._entries = self._space = 0

    def add(self, node: Node) -> None:
        self._entries += 1
        if not node.path:
            self._directories.append(node)
            return
        place, name = deep.split(node.path)
        if place != self._place:
            self._enter(place)
        if node.is_directory:
            os.mkdir(name, 0o700, dir_fd=self._here)
            self._directories.append(node)
        elif node.links > 1 and node.inode in self._first:
            self._link(node, name)
        elif node.is_file:
            self._file(node, name)
        else:
            self._special(node, name)

    def _enter(self, place: bytes) -> None:
        if self._here >= 0:
            os.close(self._here)
            self._here = -1
        self._here = deep.open_below(self._top, place)
        self._place = place

    def _file(self, node: Node, name: bytes) -> None:
        mode = stat.S_IMODE(node.mode)
        # Attributes need the right to write; where the mode has it and the umask does not matter, it is right at once.
        at_once = mode & stat.S_IWUSR and not mode & self._umask and not mode & (stat.S_ISUID | stat.S_ISGID)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        descriptor = os.open(name, flags, mode if at_once else 0o600, dir_fd=self._here)
        try:
            self._fill(node, descriptor)
            for attribute, value in node.attributes:
                os.setxattr(descriptor, attribute, value)
            if self._owners:
                os.fchown(descriptor, node.uid, node.gid)
            if not at_once:
                os.fchmod(descriptor, mode)
            os.utime(descriptor, ns=(node.mtime_ns, node.mtime_ns))
            if self._entries % _SAMPLED == 0:
                self._space += (os.fstat(descriptor).st_blocks * 512 + _INODE) * _SAMPLED
        finally:
            os.close(descriptor)
        self._remember(node)

    def _fill(self, node: Node, descriptor: int) -> None:
        redirect = b"/" + node.path
        if len(redirect) <= LONGEST_REDIRECT:
            try:
                os.setxattr(descriptor, REDIRECT, redirect)
            except OSError as error:
                if error.errno not in _TOO_LONG or len(redirect) <= _SURELY_FITS:
                    raise
            else:
                os.setxattr(descriptor, METACOPY, b"")
                if node.size:
                    os.ftruncate(descriptor, node.size)
                return
        source = deep.open_below(self._base, node.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            while data := os.read(source, 1 << 20):
                os.write(descriptor, data)
        finally:
            os.close(source)

    def _special(self, node: Node, name: bytes) -> None:
        """Links, pipes, sockets; device nodes where the kernel lets us."""
        if stat.S_ISLNK(node.mode):
            os.symlink(node.target, name, dir_fd=self._here)
        else:
            try:
                if stat.S_ISCHR(node.mode) and node.device == 0:  # a whiteout: it would mean something
                    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
                os.mknod(name, node.mode, node.device, dir_fd=self._here)
            except PermissionError:
                self._left_out.append(node.path)
                return
            os.chmod(name, stat.S_IMODE(node.mode), dir_fd=self._here)  # the umask has no say
        if self._owners:
            os.chown(name, node.uid, node.gid, dir_fd=self._here, follow_symlinks=False)
        os.utime(name, ns=(node.mtime_ns, node.mtime_ns), dir_fd=self._here, follow_symlinks=False)
        self._space += _INODE
        self._remember(node)

    def _remember(self, node: Node) -> None:
        if node.links > 1 and node.inode:
            self._first[node.inode] = node.path

    def _link(self, node: Node, name: bytes) -> None:
        place, first = deep.split(self._first[node.inode])
        there = deep.open_below(self._top, place)
        try:
            os.link(first, name, src_dir_fd=there, dst_dir_fd=self._here, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EMLINK:  # 65000 on ext4; the next names have an inode of their own
                raise
            del self._first[node.inode]
            self._entries -= 1
            self.add(node)
        finally:
            os.close(there)

    def finish(self) -> Written:
        """Modes and times of directories, the deepest first: nothing is made in them any more."""
        if self._here >= 0:
            os.close(self._here)
        changed: list[tuple[bytes, int]] = []
        for node in reversed(self._directories):
            here = deep.open_below(self._top, node.path)
            try:
                for attribute, value in node.attributes:
                    os.setxattr(here, attribute, value)
                if self._owners:
                    os.fchown(here, node.uid, node.gid)
                os.fchmod(here, stat.S_IMODE(node.mode))
                os.utime(here, ns=(node.mtime_ns, node.mtime_ns))
                status = os.fstat(here)
            finally:
                os.close(here)
            self._space += status.st_blocks * 512 + _INODE
            changed.append((node.path, status.st_ctime_ns))
        last = max(ctime for _, ctime in changed)
        return Written(self._entries, self._space, changed, self._left_out, last)
