"""From a session's record to its image as it is now: renamed, resized, moved inside its SIF file, signed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from overlay import probe
from overlay.extread.reader import ExtError
from overlay.failure import Failure, from_oserror
from overlay.section import Section
from overlay.session import state as session

if TYPE_CHECKING:
    from overlay.session.state import Record


def section_of(record: Record, given: str = "") -> Section:
    """Where the ext3 overlay of a session lies: in the file ``given``, or where the session was made.

    `Failure` when that is no longer the overlay that the session belongs to.
    """
    path = os.path.abspath(given or record.image)
    brief = f"cannot find the overlay of session {record.name}"
    try:
        for section in _sections(path):
            if session.identity(section).uuid == record.uuid:
                return section
    except FileNotFoundError:
        raise Failure(brief, f"{path} is not there any more", "name it where it is now: --image FILE") from None
    except (OSError, ExtError) as error:
        raise from_oserror(brief, error) if isinstance(error, OSError) else Failure(brief, str(error)) from None
    raise Failure(brief, f"{path} holds another file system now", "name the right one: --image FILE")


def is_signed(section: Section) -> bool:
    """Whether ``section`` lies inside a SIF image and is signed there: writing into it breaks the signature."""
    if probe.classify(section.path).kind is not probe.Kind.SIF:
        return False
    from sifkit.image import sif

    return any(part.signed for part in sif.overlays(section.path) if part.section.offset == section.offset)


def _sections(path: str) -> list[Section]:
    found = probe.classify(path)
    if found.kind is not probe.Kind.SIF:
        return [found.section]
    from sifkit.image import sif

    return [part.section for part in sif.overlays(path) if part.ext]
