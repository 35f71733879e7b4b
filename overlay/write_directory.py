"""A tree written as a directory of the host, as far as the caller may.

What only root may do (foreign owners, device nodes other than whiteouts, ``trusted.`` and ``security.``
attributes) is tried and, where it is refused, reported, entry by entry.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final

from overlay import whiteout
from overlay.loss import Report
from overlay.tree import Entry, Tree, pieces

_REFUSED: Final = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP)
_NO_ROOM: Final = (errno.ENOSPC, errno.E2BIG, errno.ERANGE)
_ROOTS: Final = whiteout.ROOT_MARK.encode()
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_directory(tree: Tree, top: str, report: Report) -> None:
    """Write all of ``tree`` into ``top``, an empty directory of the caller's, and give that the top's metadata.

    Raises what the tree raises, and OSError of the host but for what is reported.
    """
    _Writer(tree, os.fsencode(top), report).run()


def remove_tree(path: str) -> None:
    """Remove ``path`` and all below it, also what its owner closed to himself."""
    import shutil

    def open_and_retry(function: object, name: str, _: object) -> None:
        for closed in (os.path.dirname(name), name):
            if not os.path.islink(closed):
                os.chmod(closed, 0o700)
        if os.path.isdir(name) and not os.path.islink(name):
            shutil.rmtree(name)
        else:
            os.unlink(name)

    shutil.rmtree(path, onerror=open_and_retry)


class _Writer:
    def __init__(self, tree: Tree, top: bytes, report: Report) -> None:
        self._tree = tree
        self._top = top
        self._report = report
        self._names: dict[int, bytes] = {}  # inode of a file with several names -> where it was written

    def run(self) -> None:
        # A directory gets its mode and times when all below it is there.
        waiting = [(b"", self._tree.top)]
        for path, entry in self._tree.walk():
            while waiting[-1][0] and not path.startswith(waiting[-1][0] + b"/"):
                self._finish(*waiting.pop())
            self._write(path, entry)
            if entry.is_directory:
                waiting.append((path, entry))
        while waiting:
            self._finish(*waiting.pop())

    def _place(self, path: bytes) -> bytes:
        return self._top + b"/" + path if path else self._top

    def _write(self, path: bytes, entry: Entry) -> None:
        place = self._place(path)
        if entry.is_directory:
            os.mkdir(place, 0o700)
            return
        if entry.links > 1:
            first = self._names.get(entry.inode)
            if first is not None:
                os.link(first, place, follow_symlinks=False)
                return
        if entry.is_file:
            self._file(place, entry)
        elif entry.is_symlink:
            os.symlink(self._tree.readlink(entry), place)
        elif not self._node(path, place, entry):
            return
        if entry.links > 1:
            self._names[entry.inode] = place
        self._finish(path, entry)

    def _file(self, place: bytes, entry: Entry) -> None:
        fd = os.open(place, _FLAGS, 0o600)
        try:
            end = 0
            for start, data in pieces(self._tree, entry):
                view = memoryview(data)
                while view:
                    count = os.pwrite(fd, view, start)
                    view, start = view[count:], start + count
                end = start
            if end < entry.size:
                os.ftruncate(fd, entry.size)
        finally:
            os.close(fd)

    def _node(self, path: bytes, place: bytes, entry: Entry) -> bool:
        """Make a device, pipe or socket; whether it could be."""
        try:
            os.mknod(place, stat.S_IFMT(entry.mode) | 0o600, entry.device)
        except PermissionError:
            self._report(path, f"{entry.kind}s, which only root may make")
            return False
        return True

    def _finish(self, path: bytes, entry: Entry) -> None:
        """Owner first, for its change takes capabilities and set-user-ID bits away; attributes while we may write."""
        place = self._place(path)
        self._chown(path, place, (entry.uid, entry.gid))
        for name, value in self._tree.xattrs(entry).items():
            self._attribute(path, place, name, value, entry)
        if not entry.is_symlink:
            os.chmod(place, stat.S_IMODE(entry.mode))
        os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def _chown(self, path: bytes, place: bytes, wanted: tuple[int, int]) -> None:
        found = os.lstat(place)
        if (found.st_uid, found.st_gid) == wanted:
            return
        try:
            os.lchown(place, *wanted)
        except OSError as error:
            if error.errno not in (*_REFUSED, errno.EINVAL):  # EINVAL: an id this user namespace does not have
                raise
            # One's own other groups may be given.
            with contextlib.suppress(OSError):
                os.lchown(place, -1, wanted[1])
            if whiteout.is_whiteout(found.st_mode, (os.major(found.st_rdev), os.minor(found.st_rdev))):
                return  # whose it is means nothing
            self._report(path, "owners, which only root may give away")

    def _attribute(self, path: bytes, place: bytes, name: bytes, value: bytes, entry: Entry) -> None:
        try:
            os.setxattr(place, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (*_REFUSED, *_NO_ROOM):
                raise
            if name == _ROOTS:
                return  # the marks beside it say the same to everybody else
            if error.errno in _NO_ROOM:
                why = "for which this file system has no room"
            elif error.errno == errno.EOPNOTSUPP:
                why = "which this file system does not take"
            elif name.startswith(b"user.") and not (entry.is_file or entry.is_directory):
                why = "which a " + entry.kind + " may not have here"
            else:
                why = "which only root may set"
            self._report(path, f"attributes {os.fsdecode(name)}, {why}")
