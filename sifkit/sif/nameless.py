"""New files that have no name until they are complete, so that a kill leaves nothing.

open(2) O_TMPFILE, then linkat(2); where the file system lacks the first (NFS, FUSE), a name that nobody guesses
beside the destination, and a kill leaves that one file. As `overlay.newfile`, which this package does not import.
"""

from __future__ import annotations

import errno
import os
import secrets

# What the kernel answers where a file system lacks O_TMPFILE (EISDIR: kernels before 3.11), and hard links.
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
_NO_LINK = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_OURS = "/proc/self/fd"


def beside(path: str) -> str:
    """A name in the directory of ``path`` for the time before the file is complete."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name[:200]}.{secrets.token_hex(8)}")


def open_nameless(path: str, named: str, mode: int) -> int:
    """A new file for ``path``, of ``mode`` under the umask; at ``named`` where it cannot be without a name."""
    if os.path.isdir(_OURS):  # else it could never get a name, as in a bare chroot
        try:
            return os.open(os.path.dirname(path) or ".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, mode)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise OSError(error.errno, error.strerror, path) from None
    try:
        return os.open(named, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def give_name(fd: int, named: str, path: str) -> None:
    """Make the file ``path``, never in place of another. Raises ``FileExistsError``."""
    try:
        if os.fstat(fd).st_nlink == 0:
            _link(fd, path)
        else:
            _move(named, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _link(fd: int, path: str) -> None:
    # Only with a directory descriptor does os.link use linkat(2), which can follow this link.
    at = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"{_OURS}/{fd}", path, src_dir_fd=at, follow_symlinks=True)
    finally:
        os.close(at)


def _move(named: str, path: str) -> None:
    try:
        os.link(named, path)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    else:
        os.unlink(named)
        return
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))  # ours now, to be replaced
    os.rename(named, path)


def sync_directory(path: str) -> None:
    """Have the names in the directory of ``path`` on disk."""
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
