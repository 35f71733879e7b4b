"""What an ext overlay's content asks of a driver, remembered so that opening it again need not read all of it.

The answer is kept in an attribute of the image's file, together with a checksum of the superblock: any write to the
image changes that, and then it counts for nothing.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final, NamedTuple

from overlay import session
from overlay.extread import ExtReader
from overlay.section import Section

_ATTRIBUTE: Final = "user.sifkit.content."
_MOST_OWNERS: Final = 8


class Content(NamedTuple):
    """``empty``: upper/ holds nothing. ``inodes``: in use in the whole image. ``owners``: their (uid, gid).

    ``plain``: no deletion is spelt as the kernel does not read it. ``devices``: character devices, as whiteouts are.
    """

    empty: bool
    inodes: int
    owners: frozenset[tuple[int, int]]
    plain: bool
    devices: bool


def look(section: Section, *, remember: bool) -> Content:
    """The content of the image in ``section``; ``remember`` it if it had to be read. Raises OSError, ExtError."""
    with ExtReader(section) as reader:
        upper = reader.lookup(b"/upper")
        sb = reader.superblock
        if upper is None or not any(True for _ in reader.listdir(upper)):
            return Content(True, 0, frozenset(), True, False)
        count = max(0, sb.inodes - sb.free_inodes - sb.first_inode)
    there = session.identity(section)
    known = _recall(section.path, there, count)
    if known is not None:
        return known
    from overlay import extread_table, whiteout

    found = extread_table.survey(section)
    with ExtReader(section) as reader:
        spelt = whiteout.scan_image(reader)
    plain = not spelt.markers and all(whiteout.KERNEL_MARK in marks for marks in spelt.opaque.values())
    seen = Content(False, count, found.owners, plain, found.devices)
    if remember:
        _remember(section.path, there, seen)
    return seen


def committed(section: Section, before: Content) -> None:
    """Remember what the image holds after a commit of ours, which spells as the kernel does."""
    from overlay import extread_table

    if before.plain:
        found = extread_table.survey(section)
        seen = before._replace(empty=False, inodes=found.number, owners=found.owners, devices=found.devices)
        _remember(section.path, session.identity(section), seen)


def _remember(path: str, there: session.Identity, seen: Content) -> None:
    if len(seen.owners) > _MOST_OWNERS:
        return
    owners = ",".join(f"{uid}:{gid}" for uid, gid in sorted(seen.owners))
    text = f"{there.superblock} {seen.plain:d} {seen.devices:d} {owners}"
    with contextlib.suppress(OSError):  # a convenience
        os.setxattr(path, _ATTRIBUTE + there.uuid, text.encode())


def _recall(path: str, there: session.Identity, count: int) -> Content | None:
    try:
        checksum, plain, devices, owners = os.getxattr(path, _ATTRIBUTE + there.uuid).decode().split(" ")
        pairs = (owner.split(":") for owner in owners.split(",")) if owners else ()
        known = frozenset((int(uid), int(gid)) for uid, gid in pairs)
    except (OSError, ValueError):
        return None
    if checksum != there.superblock:
        return None
    return Content(False, count, known, plain == "1", devices == "1")
