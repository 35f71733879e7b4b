"""Keeping a directory overlay readable by every driver.

fuse-overlayfs and the kernel mark replaced directories each in its own way, and show the other's marks as
files or deleted names again. So the overlay records which driver wrote it last, and when that was
fuse-overlayfs, or nobody we know, its upper is brought into the one spelling that all of them read.
"""

from __future__ import annotations

import contextlib
import os

from overlay.failure import from_oserror
from overlay.stack.layer import Overlay

RECORD = ".sifkit.driver"


def prepare(overlay: Overlay) -> None:
    """Make what is missing of ``upper/`` and ``work/`` (0755)."""
    for part in (overlay.upper, overlay.work):
        try:
            os.mkdir(part, 0o755)
        except FileExistsError:
            continue
        except OSError as error:
            raise from_oserror(f"cannot prepare the overlay {overlay.path}", error) from None


def make_ready(overlay: Overlay, driver: str) -> int:
    """Bring ``overlay``'s upper into the common spelling if need be and note that ``driver`` writes now.

    Returns the number of marks rewritten. The note is made before the driver writes: a killed run is
    found, and mended, by the next one.
    """
    record = f"{overlay.path}/{RECORD}"
    last = _read(record)
    changed = 0
    if last != driver or last != "kernel":
        changed = _normalise(overlay.upper, last) if os.listdir(overlay.upper) else 0
    if last != driver:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(record)  # root may have made it
        with open(record, "w", encoding="utf-8") as file:
            file.write(f"{driver}\n")
    return changed


def _read(record: str) -> str:
    try:
        with open(record, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def _normalise(upper: str, last: str) -> int:
    from overlay import whiteout  # not for the usual start, which finds nothing to do

    return whiteout.normalise_directory(upper, whiteout.marks_by(last))


def marks(path: str) -> tuple[str, ...]:
    """The attributes that say "opaque" in the directory overlay ``path``, by who wrote it last."""
    from overlay import whiteout

    return whiteout.marks_by(_read(f"{path}/{RECORD}"))
