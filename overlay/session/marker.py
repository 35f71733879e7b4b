"""What an image says of its sessions: which there are, and where; so that the next run finds what a killed one left.

An attribute of the image's file for each session, ``user.sifkit.session.NAME``; where there are no attributes a
file beside it. It names the file by inode and the file system by UUID: a marker that was copied with the image
speaks of the original and is told from it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from overlay import flatjson
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.session import state as session
from overlay.session.state import Identity, Record

if TYPE_CHECKING:
    from typing import Final

_ATTRIBUTE: Final = "user.sifkit.session."
_LARGEST: Final = 65536


class Marker(NamedTuple):
    """``path``: the session's directory. ``undo``: of a commit that has begun, "" before. The rest as in `Record`."""

    name: str
    path: str
    image: str
    inode: int
    uuid: str
    undo: str
    uid: int
    whose: str
    host: str
    boot_id: str

    def speaks_of(self, image: str, found: Identity) -> bool:
        """Whether the image file ``image``, which is ``found``, is the one that the session belongs to.

        Renamed it is. So is one that was moved to another file system; but not a copy, whose original is there.
        """
        if self.uuid != found.uuid:
            return False
        if self.inode == found.inode or os.path.realpath(self.image) == os.path.realpath(image):
            return True
        try:
            return os.stat(self.image).st_ino != self.inode
        except OSError:
            return True


def put(image: str, record: Record, path: str) -> None:
    """Mark ``image`` with the session in ``path``, on disk when this returns if a commit has begun. Raises OSError."""
    marker = Marker(
        record.name, path, record.image, record.inode, record.uuid, record.undo, record.uid, record.whose, record.host,
        record.boot_id,
    )  # fmt: skip
    data = flatjson.encode(marker._asdict())
    try:
        os.setxattr(image, _ATTRIBUTE + record.name, data)
    except OSError:  # no attributes there, or no room for more of them
        _write(_beside(image, record.name), data)
    if record.undo:
        fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _write(path: str, data: bytes) -> None:
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, data + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)


def _beside(image: str, name: str) -> str:
    directory, base = os.path.split(os.path.abspath(image))
    return f"{directory}/.{base}.{session.PREFIX}{name}"


def take_off(image: str, name: str) -> None:
    """Remove the marker of the session ``name``, if it is there."""
    with contextlib.suppress(OSError):
        os.removexattr(image, _ATTRIBUTE + name)
    with contextlib.suppress(OSError):
        os.unlink(_beside(image, name))


def markers(image: str) -> list[Marker]:
    """Every marker of the file ``image`` that can be understood, also those that came with a copy."""
    return [marker for data in _texts(image) if (marker := _decode(data)) is not None]


def _texts(image: str) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        for attribute in os.listxattr(image):
            if attribute.startswith(_ATTRIBUTE):
                yield os.getxattr(image, attribute)
    directory, base = os.path.split(os.path.abspath(image))
    prefix = f".{base}.{session.PREFIX}"
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        if name.startswith(prefix) and not name.endswith(".new"):
            with contextlib.suppress(OSError):
                fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    yield os.read(fd, _LARGEST)
                finally:
                    os.close(fd)


def _decode(data: bytes) -> Marker | None:
    try:
        fields = flatjson.decode(data)
        marker = Marker(**{name: fields[name] for name in Marker._fields})
    except (ValueError, TypeError, KeyError):
        return None
    numbers = (marker.inode, marker.uid)
    texts = [value for value in marker if value not in numbers]
    right = all(isinstance(n, int) for n in numbers) and all(isinstance(text, str) for text in texts)
    return marker if right and os.path.isabs(marker.path) and os.path.isabs(marker.image) else None
