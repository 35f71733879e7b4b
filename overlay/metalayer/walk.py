"""The nodes of a base by looking at every file of it: one after the other, or where that waits for a network by
several threads.

What the caller may not read is noted: its directories would look empty in a layer.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator

from overlay import deep
from overlay.metalayer.node import Node
from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

THREADS: Final = 16  # for trees behind a network, where nearly all of the time is waiting

# What CVMFS says of itself; it shows these on every file if CVMFS_MAGIC_XATTRS_VISIBILITY is `always`.
_MAGIC: Final = frozenset(
    b"user." + name
    for name in b"""authz catalog_counters chunk_list chunks compression direct_io expires external_file external_host
    external_timeout external_url fqrn hash hitrate host host_list inode_max lhash logbuffer maxfd ncleanup24 nclg
    ndiropen ndownload nioerr nopen pid proxy proxy_list proxy_list_external pubkeys rawlink repo_counters
    repo_metainfo revision root_hash rx speed tag timeout timeout_direct timestamp_last_ioerr uptime usedfd useddirp
    version""".split()
)
_LONG: Final = 3000
_NO_ATTRIBUTES: Final = (errno.ENOTSUP, errno.ENOSYS, errno.ENODATA, errno.EACCES, errno.EPERM)
_NETWORKS: Final = frozenset(["9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "smb3"])
_ANYBODY: Final = 0o444
_NONE: tuple[tuple[bytes, bytes], ...] = ()


class Walk:
    """The nodes of the directory ``top``, to be iterated once. Raises OSError, and ``too_many`` past ``most`` nodes.

    ``threads``: how many look at once. ``details``: attributes and what may be read, too; without them it is
    faster, and enough to see if anything changed. ``unreadable``: paths, complete when the iteration has ended.
    """

    def __init__(
        self, top: str, threads: int = 1, most: int = 0, details: bool = True,
        too_many: type[Exception] = OverflowError,
    ) -> None:  # fmt: skip
        self._path = top
        self._threads = threads
        self._most, self._too_many = most, too_many
        self._details = details
        self.unreadable: list[bytes] = []
        self.count = 0

    def __iter__(self) -> Iterator[Node]:
        self._top = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = os.fstat(self._top)
            self._device = found.st_dev
            self._points: set[bytes] | None = None
            self._lead = os.fsencode(self._path).rstrip(b"/") + b"/"
            yield _node(b"", found, b"", self._attributes(b"", self._top, b"."))
            for listing in self._threaded() if self._threads > 1 else self._one_by_one():
                self.count += len(listing)
                if self._most and self.count > self._most:
                    raise self._too_many
                yield from listing
        finally:
            os.close(self._top)

    def _one_by_one(self) -> Iterator[list[Node]]:
        waiting = deque([b""])
        while waiting:
            listing, below = self._list(waiting.popleft())
            yield listing
            waiting.extend(below)

    def _threaded(self) -> Iterator[list[Node]]:
        from queue import SimpleQueue
        from threading import Thread

        asked: SimpleQueue[bytes | None] = SimpleQueue()
        answers: SimpleQueue[tuple[list[Node], list[bytes]] | BaseException] = SimpleQueue()

        def work() -> None:
            while (place := asked.get()) is not None:
                try:
                    answers.put(self._list(place))
                except BaseException as error:  # raised again where it is waited for
                    answers.put(error)

        threads = [Thread(target=work, daemon=True) for _ in range(self._threads)]
        for thread in threads:
            thread.start()
        try:
            asked.put(b"")
            outstanding = 1
            while outstanding:
                answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                listing, below = answer
                for place in below:
                    asked.put(place)
                outstanding += len(below) - 1
                yield listing
        finally:
            for _ in threads:
                asked.put(None)
            for thread in threads:
                thread.join()

    def _list(self, place: bytes) -> tuple[list[Node], list[bytes]]:
        """What is in the directory ``place``, by name, and which of it are directories to look into."""
        try:
            here = deep.open_below(self._top, place)
        except PermissionError:
            self.unreadable.append(place)
            return [], []
        try:
            with os.scandir(here) as entries:
                found = sorted((os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries)
            listing, below = [], []
            for name, status in found:
                path = place + b"/" + name if place else name
                kind = stat.S_IFMT(status.st_mode)
                target, attributes = b"", _NONE
                if kind == stat.S_IFLNK and self._details:
                    target = os.readlink(name, dir_fd=here)
                elif kind == stat.S_IFDIR:
                    if not self._is_mount_point(path, status):
                        below.append(path)
                elif self._details and kind == stat.S_IFREG and status.st_mode & _ANYBODY != _ANYBODY:
                    self._note_unreadable(path, name, here)
                if self._details and kind in (stat.S_IFREG, stat.S_IFDIR):
                    attributes = self._attributes(path, here, name)
                listing.append(_node(path, status, target, attributes))
            return listing, below
        finally:
            os.close(here)

    def _is_mount_point(self, path: bytes, status: os.stat_result) -> bool:
        """What is mounted in a base is no part of a layer. A btrfs subvolume has a device of its own, and is none."""
        if status.st_dev == self._device:
            return False
        if self._points is None:
            from overlay import mountinfo

            self._points = {os.fsencode(mount.point) for mount in mountinfo.below(os.path.realpath(self._path))}
        return os.path.join(os.fsencode(os.path.realpath(self._path)), path) in self._points

    def _note_unreadable(self, path: bytes, name: bytes, here: int) -> None:
        if not os.access(name, os.R_OK, dir_fd=here):
            self.unreadable.append(path)

    def _attributes(self, path: bytes, here: int, name: bytes) -> tuple[tuple[bytes, bytes], ...]:
        if not self._details:
            return ()
        # There is no listxattrat(2) before Linux 6.13; by way of /proc it takes longer.
        place = self._lead + path if len(path) < _LONG else b"/proc/self/fd/%d/%s" % (here, name)
        try:
            names = os.listxattr(place, follow_symlinks=False)
            if not names:
                return ()
            wanted = [n for n in map(os.fsencode, names) if n.startswith(b"user.") and n not in _MAGIC]
            # Marks of overlayfs in a base mean nothing: they would in a layer.
            wanted = [n for n in wanted if not n.startswith(b"user.overlay.")]
            return tuple((n, os.getxattr(place, n, follow_symlinks=False)) for n in sorted(wanted))
        except OSError as error:
            if error.errno in _NO_ATTRIBUTES:
                return ()
            raise


def _node(path: bytes, found: os.stat_result, target: bytes, attributes: tuple[tuple[bytes, bytes], ...]) -> Node:
    return Node(
        path, found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns, found.st_ctime_ns,
        found.st_nlink, found.st_ino, found.st_rdev, target, attributes,
    )  # fmt: skip


def is_remote(fstype: str) -> bool:
    """Whether looking at files of this file system mostly waits, so that threads help."""
    return fstype.startswith(("fuse", "nfs")) or fstype in _NETWORKS
