"""Bind mounts with their attributes set before anybody can see them; by the old calls where the new are missing."""

from __future__ import annotations

import errno
import os

from overlay import linux
from overlay.features import without

_FLAGS = (
    (linux.MOUNT_ATTR_RDONLY, linux.MS_RDONLY),
    (linux.MOUNT_ATTR_NOSUID, linux.MS_NOSUID),
    (linux.MOUNT_ATTR_NODEV, linux.MS_NODEV),
)

# Flags of a mount that came from the host are locked in a user namespace: a remount must repeat them.
_LOCKED = (
    ("ro", linux.MS_RDONLY), ("nosuid", linux.MS_NOSUID), ("nodev", linux.MS_NODEV), ("noexec", linux.MS_NOEXEC),
    ("noatime", 1024), ("nodiratime", 2048), ("relatime", 1 << 21),
)  # fmt: skip


def bind(source: str, target: str, attributes: int, recursive: bool) -> None:
    """Mount ``source`` on ``target`` with ``attributes`` (MOUNT_ATTR_*), also on all submounts if ``recursive``."""
    if not without("mount_setattr"):
        try:
            _new(source, target, attributes, recursive)
        except OSError as error:
            if error.errno != errno.ENOSYS:  # before Linux 5.12, or a seccomp filter that does not know the call
                raise
        else:
            return
    _old(source, target, attributes, recursive)


def _new(source: str, target: str, attributes: int, recursive: bool) -> None:
    tree = linux.open_tree(source, recursive)
    try:
        linux.mount_setattr(tree, attributes, recursive)
        point = os.open(target, os.O_PATH | os.O_CLOEXEC)
        try:
            linux.move_mount(tree, point)
        finally:
            os.close(point)
    finally:
        os.close(tree)


def _old(source: str, target: str, attributes: int, recursive: bool) -> None:
    from overlay import mountinfo  # not where the new calls are

    point = os.path.realpath(target)
    linux.mount(source, target, None, linux.MS_BIND | (linux.MS_REC if recursive else 0))
    wanted = sum(flag for attribute, flag in _FLAGS if attributes & attribute)
    for mount in mountinfo.below(point):
        present = mount.options.split(",")
        locked = sum(flag for word, flag in _LOCKED if word in present)
        try:
            linux.mount(None, mount.point, None, linux.MS_BIND | linux.MS_REMOUNT | wanted | locked)
        except OSError as error:
            # A submount that another covers cannot be reached by name, neither by us nor by the payload.
            if mount.point == point or error.errno not in (errno.EINVAL, errno.EACCES, errno.ENOENT):
                raise
