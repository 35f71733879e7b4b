"""An image's squashfs unpacked once into the cache, for hosts without FUSE and for those who prefer files.

A tree is made under a name of its own and renamed when it is complete; one process unpacks, others wait for
it. What identifies a tree is the image as it is now: a changed one is unpacked anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import Protocol

from overlay import tools
from overlay.failure import Failure, from_oserror
from overlay.remove import remove
from overlay.stack.layer import Directory, SquashImage


class Progress(Protocol):
    """How progress is shown: a context in which a named task runs."""

    def __call__(self, text: str) -> contextlib.AbstractContextManager[object]: ...


def unpacked(layer: SquashImage, progress: Progress) -> Directory:
    """The directory that holds the content of ``layer``, unpacked now unless it was before.

    `Failure` when unsquashfs is missing or fails, or when there is no room.
    """
    brief = f"cannot unpack {layer.section.describe()}"
    try:
        place = _place(layer)
        tree = f"{place}/root"
        if os.path.isdir(tree):
            return Directory(tree)
        with _alone(place):
            if not os.path.isdir(tree):  # while we waited for our turn
                with progress(f"Unpacking {layer.section.path}"):
                    _unpack(layer, place, tree, brief)
    except OSError as error:
        raise from_oserror(brief, error) from None
    return Directory(tree)


def _place(layer: SquashImage) -> str:
    section = layer.section
    found = os.stat(section.path)
    identity: tuple[object, ...] = (found.st_dev, found.st_ino, section.offset, section.size)
    if section.offset:
        # In a SIF the header, with UUID and times of its edits: what is written into an overlay changes nothing here.
        with open(section.path, "rb") as file:
            identity += (file.read(128),)
    else:
        identity += (found.st_mtime_ns,)
    name = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    place = os.path.join(cache(), name)
    os.makedirs(place, mode=0o700, exist_ok=True)
    return place


def cache() -> str:
    """Where unpacked images are kept."""
    top = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(top, "sifkit", "unpacked")


@contextlib.contextmanager
def _alone(place: str) -> Iterator[None]:
    lock = os.open(f"{place}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in os.listdir(place):
            if name.startswith("new-"):  # of one that was killed
                remove(f"{place}/{name}")
        yield
    finally:
        os.close(lock)


def _unpack(layer: SquashImage, place: str, tree: str, brief: str) -> None:
    section = layer.section
    fresh = tempfile.mkdtemp(prefix="new-", dir=place)
    try:
        offset = ("-offset", str(section.offset)) if section.offset else ()
        options = ("-no-progress", "-quiet", "-force", "-dest", f"{fresh}/root", *offset)
        done = tools.run("unsquashfs", *options, section.path, why="to unpack the image")
        # As an ordinary user it ends with 2 for what only root can make (devices, owners): the rest is there.
        if done.status not in (0, 2) or not os.path.isdir(f"{fresh}/root"):
            lines = (done.err or done.out).strip().splitlines()
            raise Failure(brief, lines[0] if lines else f"unsquashfs ended with status {done.status}")
        os.rename(f"{fresh}/root", tree)
    finally:
        remove(fresh)
