"""Writing entries into directories of the host: `DirectorySink`, and `UpperSink` for an overlay's upper directory.

What is new is made in a staging directory on the same file system and renamed when it is complete, so that a failure
or a kill leaves nothing half done under a final name. Every step goes through descriptors of directories, none
follows a symbolic link: what is written is somebody else's, and may try to lead out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from types import TracebackType
from typing import NamedTuple, Self

from overlay import remove, whiteout
from overlay.tree.copy import Copier, Marks, Sink
from overlay.tree.loss import Report
from overlay.tree.view import Entry, Tree, pieces

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CANNOT = (errno.EPERM, errno.EACCES, errno.EINVAL)  # EINVAL: an id this user namespace does not have
_NO_ROOM = (errno.ENOSPC, errno.E2BIG, errno.ERANGE)
_ROOTS = whiteout.ROOT_MARK.encode()
OWNERS = "owners, which only root may give away"
_NO_LINK = (errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP, errno.ENAMETOOLONG, errno.ENOENT)
_SET_ID = 0o6000


class Place(NamedTuple):
    """A directory being filled, open at ``fd``. ``made``: by us; ``staged``: (directory, name) that it is to get."""

    fd: int
    made: bool
    staged: tuple[int, bytes, bytes] | None = None  # the directory it goes to, its name there, its name in staging


class DirectorySink(Sink[Place]):
    """Writes below the directory ``root``, staging in ``staging``. Use it as a context manager."""

    def __init__(self, root: str, staging: str, report: Report, *, is_layer: bool = False) -> None:
        """``staging`` is made, and removed at the end. ``is_layer``: of an overlay, whose owner all in it belongs to.

        Raises OSError.
        """
        super().__init__(report)
        self._is_layer = is_layer
        self._stack = contextlib.ExitStack()
        self._count = 0
        self._linked: dict[bytes, bytes] = {}  # path -> another name, in staging, of what may get more names
        try:
            os.mkdir(staging, 0o700)
            self._stack.callback(remove.remove, os.fsencode(staging))
            self._staging = self._open(staging)
            self.top = Place(self._open(root), False)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self, path: str) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stack.callback(os.close, fd)
        return fd

    def _staged_name(self) -> bytes:
        self._count += 1
        return b"%d" % self._count

    # -- directories

    def directory(self, parent: Place, name: bytes, path: bytes) -> Place:
        if parent.made:
            os.mkdir(name, 0o700, dir_fd=parent.fd)
            return Place(os.open(name, _OPEN, dir_fd=parent.fd), True)
        try:
            return Place(os.open(name, _OPEN, dir_fd=parent.fd), False)
        except FileNotFoundError:
            return self._new_directory(parent, name)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP) or not self._is_nothing(parent, name):
                raise
            return self._new_directory(parent, name)

    def _new_directory(self, parent: Place, name: bytes) -> Place:
        staged = self._staged_name()
        os.mkdir(staged, 0o700, dir_fd=self._staging)
        return Place(os.open(staged, _OPEN, dir_fd=self._staging), True, (parent.fd, name, staged))

    def _is_nothing(self, parent: Place, name: bytes) -> bool:
        """Whether what is there only means that nothing is."""
        return False

    def leave(self, directory: Place, entry: Entry, attributes: dict[bytes, bytes], path: bytes) -> None:
        try:
            if directory.made:
                mode = self._dress(directory.fd, entry, attributes, path)
                if directory.staged is not None:
                    into, name, staged = directory.staged
                    self._publish_directory(staged, into, name, directory.fd)
                # A directory that is closed to its owner could not be renamed by him.
                os.fchmod(directory.fd, mode)
                os.utime(directory.fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(directory.fd)

    def _publish_directory(self, staged: bytes, into: int, name: bytes, fd: int) -> None:
        os.rename(staged, name, src_dir_fd=self._staging, dst_dir_fd=into)

    # -- everything else

    def file(
        self, parent: Place, name: bytes, entry: Entry, attributes: dict[bytes, bytes], tree: Tree, path: bytes
    ) -> None:
        into, staged = self._where(parent, name)
        fd = os.open(staged, _NEW, 0o600, dir_fd=into)
        try:
            for at, piece in pieces(tree, entry):
                view = memoryview(piece)
                while view:
                    count = os.pwrite(fd, view, at)
                    view, at = view[count:], at + count
            os.ftruncate(fd, entry.size)
            os.fchmod(fd, self._dress(fd, entry, attributes, path))
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)
        self._publish(parent, name, staged, entry, path)

    def special(
        self, parent: Place, name: bytes, entry: Entry, attributes: dict[bytes, bytes], target: bytes, path: bytes
    ) -> bool:
        into, staged = self._where(parent, name)
        if entry.is_symlink:
            os.symlink(target, staged, dir_fd=into)
        else:
            try:
                os.mknod(staged, stat.S_IFMT(entry.mode) | 0o600, entry.device, dir_fd=into)
            except PermissionError:
                self.report(path, f"{entry.kind}s, which only root may make")
                return False
        there = b"/proc/self/fd/%d/%s" % (into, staged)
        mode = self._dress(there, entry, attributes, path)
        if not entry.is_symlink:
            os.chmod(there, mode)
        os.utime(there, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
        self._publish(parent, name, staged, entry, path)
        return True

    def link(self, parent: Place, name: bytes, existing: bytes, path: bytes) -> bool:
        known = self._linked.get(existing)
        if known is None:
            return False
        into, staged = self._where(parent, name)
        try:
            os.link(known, staged, src_dir_fd=self._staging, dst_dir_fd=into, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            return False
        self._publish(parent, name, staged)
        return True

    def _where(self, parent: Place, name: bytes) -> tuple[int, bytes]:
        return (parent.fd, name) if parent.made else (self._staging, self._staged_name())

    def _publish(
        self, parent: Place, name: bytes, staged: bytes, entry: Entry | None = None, path: bytes = b""
    ) -> None:
        """Give what is complete its name; ``entry`` may get more names."""
        if entry is not None and entry.links > 1:
            self._keep_link(parent, staged, path)
        if not parent.made:
            os.rename(staged, name, src_dir_fd=self._staging, dst_dir_fd=parent.fd)

    def _keep_link(self, parent: Place, staged: bytes, path: bytes) -> None:
        into = parent.fd if parent.made else self._staging
        name = self._staged_name()
        with contextlib.suppress(OSError):  # then there are no hard links here, which `link` will say
            os.link(staged, name, src_dir_fd=into, dst_dir_fd=self._staging, follow_symlinks=False)
            self._linked[path] = name

    # -- what belongs to an entry

    def _dress(self, what: int | bytes, entry: Entry, attributes: dict[bytes, bytes], path: bytes) -> int:
        """Give owner and attributes; the mode that is still to be given, without what a lost owner takes with it.

        The owner first, for its change takes capabilities and set-user-ID bits away.
        """
        mode = stat.S_IMODE(entry.mode)
        deletes = stat.S_ISCHR(entry.mode) and not entry.device  # whose that is means nothing
        if not self._give(what, entry.uid, entry.gid) and not deletes:
            self.report(path, OWNERS)
            if mode & _SET_ID and not entry.is_directory and not self._is_layer:
                self.report(path, "set-user-ID and set-group-ID bits, as the owner was not kept")
                mode &= ~_SET_ID
        for key, value in attributes.items():
            try:
                if isinstance(what, int):
                    os.setxattr(what, key, value)
                else:
                    os.setxattr(what, key, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (*_CANNOT, errno.EOPNOTSUPP, *_NO_ROOM):
                    raise
                if key != _ROOTS:  # the marks beside it say the same to everybody else
                    self.report(path, f"attributes {os.fsdecode(key)}, {_why(error, key, entry)}")
        return mode

    def _give(self, what: int | bytes, uid: int, gid: int) -> bool:
        found = os.fstat(what) if isinstance(what, int) else os.lstat(what)
        if (found.st_uid, found.st_gid) == (uid, gid):
            return True
        for owner in ((uid, gid), (-1, gid)):  # one's own other groups may be given
            try:
                os.chown(what, *owner, follow_symlinks=isinstance(what, int))
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
            else:
                return owner[0] == uid
        return False


def _why(error: OSError, key: bytes, entry: Entry) -> str:
    if error.errno in _NO_ROOM:
        return "for which this file system has no room"
    if error.errno == errno.EOPNOTSUPP:
        return "which this file system does not take"
    if key.startswith(b"user.") and not (entry.is_file or entry.is_directory):
        return "which a " + entry.kind + " may not have here"
    return "which only root may set"


def write_directory(tree: Tree, top: str, report: Report) -> None:
    """Write all of ``tree`` into ``top``, an empty directory of the caller's, and give that the top's metadata.

    Raises what the tree raises, and OSError of the host but for what is reported.
    """
    with DirectorySink(top, f"{top}.new", report, is_layer=True) as sink:
        place = Place(os.dup(sink.top.fd), True)
        Copier(tree, sink, Marks.KEEP).copy_inside(tree.top, place, b"")
        sink.leave(place, tree.top, tree.xattrs(tree.top), b"")
