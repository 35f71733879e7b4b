"""Carries the changes of a session, an upper directory of kernel overlayfs, into ``/upper`` of an ext3 image.

`commit` does all of it or, when it fails or is killed, leaves what `rollback` turns into nothing. What the caller
does around it: lock the image, have its journal replayed, record in the session where the undo log lies, and
remove log and session afterwards. See docs/staged-writes.md, "The engine".
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from overlay import record, superblock
from overlay.commit.needs import Needs as Needs
from overlay.commit.needs import free as free
from overlay.commit.needs import needs as needs
from overlay.commit.rollback import discard as discard
from overlay.commit.rollback import logs as logs
from overlay.commit.rollback import rollback as rollback
from overlay.commit.tree import Carrier
from overlay.commit.tree import Report as Report
from overlay.extwrite.writer import Writer
from overlay.section import Section


def has_changes(upper: str) -> bool:
    """Whether there is any name in ``upper``. Attributes of the top directory itself do not count."""
    with os.scandir(upper) as found:
        return next(found, None) is not None


def quick_check(section: Section) -> str:
    """What is wrong with the image at a first glance, or nothing: its superblock is clean and its counts add up."""
    from overlay.extwrite.counts import free_of_groups

    fd = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sb = superblock.read(fd, section.offset)
        if not sb.clean:
            return "its superblock does not say that it is clean"
        blocks, inodes = free_of_groups(fd, section, sb)
    finally:
        os.close(fd)
    if (blocks, inodes) != (sb.free_blocks, sb.free_inodes):
        counted = f"{sb.free_blocks} blocks and {sb.free_inodes} inodes"
        return f"{counted} should be free, its groups have {blocks} and {inodes}"
    return ""


def commit(
    section: Section, upper: str, below: Sequence[str] | None, undo: str, note: Callable[[str], None], base: str = ""
) -> Report:
    """Carry ``upper`` into the image.

    ``below``: the directories of the read-only layers below the image, topmost first, as this process sees them;
    None when they are not known: then every deletion is kept as a whiteout.
    ``base``: the root that the changes were made on, to be recorded (`overlay.record`).
    ``undo``: where the undo log goes, which must not be there; `discard` it when the commit is recorded as done.
    ``note`` is told what a person should know. Raises OSError that names the path it failed at (`NoSpace` when the
    image is full), ExtError, Failure; whatever it raises, call `rollback`.
    """
    with Writer(section, undo) as writer:
        work = Carrier(writer, note)
        work.carry(os.fsencode(upper), None if below is None else [os.fsencode(path) for path in below])
        if base:
            record.keep_in_image(writer, section, base, work.added)
        writer.finish()
        wrong = quick_check(section)
        if wrong:
            raise OSError(errno.EIO, f"the image is damaged after the commit: {wrong}", section.path)
        return work.report()
