"""Takes back what a commit that was killed, or that failed, has changed in an ext3 image.

The logs that are there are complete (see `overlay.extwrite.volume`), so the latest is undone first, and what has no log
was not changed. e2undo compares the superblock with the one in the log before it does anything, and is right to:
so the superblock of the log goes into the image first, for a kill may have come after the new one was written.
"""

from __future__ import annotations

import contextlib
import os
import struct

from overlay import e2fsprogs, superblock
from overlay.extwrite.volume import undo_name
from overlay.failure import Failure
from overlay.records import TYPE_CHECKING
from overlay.section import Section

if TYPE_CHECKING:
    from typing import Final

_MAGIC: Final = b"E2UNDO02"
_HEADER: Final = struct.Struct("<8sQQQI")  # magic, keys, block of the superblock, of the first keys, block size
_GOOD: Final = 0 | e2fsprogs.FSCK_MENDED


def logs(undo: str) -> list[str]:
    """The undo logs that a commit with this ``undo`` has left, in the order they were made."""
    found: list[str] = []
    while os.path.exists(undo_name(undo, len(found))):
        found.append(undo_name(undo, len(found)))
    return found


def discard(undo: str) -> None:
    """Remove the logs of a commit that is done. Raises OSError."""
    for name in reversed(logs(undo)):
        os.unlink(name)
    directory, base = os.path.split(undo)
    for name in os.listdir(directory or "."):
        if name.startswith(base) and name.endswith(".part"):
            os.unlink(os.path.join(directory, name))


def rollback(section: Section, undo: str) -> None:
    """Bring back the tree from before the commit whose logs are at ``undo``, and remove the logs.

    May be called at any time and repeated: without logs there is nothing to do, and nothing is done. The caller
    holds the lock. Raises Failure when a log is damaged and the image is, too; OSError; ToolError of e2fsck.
    """
    found = logs(undo)
    undone = False
    for name in reversed(found):
        if os.path.getsize(name):
            _undo(section, name)
            undone = True
    if undone:
        checked = e2fsprogs.e2fsck(section, "-fp", write=True)
        if checked.status & ~_GOOD:
            raise e2fsprogs.ToolError("e2fsck", section.path, checked.status, checked.said)
        fd = os.open(section.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    with contextlib.suppress(FileNotFoundError):  # the directory of the log is gone: so are the logs
        discard(undo)


def _undo(section: Section, name: str) -> None:
    place = section.offset + superblock.SUPERBLOCK_OFFSET
    old = _superblock_of(name)
    fd = os.open(section.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        present = os.pread(fd, superblock.SUPERBLOCK_SIZE, place)
        if old is not None and old[104:120] == present[104:120]:  # of the same UUID
            os.pwrite(fd, old, place)
        try:
            e2fsprogs.e2undo(name, section)
        except e2fsprogs.ToolError as error:
            os.pwrite(fd, present, place)
            _tolerate(section, error)
    finally:
        os.close(fd)


def _superblock_of(name: str) -> bytes | None:
    """The superblock that an undo log holds, or None: it has none, or is of another kind."""
    with open(name, "rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return None
        magic, _, block, _, size = _HEADER.unpack(head)
        if magic != _MAGIC or block * size > os.fstat(file.fileno()).st_size:
            return None
        file.seek(block * size)
        found = file.read(superblock.SUPERBLOCK_SIZE)
    if len(found) < superblock.SUPERBLOCK_SIZE:
        return None
    # The log inverts the magic number, lest it be taken for an image.
    raw = found[:56] + bytes(byte ^ 0xFF for byte in found[56:58]) + found[58:]
    return raw if superblock.has_magic(raw) else None


def _tolerate(section: Section, error: e2fsprogs.ToolError) -> None:
    """A log that cannot be used matters only if the image is not sound."""
    checked = e2fsprogs.e2fsck(section, "-fn", write=False)
    if checked.status:
        raise Failure(
            f"cannot roll back {section.describe()}",
            f"its undo log is damaged ({error.said}), and so is the image",
            "run `sifkit overlay check --fix` on it; the session still holds what was to be written",
        ) from error
