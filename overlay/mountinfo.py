"""/proc/self/mountinfo as records (proc(5)), and waiting for a change of it."""

from __future__ import annotations

import os

from overlay.records import NamedTuple


class Mount(NamedTuple):
    """One line: where (``point``), what (``fstype``, ``source``) and its per-mount ``options``."""

    point: str
    fstype: str
    source: str
    options: str


def _plain(text: str) -> str:
    if "\\" not in text:
        return text
    import re

    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def parse(text: str) -> list[Mount]:
    """Every mount of ``text``, in the kernel's order (a later one on the same point covers an earlier)."""
    mounts = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        mounts.append(Mount(_plain(fields[4]), kind[0], _plain(kind[1]), fields[5]))
    return mounts


def read() -> list[Mount]:
    """The mounts of this process's namespace."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse(file.read())


def covering(path: str, mounts: list[Mount] | None = None) -> Mount | None:
    """The mount that ``path`` (absolute, symbolic links resolved) lies on; None without a mounted root."""
    best = None
    for mount in read() if mounts is None else mounts:
        inside = mount.point == "/" or path == mount.point or path.startswith(mount.point + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def below(path: str) -> list[Mount]:
    """The mounts on ``path`` or under it, shallowest first."""
    found = [mount for mount in read() if mount.point == path or mount.point.startswith(path.rstrip("/") + "/")]
    return sorted(found, key=lambda mount: mount.point.count("/"))


def fstype(path: str) -> str:
    """The file-system type that ``path`` lies on ("ext4", "fuse.sshfs", ...); "" when it cannot be told."""
    mount = covering(os.path.realpath(path))
    return mount.fstype if mount else ""


def first(kind: str) -> str:
    """Where the first file system of the type ``kind`` is mounted; "" when there is none."""
    return next((mount.point for mount in read() if mount.fstype == kind), "")
