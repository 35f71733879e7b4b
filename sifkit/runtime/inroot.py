"""Paths of the container, never mistaken for paths of the host.

`within` is the one function that joins the two as text; `locate` and `create` open what a container path
means with the container's own symbolic links, and cannot leave its root: openat2(2) RESOLVE_IN_ROOT, or
where that cannot be, as before Linux 5.6, a walk that opens one name after the other and follows links itself.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection

from overlay import linux
from overlay.features import without
from overlay.records import NamedTuple

_MOST_LINKS = 40  # MAXSYMLINKS of the kernel


class Root(NamedTuple):
    """The new root: ``top``, its host path, open at ``fd``. ``files``: host directory for generated files.

    ``own``: devices on which mount points may be made; never in an image that is its own root, nor in directories of
    the host, where `Bind.points` are all that is made.
    ``skipped``: notes about optional steps left out.
    """

    top: str
    fd: int
    files: str
    own: set[int]
    skipped: list[str]


def within(root: str, path: str) -> str:
    """Host path of container path ``path`` below ``root``, as text. ValueError for a ``..`` in it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"{path!r} leaves the container with '..'")
    return "/".join([root.rstrip("/"), *parts]) if parts else root


def locate(root: int, path: str) -> int:
    """An O_PATH descriptor of container path ``path`` below the directory open at ``root``; OSError if none."""
    if not without("openat2"):
        try:
            resolve = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
            return linux.openat2(root, path, os.O_PATH, resolve)
        except OSError as error:
            # EAGAIN: somewhere on this host something was renamed or mounted, and of a ".." it cannot be sure then.
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EAGAIN):
                raise
    descriptor, missing = _walk(root, path)
    if missing:
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return descriptor


def create(root: int, path: str, directory: bool, only_on: Collection[int] | None = None) -> int:
    """`locate`, after making what is missing: directories, and a file at the end unless ``directory``.

    FileNotFoundError instead, where it would be made on a device that is not in ``only_on``.
    """
    descriptor, missing = _walk(root, path)
    if missing and only_on is not None and os.fstat(descriptor).st_dev not in only_on:
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    for number, name in enumerate(missing):
        last = number == len(missing) - 1
        try:
            if last and not directory:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=descriptor))
            else:
                os.mkdir(name, 0o755, dir_fd=descriptor)
            below = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def missing(root: int, path: str) -> tuple[str, list[str]]:
    """Of container path ``path``: the canonical container path of what exists, and the names that do not."""
    descriptor, names = _walk(root, path)
    try:
        top = os.readlink(f"/proc/self/fd/{root}")
        found = os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return found[len(top) :] if top != "/" else found, names


def _walk(root: int, path: str) -> tuple[int, list[str]]:
    """The deepest existing ancestor of ``path`` as a descriptor, and the names below it that are missing."""
    trail = [os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=root)]
    names = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    try:
        while names:
            name = names.pop()
            if name == "..":
                if len(trail) > 1:
                    os.close(trail.pop())
                continue
            try:
                below = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=trail[-1])
            except FileNotFoundError:
                rest = [name, *reversed(names)]
                if ".." in rest:
                    raise
                return os.dup(trail[-1]), rest
            trail.append(below)
            if stat.S_ISLNK(os.fstat(below).st_mode):
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink("", dir_fd=trail.pop())
                os.close(below)
                if target.startswith("/"):
                    while len(trail) > 1:
                        os.close(trail.pop())
                names += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        return os.dup(trail[-1]), []
    finally:
        for descriptor in trail:
            os.close(descriptor)
