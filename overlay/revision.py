"""Which revision of a repository is mounted: CVMFS says so in attributes of the mount point.

Read by name, for they are not listed everywhere. While the revision is the same, so is everything below.
"""

from __future__ import annotations

import os

from overlay.records import NamedTuple


class Revision(NamedTuple):
    """``point``: where the repository ``name`` is mounted. ``root_hash``: what names its whole content, in hex."""

    point: str
    name: str
    root_hash: str
    number: str

    def describe(self) -> str:
        return f"revision {self.number or self.root_hash[:12]} of {self.name}"


def of(path: str) -> Revision | None:
    """The revision of the repository that ``path`` lies in; None when it is in none, or nobody can tell."""
    path = os.path.realpath(path)
    try:
        if os.major(os.stat(path).st_dev) != 0:  # on a disk: no need to look at the mounts
            return None
    except OSError:
        return None
    from overlay import mountinfo

    mount = mountinfo.covering(path)
    if mount is None or not mount.fstype.startswith("fuse"):
        return None
    return at(mount.point)


def at(point: str) -> Revision | None:
    """The revision that the mount point ``point`` tells of."""
    root_hash = _attribute(point, "root_hash")
    if not root_hash:
        return None
    name = _attribute(point, "fqrn") or os.path.basename(point)
    return Revision(point, name, root_hash, _attribute(point, "revision"))


def _attribute(point: str, name: str) -> str:
    try:
        return os.getxattr(point, f"user.{name}").decode("ascii", "replace").strip("\0\n ")
    except OSError:  # no such attribute, or no attributes at all
        return ""
