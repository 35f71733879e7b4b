"""A file or directory that appears under its name complete or not at all, and never in place of another.

A new file has no name until it is published (open(2) O_TMPFILE, then linkat(2)): a kill leaves nothing.
Where the file system lacks that (NFS, FUSE), it has an unguessable name beside its destination, and a kill
leaves that one file, which nothing else will ever touch or mistake for its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

# What the kernel answers where a file system lacks O_TMPFILE; EISDIR: kernels before 3.11.
_NO_TMPFILE: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
_NO_RENAME_NEW: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_NO_LINK: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def split(path: str) -> tuple[str, str]:
    """Directory and last name of ``path``. Raises OSError(EINVAL) where there is no such name to create."""
    directory, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "not a name for something new", path)
    return directory or ".", name


def refuse_existing(path: str) -> None:
    """FileExistsError when anything is at ``path``: readable or not, even a dangling symbolic link."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(path.rstrip("/") or "/")
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def _unguessable() -> str:
    return f".sifkit-{os.urandom(12).hex()}.new"


class NewFile:
    """An unnamed file open for reading and writing at ``fd``; `publish` gives it the name it was made for."""

    def __init__(self, fd: int, directory: int, path: str, beside: str | None) -> None:
        self.fd = fd
        self._directory = directory
        self._path = path
        self._name = split(path)[1]
        self._beside = beside  # its present name, None while it has none

    def publish(self) -> None:
        """Give the file its name. Raises FileExistsError, changing nothing, when the name is taken by now."""
        if self._beside is None:
            self._link(f"/proc/self/fd/{self.fd}")
        else:
            self._rename(self._beside)
            self._beside = None

    def _link(self, source: str) -> None:
        # With dst_dir_fd, os.link uses linkat(AT_SYMLINK_FOLLOW), which open(2) names for O_TMPFILE files.
        try:
            os.link(source, self._name, dst_dir_fd=self._directory, follow_symlinks=True)
        except FileExistsError as error:
            raise FileExistsError(error.errno, error.strerror, self._path) from None

    def _rename(self, beside: str) -> None:
        rename_new(beside, self._name, self._directory, self._path)

    def discard(self) -> None:
        """Forget the file unless it was published."""
        if self._beside is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._beside, dir_fd=self._directory)


def rename_new(old: str, new: str, directory: int, path: str) -> None:
    """Rename a file within ``directory``, never over another. ``path`` is the new name for error texts.

    renameat2(RENAME_NOREPLACE); link and unlink where the file system lacks it; where it lacks hard links
    too, the new name is first taken by an empty file of ours (O_EXCL), which the rename then replaces.
    """
    from overlay import linux_file

    try:
        linux_file.rename_new(old, new, directory)
        return
    except OSError as error:
        if error.errno not in _NO_RENAME_NEW:
            raise OSError(error.errno, error.strerror, path) from None
    try:
        os.link(old, new, src_dir_fd=directory, dst_dir_fd=directory)
        os.unlink(old, dir_fd=directory)
        return
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise OSError(error.errno, error.strerror, path) from None
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory))
    os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)


@contextlib.contextmanager
def new_file(path: str, mode: int) -> Iterator[NewFile]:
    """A new file of exactly ``mode`` for ``path``; gone at the end of the block unless it was published.

    Raises FileExistsError at once when something is there already, OSError when the directory refuses.
    """
    refuse_existing(path)
    parent, _ = split(path)
    with contextlib.ExitStack() as stack:
        directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        fd, beside = _open_unnamed(parent, directory, mode)
        stack.callback(os.close, fd)
        fresh = NewFile(fd, directory, path, beside)
        stack.callback(fresh.discard)
        os.fchmod(fd, mode)  # the umask has no say
        yield fresh


def _open_unnamed(parent: str, directory: int, mode: int) -> tuple[int, str | None]:
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode, dir_fd=directory), None
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise OSError(error.errno, error.strerror, parent) from None
    return _open_named(parent, directory, mode)


def _open_named(parent: str, directory: int, mode: int) -> tuple[int, str]:
    beside = _unguessable()
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(beside, flags, mode, dir_fd=directory), beside
    except OSError as error:
        raise OSError(error.errno, error.strerror, parent) from None


@contextlib.contextmanager
def new_directory(path: str, remove: Callable[[str], object] | None = None) -> Iterator[str]:
    """The path of a directory to fill; renamed to ``path`` at the end of the block, removed if that fails.

    Only what the block made through the yielded path may be in it: undoing removes empty directories only,
    unless it is done by ``remove``.
    """
    refuse_existing(path)
    parent, name = split(path)
    beside = os.path.join(parent, _unguessable())
    try:
        os.mkdir(beside)
    except OSError as error:
        raise OSError(error.errno, error.strerror, parent) from None  # nobody knows the other name
    directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield beside
        _rename_directory(os.path.basename(beside), name, directory, path)
    except BaseException:
        (remove or _remove_empty)(beside)
        raise
    finally:
        os.close(directory)


def _rename_directory(old: str, new: str, directory: int, path: str) -> None:
    from overlay import linux_file

    try:
        linux_file.rename_new(old, new, directory)
    except OSError as error:
        if error.errno not in _NO_RENAME_NEW:
            raise OSError(error.errno, error.strerror, path) from None
        # rename(2) replaces no file and no directory that holds anything.
        os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)


def _remove_empty(top: str) -> None:
    for here, names, _ in os.walk(top, topdown=False):
        for name in names:
            os.rmdir(os.path.join(here, name))
    os.rmdir(top)
