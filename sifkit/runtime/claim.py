"""Before a run: take the locks of everything it uses, make images sound, make what is missing of an overlay.

Every lock belongs to one `ExitStack` of the monitor; init inherits the open files and with them the locks,
so that they last until both have ended.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress

from overlay.failure import Failure, from_oserror
from overlay.records import TYPE_CHECKING
from overlay.section import Section
from overlay.stack.layer import Directory, ExtImage, ExtOverlay, Lower, Overlay, SquashImage

if TYPE_CHECKING:
    from overlay.session.room import Enlarge
    from sifkit.runtime.notify import Notify
    from sifkit.runtime.plan import Plan


def claim(plan: Plan, wait: float, held: ExitStack, notify: Notify, enlarge: Enlarge | None = None) -> Plan:
    """Lock and prepare what ``plan`` uses, waiting at most ``wait`` seconds for each lock.

    The plan that comes back reads an overlay that nobody asked to write into and others are reading now.
    """
    upper = plan.stack.upper
    if isinstance(upper, ExtOverlay) and not upper.required and _is_being_read(upper.section):
        notify.warning(f"{upper.describe()} is being read by others: read-only this time")
        plan = _reading(plan, upper)
    lowers: list[Lower] = []
    for layer in (*plan.stack.lowers, plan.stack.base):
        if isinstance(layer, ExtImage):
            lowers += _read_image(layer.section, wait, held, notify)
        elif isinstance(layer, SquashImage) and layer.section.offset:
            _hold_partition(layer.section, wait, held)
        lowers.append(layer)
    plan = plan._replace(stack=plan.stack._replace(lowers=tuple(lowers[:-1])))
    for image in plan.images:
        _claim_shown(image.layer, wait, held, notify)
    if isinstance(plan.stack.upper, Overlay):
        from overlay import record
        from overlay.stack.upper import prepare

        _lock(plan.stack.upper.path, True, wait, held, notify)
        prepare(plan.stack.upper)
        record.keep(plan.stack.upper.path, plan.image)
    elif isinstance(plan.stack.upper, ExtOverlay):
        _lock(plan.stack.upper.section, True, wait, held, notify)
        section = _prepare_image(plan, plan.stack.upper.section, enlarge, notify)
        plan = plan._replace(stack=plan.stack._replace(upper=plan.stack.upper._replace(section=section)))
    return _limited(plan, held) if plan.limits else plan


def _limited(plan: Plan, held: ExitStack) -> Plan:
    from sifkit.runtime import cgroup

    assert plan.limits is not None
    group = cgroup.make(plan.limits)
    held.callback(cgroup.remove, group)
    return plan._replace(cgroup=group)


def _claim_shown(layer: SquashImage | ExtImage | ExtOverlay, wait: float, held: ExitStack, notify: Notify) -> None:
    """An image that is shown at a directory; an ext one that takes writes has no upper/ to be made."""
    if isinstance(layer, SquashImage):
        if layer.section.offset:
            _hold_partition(layer.section, wait, held)
    elif isinstance(layer, ExtImage):
        _read_image(layer.section, wait, held, notify)
    else:
        _lock(layer.section, True, wait, held, notify)
        _make_sound(layer.section, notify)


def _is_being_read(section: Section) -> bool:
    from overlay.locks import lock

    return lock.in_use(section) == "read"


def _reading(plan: Plan, upper: ExtOverlay) -> Plan:
    from overlay.stack import image

    layer = ExtImage(upper.section, image.top_directory(upper.section))
    return plan._replace(stack=plan.stack._replace(lowers=(layer, *plan.stack.lowers), upper=None))


def _hold_partition(section: Section, wait: float, held: ExitStack) -> None:
    """Keep editors of the SIF from moving or deleting the partition under us; where locks work, that is."""
    from overlay.locks import lock

    try:
        held.enter_context(lock.acquire(section, exclusive=False, wait=wait))
    except lock.InUse as error:
        hint = "an editor is changing the image: run it again when that is done"
        raise Failure(f"cannot read {section.describe()}", str(error), hint) from None
    except (lock.CannotLock, OSError):  # nobody can edit it under us there either
        return


def settle(plan: Plan, notify: Notify) -> None:
    """After a run: say so if the image it wrote into is full; leave nothing of root's that keeps its owner out."""
    upper = plan.stack.upper
    if plan.privileged and isinstance(upper, ExtOverlay | Overlay):
        _clear_work(upper)
    if isinstance(upper, ExtOverlay):
        from overlay.stack import image

        with suppress(FileNotFoundError):  # removed meanwhile: nobody wants to know how full it is
            if full := image.ran_out(upper.section):
                notify.warning(full)


def _clear_work(upper: ExtOverlay | Overlay) -> None:
    from overlay.stack import workdir

    with suppress(OSError):  # the run is over, and the next one can do it
        if isinstance(upper, Overlay):
            workdir.clear_directory(upper.work)
        else:
            workdir.clear_image(upper.section)


def _lock(target: Section | str, exclusive: bool, wait: float, held: ExitStack, notify: Notify) -> None:
    from overlay.locks import lock  # only for what can be locked

    path = target if isinstance(target, str) else target.describe()
    try:
        held.enter_context(lock.acquire(target, exclusive=exclusive, wait=wait))
    except lock.InUse as error:
        what = "write into" if exclusive else "read"
        hint = "--wait-lock SECONDS waits for it; many readers (:ro) can share it"
        raise Failure(f"cannot {what} {path}", str(error), hint) from None
    except lock.CannotLock as error:
        notify.warning(f"{path} cannot be locked ({error}): nothing keeps a second writer out")
    except OSError as error:
        raise from_oserror(f"cannot lock the overlay {path}", error) from None


def _read_image(section: Section, wait: float, held: ExitStack, notify: Notify) -> list[Directory]:
    """Lock an image to read it, sound; layers with changes of killed runs that are not in it yet."""
    from overlay.locks import lock
    from overlay.stack import image
    from sifkit.runtime import replay

    if (cut := replay.cut_off(section)) and not lock.in_use(section):
        if not os.access(section.path, os.W_OK):
            cause = f"a commit of {cut[0].whose} was cut off, and only who may write in the file can take it back"
            raise Failure(f"cannot read {section.describe()}", cause, f"sifkit session recover {cut[0].name}")
        with ExitStack() as short:
            _lock(section, True, wait, short, notify)
            replay.roll_back(section, notify)
    # One that is being written looks as if its writer had been killed; the lock below tells them apart.
    if not lock.in_use(section) and not image.left_properly(section):
        if os.access(section.path, os.W_OK):
            with ExitStack() as short:
                _lock(section, True, wait, short, notify)
                _make_sound(section, notify)
        else:
            notify.warning(f"{section.describe()}: its last writer was killed; what it wrote last may be missing")
    _lock(section, False, wait, held, notify)
    return replay.stacked(section, notify)


def _prepare_image(plan: Plan, section: Section, enlarge: Enlarge | None, notify: Notify) -> Section:
    from overlay.stack import content, image
    from sifkit.runtime import replay

    replay.roll_back(section, notify)
    _make_sound(section, notify)
    section = replay.replay(section, plan.staging, enlarge, notify)
    try:
        seen = content.known(section)
        if seen is not None and seen.owner == plan.who.uid:  # as left by an earlier run
            return section
        made = image.make_directories(section, plan.who.uid, plan.who.gid)
    except OSError as error:
        raise from_oserror(f"cannot prepare the overlay {section.describe()}", error) from None
    for text in made:
        notify.info(f"{section.describe()}: {text}")
    return section


def _make_sound(section: Section, notify: Notify) -> None:
    from overlay.stack import image

    if mended := image.make_sound(section):
        notify.warning(f"{section.describe()}: {mended}")
