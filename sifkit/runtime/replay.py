"""Before a run uses an ext3 image: what earlier, killed runs left beside it is put into it, or at least named."""

from __future__ import annotations

from overlay.e2fsprogs import ToolError
from overlay.failure import Failure, from_oserror
from overlay.records import TYPE_CHECKING
from overlay.session import pending as session_pending
from overlay.stack.layer import Directory
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from overlay.section import Section
    from overlay.session.pending import Pending
    from overlay.session.room import Enlarge
    from sifkit.runtime.notify import Notify
    from sifkit.runtime.request import Staging


def cut_off(section: Section) -> list[Pending]:
    """The sessions of the image a commit of which was cut off, so that it cannot be used as it is."""
    try:
        return [one for one in session_pending.find(section) if session_pending.cut_off(one)]
    except (OSError, ExtError):  # damaged, which is somebody else's to say
        return []


def roll_back(section: Section, notify: Notify) -> None:
    """Take back commits that were cut off. The caller holds the lock exclusively."""
    for one in cut_off(section):
        try:
            notify.warning(f"{section.describe()}: {session_pending.roll_back(section, one)}")
        except OSError as error:
            raise from_oserror(f"cannot take back what a killed commit left in {section.describe()}", error) from None
        except ToolError as error:
            brief = f"cannot take back what a killed commit left in {section.describe()}"
            hint = f"keep {one.undo}*; sifkit session recover {one.name} tries again"
            raise Failure(brief, str(error), hint) from None


def replay(section: Section, staging: Staging, enlarge: Enlarge | None, notify: Notify) -> Section:
    """Put into the image what earlier runs left in sessions; where it is then, for it may have grown.

    The caller holds the lock exclusively. What cannot be put in is named in a warning, and stays where it is.
    """
    try:
        found = session_pending.find(section)
    except (OSError, ExtError):
        return section
    for one in found:
        if one.state in ("done", "lost"):
            if one.state == "lost":
                notify.warning(f"{section.describe()}: {one.describe()}")
            from sifkit.runtime import session_work

            session_pending.forget(section, one, session_work.remove)
        elif one.state != "waiting" or one.session is None:
            notify.warning(f"{section.describe()}: {one.describe()}")
        elif one.session.record.holder.alive:  # where locks do not work
            notify.warning(f"{section.describe()}: {one.describe()}; that run goes on, and this one does not see them")
        else:
            section = _commit(one, section, staging, enlarge, notify)
    return section


def _commit(one: Pending, section: Section, staging: Staging, enlarge: Enlarge | None, notify: Notify) -> Section:
    from overlay.session import room as session_room
    from sifkit.runtime import session_work

    assert one.session is not None
    space = session_work.room(staging, enlarge or session_room.enlarge_file)
    brief = f"{section.describe()}: changes of {one.whose} are not in it yet"
    try:
        after = session_work.in_namespace(one.session, section, space, notify, brief)
    except Failure as failure:
        notify.warning(str(failure))
        return section
    notify.warning(f"{section.describe()}: changes of {one.whose}, left when it ended, have been put into it")
    return after


def stacked(section: Section, notify: Notify) -> list[Directory]:
    """For a run that only reads the image: what is not in it yet, topmost first, as layers to lie above it."""
    try:
        found = session_pending.find(section)
    except (OSError, ExtError):
        return []
    layers: list[Directory] = []
    for one in found:
        if one.state == "waiting" and one.session is not None:
            layers.insert(0, Directory(one.session.upper))
            notify.info(f"{section.describe()}: {one.describe()}; they are shown")
        elif one.state != "done":
            notify.warning(f"{section.describe()}: {one.describe()}")
    return layers
