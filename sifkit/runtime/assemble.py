"""From a plan to a mounted root, inside the scratch tmpfs: what init does before the payload starts."""

from __future__ import annotations

import errno
import os

from overlay import features, linux, tools
from overlay.failure import Failure, from_oserror
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.stack import driver, mount
from overlay.stack.attached import Attached, Owner
from overlay.stack.layer import Directory, ExtImage, ExtOverlay, Lower, Overlay
from sifkit.runtime import bindmount, on_base, points, writable
from sifkit.runtime.assembled import Assembled
from sifkit.runtime.plan import Plan
from sifkit.runtime.scratch import SCRATCH

if TYPE_CHECKING:
    from overlay.stack import fuse
    from sifkit.runtime.notify import Notify
    from sifkit.runtime.staged_look import Look


class Survey(NamedTuple):
    """What a plan meets on this host: `driver.choose` decides by it."""

    features: features.Features
    situation: driver.Situation
    staging: Look | None = None


def survey(plan: Plan, lacking: driver.Points) -> Survey:
    """Probe the kernel, and look at the upper directory."""
    found = features.probe(f"{SCRATCH}/probe", plan.privileged, data_layers=on_base.wanted(plan))
    upper = plan.stack.upper
    staging: Look | None = None
    fstype, xattr = "", True
    if isinstance(upper, Overlay):
        place = upper.upper if os.path.isdir(upper.upper) else upper.path
        fstype = driver.file_system(place)
        xattr = not os.access(place, os.W_OK) or features.takes_xattr(place)
    elif isinstance(upper, ExtOverlay) and not upper.fuse and not (found.loop and found.overlay):
        from sifkit.runtime import staged_look

        staging = staged_look.look(plan, upper, found.fuse)
        fstype = staging.place.fstype
    situation = driver.Situation(
        privileged=plan.privileged,
        foreign_base=plan.foreign_base,
        points=lacking,
        upper_fstype=fstype,
        upper_xattr=xattr,
        fuse_overlayfs=tools.find("fuse-overlayfs") is not None and not features.without("fuse-overlayfs"),
        foreign=plan.on_base.foreign,
        session_root=staging.place.root if staging else "",
        not_staged=staging.refusal if staging else "",
        lower=staging.lower if staging else "",
        forced=os.environ.get(driver.FORCE, ""),
    )
    return Survey(found, situation, staging)


def assemble(plan: Plan, notify: Notify) -> Assembled:
    """Mount the root of ``plan``. `scratch.enter` comes first. `Failure` when it cannot be done."""
    seen = survey(plan, "none")
    if not isinstance(plan.stack.upper, ExtOverlay):
        return _build(plan, seen, None, notify)
    chosen = on_base.choose(plan, seen.features, seen.situation, notify)  # what is attached depends on it
    if chosen.decision.driver != "staged" or seen.staging is None:
        return _build(plan, seen, chosen, notify)
    from sifkit.runtime import staged

    opened = staged.open_session(plan, plan.stack.upper, seen.staging, notify)
    try:
        return _build(plan._replace(stack=opened.stack), seen, chosen, notify)._replace(staged=opened)
    except BaseException:
        staged.drop(opened)
        raise


def _build(plan: Plan, seen: Survey, chosen: on_base.Chosen | None, notify: Notify) -> Assembled:
    """Attach the layers and mount the root; the driver is chosen when that is not done yet."""
    # Who has many ids sees the owners in an image; everybody else is made owner of all of it.
    many = plan.privileged or (plan.ids is not None and plan.ids.ranges)
    owner = None if many else Owner(plan.who.uid, plan.who.gid)
    layers = (plan.stack.base, *plan.stack.lowers)
    attached = _attach(layers, seen.features, owner)
    for layer, entry in zip(layers, attached, strict=True):
        notify.debug(f"layer: {layer.describe()} at {entry.path} ({entry.how})")
    if attached[0].server is not None:
        from sifkit.runtime import ahead

        ahead.read(attached[0].path)
    shown = _attach_shown(plan, seen.features, owner)
    base = attached[0].path
    lacking = "none" if plan.stack.in_place else points.kind(points.make(plan, base))
    if chosen is None:
        chosen = on_base.choose(plan, seen.features, seen.situation._replace(points=lacking), notify)
    _say(chosen, notify)
    servers = (*(entry.server for entry in attached if entry.server), *shown)
    return _mount(plan, attached, lacking != "none", chosen, seen, servers, notify)


def _say(chosen: on_base.Chosen, notify: Notify) -> None:
    decision, layer = chosen
    notify.debug(f"driver: {decision.driver}: {decision.reason}")
    if decision.warning:
        notify.warning(decision.warning)
    if layer is not None:
        from overlay.metalayer.layers import unreadable

        notify.debug(f"layer on the base: {layer.record.entries} entries at {layer.tree}")
        if text := unreadable(layer):
            notify.warning(text)


def _attach(layers: tuple[Lower, ...], found: features.Features, owner: Owner | None) -> list[Attached]:
    if all(isinstance(layer, Directory) for layer in layers):
        return [Attached(layer.path, "as it is") for layer in layers if isinstance(layer, Directory)]
    from overlay.stack.attach import attach_all  # images need FUSE or loop devices, directories nothing

    return attach_all(layers, f"{SCRATCH}/images", found, owner)


def _attach_shown(plan: Plan, found: features.Features, owner: Owner | None) -> tuple[fuse.Server, ...]:
    if not plan.images:
        return ()
    from sifkit.runtime import data_image

    return data_image.attach(plan.images, found, owner)


def _mount(
    plan: Plan,
    attached: list[Attached],
    extra_points: bool,
    chosen: on_base.Chosen,
    seen: Survey,
    servers: tuple[fuse.Server, ...],
    notify: Notify,
) -> Assembled:
    decision = chosen.decision
    root, files = f"{SCRATCH}/root", f"{SCRATCH}/files"
    if decision.driver == "bind":
        _bind(plan, attached[0].path, root)
        return Assembled(root, files, servers, decision)
    layers = (plan.stack.base, *plan.stack.lowers)
    groups = _lowers(layers, attached, decision)
    plain = [path for group in groups for path in group]
    extra_points = extra_points or (plan.stack.upper is None and len(plain) == 1 and chosen.layer is None)
    lowers, data = on_base.arrange(plain, chosen, extra_points)
    opened = writable.ready(plan, seen.features, decision.driver, lowers)
    servers += (opened.server,) if opened.server else ()
    parts = mount.Parts(tuple(lowers), opened.upper, opened.work, data)
    if decision.by_kernel:
        try:
            mount.kernel(parts, root, decision.by_text, f"{SCRATCH}/links")
        except mount.Refused as error:
            decision = _instead(decision, error, seen, notify)
            lowers, _ = on_base.arrange(plain, on_base.Chosen(decision), extra_points)
            parts = mount.Parts(tuple(lowers), opened.upper, opened.work)
        else:
            writable.open_work(opened.work)
            return Assembled(root, files, servers, decision, opened.disk, tuple(lowers), len(groups[0]))
    squash = (plan.who.uid, plan.who.gid) if decision.squash else None
    # Without write-back a full image refuses the write itself, not a later one or none (fuse-overlayfs's cache).
    at_once = isinstance(plan.stack.upper, ExtOverlay)
    server = mount.fuse_overlay(parts, root, f"{SCRATCH}/links", squash, at_once)
    mount.wait(server)
    return Assembled(root, files, (*servers, server), decision, opened.disk, tuple(lowers), len(groups[0]))


def _bind(plan: Plan, base: str, root: str) -> None:
    attributes = linux.MOUNT_ATTR_NODEV | (0 if plan.ids else linux.MOUNT_ATTR_NOSUID)
    attributes |= 0 if plan.stack.in_place else linux.MOUNT_ATTR_RDONLY
    try:
        try:
            bindmount.bind(base, root, attributes, recursive=False)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Mounts of the host in the base: the kernel does not let an ordinary user see what they cover.
            bindmount.bind(base, root, attributes, recursive=True)
    except OSError as error:
        raise from_oserror(f"cannot mount {base} as root", error) from None


def _instead(decision: driver.Decision, error: OSError, seen: Survey, notify: Notify) -> driver.Decision:
    """fuse-overlayfs, where the kernel refused after all what the probe let expect."""
    said = "one of the layers lies inside another" if error.errno == errno.ELOOP else error.strerror
    reason = f"kernel overlayfs refused: {said}"
    if not (seen.features.fuse and seen.situation.fuse_overlayfs) or seen.situation.forced == "kernel":
        hint = "sifkit doctor shows what this host can do; --debug shows every step"
        if error.errno == errno.ESTALE:
            hint = "the overlay was used with another base; use a new one, or the base it was made with"
        raise Failure("cannot mount the overlay", reason, hint)
    notify.warning(f"{reason}; using fuse-overlayfs, which is slower")
    return decision._replace(driver="fuse-overlayfs", reason=reason, layer="", squash=bool(decision.layer))


def _lowers(layers: tuple[Lower, ...], attached: list[Attached], decision: driver.Decision) -> list[tuple[str, ...]]:
    """The directories of each read-only layer, topmost first, the base last."""
    groups: list[tuple[str, ...]] = []
    for number, (layer, entry) in enumerate(zip(layers, attached, strict=True)):
        here = [entry.path]
        if decision.by_kernel and isinstance(layer, ExtImage):
            from overlay.stack.attach import kernel_layers

            here = kernel_layers(layer, entry, f"{SCRATCH}/images/{number}")
        groups += [tuple(here)] if number else []
    return [*groups, (attached[0].path,)]
