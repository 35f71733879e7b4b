"""From a plan to a mounted root, inside the namespaces of the run: what init does before the payload starts.

Everything lies below one tmpfs, mounted over a directory of our own package, so that no directory of the
host is hidden and none has to be made or removed:

    images/N   image N, mounted        points/   mount points that the base lacks (the lowest layer)
    upper/     tmpfs of --writable-tmpfs    files/   generated files    root/   the new root
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from overlay import driver, features, linux, mount, tools
from overlay.attached import Attached, Owner
from overlay.failure import Failure, from_oserror
from overlay.layer import Directory, ExtImage, ExtOverlay, Lower, Overlay, Tmpfs
from sifkit.runtime import bindmount, inroot, userns
from sifkit.runtime.plan import Plan

if TYPE_CHECKING:
    from overlay import fuse
    from sifkit.runtime.notify import Notify

SESSION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "session")
_SESSION_BYTES = 64 << 20


class Assembled(NamedTuple):
    """``root``: where the new root is mounted. ``files``: place for generated files. ``servers``: to be stopped."""

    root: str
    files: str
    servers: tuple[fuse.Server, ...]
    decision: driver.Decision
    disk_session: str = ""


class Survey(NamedTuple):
    """What a plan meets on this host: `driver.choose` decides by it."""

    features: features.Features
    situation: driver.Situation


def enter(plan: Plan) -> None:
    """Enter the namespaces and mount the empty session."""
    userns.enter(plan.who.uid, plan.who.gid, plan.privileged)
    try:
        linux.mount("sifkit", SESSION, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"mode=0755,size={_SESSION_BYTES}")
        for name in ("images", "points", "files", "root", "links", "probe"):
            os.mkdir(f"{SESSION}/{name}", 0o755)
    except OSError as error:
        raise from_oserror("cannot mount a tmpfs for the session", error) from None


def survey(plan: Plan, extra_points: bool) -> Survey:
    """Probe the kernel, and look at the upper directory."""
    found = features.probe(f"{SESSION}/probe", plan.privileged)
    upper = plan.stack.upper
    fstype, xattr = "", True
    if isinstance(upper, Overlay):
        place = upper.upper if os.path.isdir(upper.upper) else upper.path
        from overlay import mountinfo

        fstype = mountinfo.fstype(place)
        xattr = not os.access(place, os.W_OK) or features.takes_xattr(place)
    situation = driver.Situation(
        privileged=plan.privileged,
        foreign_base=plan.foreign_base,
        extra_points=extra_points,
        upper_fstype=fstype,
        upper_xattr=xattr,
        fuse_overlayfs=tools.find("fuse-overlayfs") is not None and not features.without("fuse-overlayfs"),
        forced=os.environ.get(driver.FORCE, ""),
    )
    return Survey(found, situation)


def assemble(plan: Plan, notify: Notify) -> Assembled:
    """Mount the root of ``plan``. `enter` comes first. `Failure` when it cannot be done."""
    seen = survey(plan, extra_points=False)
    # Real root sees the owners in an image; everybody else is made owner of all of it.
    owner = None if plan.privileged else Owner(plan.who.uid, plan.who.gid)
    layers = (plan.stack.base, *plan.stack.lowers)
    attached = _attach(layers, seen.features, owner)
    for layer, entry in zip(layers, attached, strict=True):
        notify.debug(f"layer: {layer.describe()} at {entry.path} ({entry.how})")
    base = attached[0].path
    points = not plan.stack.in_place and _make_points(plan, base)
    decision = driver.choose(plan.stack, seen.features, seen.situation._replace(extra_points=points))
    notify.debug(f"driver: {decision.driver}: {decision.reason}")
    if decision.warning:
        notify.warning(decision.warning)
    servers = tuple(entry.server for entry in attached if entry.server)
    return _mount(plan, attached, points, decision, seen, servers, notify)


def _attach(layers: tuple[Lower, ...], found: features.Features, owner: Owner | None) -> list[Attached]:
    if all(isinstance(layer, Directory) for layer in layers):
        return [Attached(layer.path, "as it is") for layer in layers if isinstance(layer, Directory)]
    from overlay.attach import attach_all  # images need FUSE or loop devices, directories nothing

    return attach_all(layers, f"{SESSION}/images", found, owner)


def _mount(
    plan: Plan,
    attached: list[Attached],
    points: bool,
    decision: driver.Decision,
    seen: Survey,
    servers: tuple[fuse.Server, ...],
    notify: Notify,
) -> Assembled:
    root, files = f"{SESSION}/root", f"{SESSION}/files"
    if decision.driver == "bind":
        attributes = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
        attributes |= 0 if plan.stack.in_place else linux.MOUNT_ATTR_RDONLY
        _attempt(f"mount {attached[0].path} as root", bindmount.bind, attached[0].path, root, attributes, False)
        return Assembled(root, files, servers, decision)
    layers = (plan.stack.base, *plan.stack.lowers)
    lowers = _lowers(layers, attached, decision)
    if points or (plan.stack.upper is None and len(lowers) == 1):
        lowers.append(f"{SESSION}/points")
    upper, work, disk, writer = _upper(plan, seen.features, decision)
    servers += (writer,) if writer else ()
    parts = mount.Parts(tuple(lowers), upper, work)
    if upper:
        _make_dirs(plan, upper)
    if decision.driver == "kernel":
        try:
            mount.kernel(parts, root, decision.by_text, f"{SESSION}/links")
        except mount.Refused as error:
            decision = _instead(decision, error, seen, notify)
        else:
            _open_work(work)
            return Assembled(root, files, servers, decision, disk)
    squash = (plan.who.uid, plan.who.gid) if decision.squash else None
    # Without write-back a full image refuses the write itself, not a later one or none (fuse-overlayfs's cache).
    at_once = isinstance(plan.stack.upper, ExtOverlay)
    server = mount.fuse_overlay(parts, root, f"{SESSION}/links", squash, at_once)
    mount.wait(server)
    return Assembled(root, files, (*servers, server), decision, disk)


def _attempt(what: str, action: object, *args: object) -> None:
    try:
        action(*args)  # type: ignore[operator]
    except OSError as error:
        raise from_oserror(f"cannot {what}", error) from None


def _instead(decision: driver.Decision, error: OSError, seen: Survey, notify: Notify) -> driver.Decision:
    """fuse-overlayfs, where the kernel refused after all what the probe let expect."""
    reason = f"kernel overlayfs refused: {error.strerror}"
    if not (seen.features.fuse and seen.situation.fuse_overlayfs) or seen.situation.forced == "kernel":
        hint = "sifkit doctor shows what this host can do; --debug shows every step"
        if error.errno == errno.ESTALE:
            hint = "the overlay was used with another base; use a new one, or the base it was made with"
        raise Failure("cannot mount the overlay", reason, hint)
    notify.warning(f"{reason}; using fuse-overlayfs, which is slower")
    return decision._replace(driver="fuse-overlayfs", reason=reason)


def _lowers(layers: tuple[Lower, ...], attached: list[Attached], decision: driver.Decision) -> list[str]:
    """The directories of all read-only layers, topmost first, the base last."""
    paths: list[str] = []
    for number, (layer, entry) in enumerate(zip(layers, attached, strict=True)):
        here = [entry.path]
        if decision.driver == "kernel" and isinstance(layer, ExtImage):
            from overlay.attach import kernel_layers

            here = kernel_layers(layer, entry, f"{SESSION}/images/{number}")
        paths += here if number else []
    return [*paths, attached[0].path]


def _upper(
    plan: Plan, found: features.Features, decision: driver.Decision
) -> tuple[str, str, str, fuse.Server | None]:
    """Upper and work directory; the directory on disk to be removed at the end, if any; what serves the image."""
    upper = plan.stack.upper
    if isinstance(upper, ExtOverlay):
        place, server = _writable_image(upper, decision.driver == "kernel")
        return f"{place}/upper", f"{place}/work", "", server
    if isinstance(upper, Overlay):
        from overlay.upper import make_ready

        _attempt(f"prepare {upper.path}", make_ready, upper, decision.driver)
        return upper.upper, upper.work, "", None
    if not isinstance(upper, Tmpfs):
        return "", "", "", None
    if found.tmpfs_xattr:
        place, disk = f"{SESSION}/upper", ""
        os.mkdir(place, 0o755)
        options = f"mode=0755,size={upper.size}"
        _attempt("mount a tmpfs for the changes", linux.mount, "tmpfs", place, "tmpfs", linux.MS_NODEV, options)
    else:
        # Without xattrs kernel overlayfs cannot mark a replaced directory: rm -rf of one would fail with EIO.
        import tempfile

        directory, prefix = disk_session(os.getppid())
        place = disk = tempfile.mkdtemp(prefix=prefix, dir=directory)
    for name in ("upper", "work"):
        os.mkdir(f"{place}/{name}", 0o755)
    return f"{place}/upper", f"{place}/work", disk, None


def disk_session(monitor: int) -> tuple[str, str]:
    """Where a session on disk of the process ``monitor`` is made, and how its name begins."""
    import tempfile

    return os.environ.get("SIFKIT_SESSION_DIR") or tempfile.gettempdir(), f"sifkit-{os.uname().nodename}-{monitor}-"


def _writable_image(upper: ExtOverlay, by_kernel: bool) -> tuple[str, fuse.Server | None]:
    from overlay.attach import attach_writable
    from overlay.image import unify_whiteouts

    place = f"{SESSION}/image"
    os.mkdir(place)
    try:
        server = attach_writable(upper, place, by_kernel)
    except OSError as error:
        raise from_oserror(f"cannot mount {upper.describe()} for writing", error) from None
    if by_kernel:
        unify_whiteouts(upper.section, f"{place}/upper")
    return place, server


def _open_work(work: str) -> None:
    """The kernel makes work/work with mode 000, which its owner could not `rm -rf` later."""
    if work and os.path.isdir(f"{work}/work"):
        os.chmod(f"{work}/work", 0o700)


def _make_dirs(plan: Plan, upper: str) -> None:
    for path in plan.create_dirs:
        top = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(inroot.create(top, path, directory=True))
        except OSError as error:
            raise from_oserror(f"cannot make --create-dir {path} in the overlay", error) from None
        finally:
            os.close(top)


def _make_points(plan: Plan, base: str) -> bool:
    """Make in points/ every mount point that ``base`` lacks; whether there was any.

    Being the lowest layer it adds names and changes nothing: directories of the base keep their attributes.
    What lies inside something that an earlier step mounts is made there, when it is.
    """
    top = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    points = os.open(f"{SESSION}/points", os.O_PATH | os.O_CLOEXEC)
    made = False
    mounted: list[str] = []
    try:
        for step in plan.steps:
            inside = any(step.destination.startswith(place) for place in mounted)
            mounted.append(step.destination.rstrip("/") + "/")
            if inside:
                continue
            try:
                found, names = inroot.missing(top, step.destination)
            except OSError:  # unreadable or a loop of links: applying the step says so
                continue
            if names:
                path = "/".join([found, *names])
                os.close(inroot.create(points, path, step.is_directory()))
                made = True
    finally:
        os.close(top)
        os.close(points)
    return made


def base_of(plan: Plan) -> str:
    """The base's directory when it is one, for plans that attach nothing (``--dry-run``); else ""."""
    return plan.stack.base.path if isinstance(plan.stack.base, Directory) else ""


def lacks_points(plan: Plan) -> bool:
    """Whether the base lacks a mount point; True for an image, which only attaching it could tell."""
    base = base_of(plan)
    return not base or (not plan.stack.in_place and _make_points(plan, base))
