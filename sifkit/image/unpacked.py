"""The images that `sifkit.image.unpack` has left in the cache: listed, and removed when nobody runs from them."""

from __future__ import annotations

import os
from typing import NamedTuple

from overlay import deep
from sifkit.image import unpack


class Kept(NamedTuple):
    """``path``: of its place in the cache. ``space`` in bytes, as `du` counts. ``made``: seconds since the epoch."""

    path: str
    space: int
    made: float
    in_use: bool


def kept() -> list[Kept]:
    """Every unpacked image, the newest first."""
    top = unpack.cache()
    try:
        names = os.listdir(top)
    except FileNotFoundError:
        return []
    busy = _mounted(names)
    found = [Kept(f"{top}/{name}", _space(f"{top}/{name}"), _made(f"{top}/{name}"), name in busy) for name in names]
    return sorted(found, key=lambda one: -one.made)


def remove(one: Kept) -> None:
    """Remove it. Raises OSError."""
    deep.remove(one.path)


def _made(path: str) -> float:
    return os.stat(path).st_mtime


def _space(path: str) -> int:
    total = 0
    for here, directories, files in os.walk(path):
        for name in (*directories, *files):
            total += os.lstat(os.path.join(here, name)).st_blocks * 512
    return total


def _mounted(names: list[str]) -> set[str]:
    """Those that are part of a mount in some process of this host that we may look at."""
    busy: set[str] = set()
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except OSError:  # it has ended, or is not ours
            continue
        busy.update(name for name in names if name in text)
    return busy
