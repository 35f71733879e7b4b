"""The log by which an edit of an ext3 image can be taken back.

It lies beside the image under a name that follows from the image's, so whoever uses the image next with sifkit finds
it. Its first file stands for all of them: as long as it is there the edit is not complete.
"""

from __future__ import annotations

import os

from overlay.e2fsprogs import FD_PREFIX
from overlay.section import Section

_LONGEST_BASE = 200


def place(section: Section) -> str:
    """Where the undo log of an edit of this image lies; "" for a file without a name."""
    if section.path.startswith(FD_PREFIX):
        return ""
    directory, base = os.path.split(os.path.realpath(section.path))
    offset = f"@{section.offset}" if section.offset else ""
    return f"{directory}/.{base[:_LONGEST_BASE]}{offset}.sifkit-edit"


def cut_off(section: Section) -> bool:
    """Whether an edit of this image was cut off, so that it may be neither the old nor the new one."""
    undo = place(section)
    return bool(undo) and (os.path.lexists(undo) or os.path.lexists(f"{undo}.part"))


def take_back(section: Section) -> None:
    """Take a cut-off edit back. The caller holds the lock exclusively. Raises OSError, ToolError, `Failure`."""
    from overlay.commit.rollback import rollback

    undo = place(section)
    rollback(section, undo)
    clear(undo)


def clear(undo: str) -> None:
    """Remove what is left of a log whose first file is gone: the next one must not be continued by it."""
    directory, base = os.path.split(undo)
    for name in os.listdir(directory):
        if name.startswith(f"{base}."):
            os.unlink(f"{directory}/{name}")
