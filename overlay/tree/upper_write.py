"""Writing into a directory overlay's upper/: as into any directory, with an eye on the marks for what is deleted."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from overlay import linux_file, whiteout
from overlay.tree.layer_write import LayerSink
from overlay.tree.loss import Report
from overlay.tree.view import Entry
from overlay.tree.write import DirectorySink, Place

_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class UpperSink(DirectorySink, LayerSink[Place]):
    """Writes into ``upper/`` of the directory overlay ``overlay``, which is locked; stages in ``work/``."""

    def __init__(self, overlay: str, report: Report) -> None:
        work = os.path.join(overlay, "work")
        with contextlib.suppress(FileExistsError):
            os.mkdir(work, 0o755)
        staging = os.path.join(work, f".sifkit-{os.urandom(12).hex()}.new")
        DirectorySink.__init__(self, f"{overlay}/upper", staging, report)

    def owner(self) -> tuple[int, int]:
        found = os.fstat(self.top.fd)
        return found.st_uid, found.st_gid

    def has_directory(self, parent: Place, name: bytes) -> bool:
        found = _look(parent.fd, name)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def hides(self, parent: Place, name: bytes) -> bool:
        return self._is_nothing(parent, name) or _look(parent.fd, whiteout.PREFIX + name) is not None

    def is_opaque(self, directory: Place) -> bool:
        there = b"/proc/self/fd/%d/." % directory.fd
        marked = whiteout.is_opaque({mark.encode(): whiteout.value_of(there, mark) for mark in whiteout.OPAQUE_MARKS})
        return marked or any(_look(directory.fd, name) is not None for name in whiteout.OPAQUE_NAMES)

    def keep(self, directory: Place) -> Place:
        fd = os.dup(directory.fd)
        self._stack.callback(os.close, fd)
        return Place(fd, False)

    def _is_nothing(self, parent: Place, name: bytes) -> bool:
        found = _look(parent.fd, name)
        return found is not None and stat.S_ISCHR(found.st_mode) and not found.st_rdev

    def _publish_directory(self, staged: bytes, into: int, name: bytes, fd: int) -> None:
        deleted = self._is_nothing(Place(into, False), name)
        marked = _look(into, whiteout.PREFIX + name) is not None
        if deleted or marked:
            whiteout.mark_opaque(b"/proc/self/fd/%d/." % fd)
        if deleted:
            self._exchange(staged, into, name)
        else:
            super()._publish_directory(staged, into, name, fd)
        if marked:
            os.unlink(whiteout.PREFIX + name, dir_fd=into)

    def _exchange(self, staged: bytes, into: int, name: bytes) -> None:
        try:
            linux_file.exchange(staged, self._staging, name, into)
        except OSError as error:
            if error.errno not in _NO_EXCHANGE:
                raise
            os.unlink(name, dir_fd=into)
            os.rename(staged, name, src_dir_fd=self._staging, dst_dir_fd=into)

    def _publish(
        self, parent: Place, name: bytes, staged: bytes, entry: Entry | None = None, path: bytes = b""
    ) -> None:
        super()._publish(parent, name, staged, entry, path)
        if not parent.made and _look(parent.fd, whiteout.PREFIX + name) is not None:
            os.unlink(whiteout.PREFIX + name, dir_fd=parent.fd)


def _look(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.lstat(name, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # .wh. before a name of 255 bytes
            return None
        raise
