"""The one place that chooses how a stack is mounted, with the reason that ``--dry-run`` prints."""

from __future__ import annotations

from overlay import linux
from overlay.failure import Failure
from overlay.features import Features
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.stack import mount
from overlay.stack.layer import ExtOverlay, Overlay, Stack, Tmpfs

if TYPE_CHECKING:
    from typing import Literal

    Name = Literal["bind", "kernel", "staged", "fuse-overlayfs"]
    Points = Literal["none", "optional", "needed"]
    Layer = Literal["", "metadata", "directory"]

# Ways of writing over a base that belongs to somebody else, best first; what --foreign may name beside `auto`.
WAYS = ("metadata", "directory", "squash", "plain")

# File systems that are known to serve as an upper. Others are not tried: unknown network file systems have
# crashed kernels under overlayfs.
KNOWN_UPPERS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "f2fs", "bcachefs", "zfs"})
# Those that nearly everybody has, by their number: reading the table of mounts costs a start a millisecond.
_NUMBERS = {0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs"}

# What SIFKIT_OVERLAY_DRIVER may hold; the last two are about ext3 overlays alone.
_FORCED = ("", "auto", "kernel", "fuse-overlayfs", "staged", "fuse")

FORCE = "SIFKIT_OVERLAY_DRIVER"


class Situation(NamedTuple):
    """What the choice depends on besides the kernel.

    ``privileged``: real root, no user namespace. ``foreign_base``: who owns what we could not change, "" when
    nobody. ``points``: the mount points that the base lacks; a run can do without optional ones.
    ``upper_fstype``: file system of the upper directory. ``upper_xattr``: it takes user xattrs.
    ``fuse_overlayfs``: the program is there. ``foreign``: how to write over a foreign base, `auto` or one of `WAYS`.
    ``layer``: put a metadata layer on the base, though nobody else's is written ("" for no; else what to say of it).
    ``impossible``: layers that turned out not to be had. ``session_root``: where the session of an ext3 overlay would
    lie, "" when nowhere, and ``not_staged``: why such an overlay cannot be staged. ``lower``: how its content would be
    read meanwhile. ``forced``: value of SIFKIT_OVERLAY_DRIVER.
    """

    privileged: bool
    foreign_base: str = ""
    points: Points = "none"
    upper_fstype: str = ""
    upper_xattr: bool = True
    fuse_overlayfs: bool = True
    foreign: str = "auto"
    layer: str = ""
    impossible: tuple[str, ...] = ()
    session_root: str = ""
    not_staged: str = ""
    lower: str = ""
    forced: str = ""


class Decision(NamedTuple):
    """How to mount: ``driver``; ``by_text``: mount(2) instead of fsconfig(2); ``squash``: all owners become us.

    ``layer``: of the caller's, to be put on the base (`overlay.metalayer.layers`).
    """

    driver: Name
    reason: str
    by_text: bool = False
    squash: bool = False
    warning: str = ""
    layer: Layer = ""

    @property
    def by_kernel(self) -> bool:
        """Whether the kernel's overlayfs is mounted: ``kernel``, and ``staged``, which is that over a session."""
        return self.driver in ("kernel", "staged")


def file_system(path: str) -> str:
    """The type of file system that ``path`` lies on, as `Situation` has it; "" when it cannot be told."""
    if known := _NUMBERS.get(linux.file_system(path)):
        return known
    from overlay import mountinfo

    return mountinfo.fstype(path)


def choose(stack: Stack, features: Features, situation: Situation) -> Decision:
    """Choose the driver for ``stack``; `Failure` when nothing on this host can mount it."""
    decision = _choose(stack, features, situation)
    if not isinstance(stack.upper, Tmpfs) or features.tmpfs_xattr:
        return decision
    reason = f"{decision.reason}; changes go to disk until the end: tmpfs takes no user xattrs here (Linux 6.6 does)"
    limit = "--tmpfs-size is without effect: tmpfs is of no use on this kernel, and changes go to disk until the end"
    warnings = [text for text, on in ((decision.warning, True), (limit, stack.upper.asked)) if text and on]
    return decision._replace(reason=reason, warning="; ".join(warnings))


def _choose(stack: Stack, features: Features, situation: Situation) -> Decision:
    if situation.forced not in _FORCED:
        cause = f"it may be {', '.join(_FORCED[1:-1])} or {_FORCED[-1]}"
        raise Failure(f"{FORCE}={situation.forced} is not known", cause)
    if len(stack.lowers) + 2 > mount.MOST_LAYERS:
        raise Failure(
            f"{len(stack.lowers)} overlays are too many",
            f"the kernel stacks at most {mount.MOST_LAYERS} layers, of which 2 are ours",
            "join some of them into one",
        )
    if stack.in_place:
        return Decision("bind", "--writable writes into the image directory itself")
    fuse_possible = features.fuse and situation.fuse_overlayfs
    layered = bool(situation.layer and features.data_layers and "metadata" not in situation.impossible)
    if not stack.lowers and stack.upper is None and not layered:
        if situation.points == "none":
            return Decision("bind", "one read-only layer with every mount point needs no overlay")
        if situation.points == "optional" and not (features.overlay or fuse_possible or situation.forced):
            return _without_points(features)
    if situation.forced == "fuse-overlayfs":
        return _fuse(fuse_possible, f"{FORCE} asks for it", squash=bool(situation.foreign_base))
    if isinstance(stack.upper, ExtOverlay) and not (features.loop and features.overlay):
        return _into_image(stack, stack.upper, features, situation, fuse_possible)
    if stack.upper is not None and situation.foreign_base and not situation.privileged:
        return _foreign(stack, features, situation, fuse_possible)
    found = _ordinary(stack, features, situation, fuse_possible)
    if layered and found.driver == "kernel":
        return found._replace(layer="metadata", reason=f"{found.reason}, over {situation.layer}")
    return found


def _without_points(features: Features) -> Decision:
    return Decision(
        "bind",
        f"kernel overlayfs cannot be mounted here ({features.why_not}), and fuse-overlayfs or /dev/fuse is missing",
        warning="no overlay can be mounted here: what the image has no mount point for is left out (-v says what); "
        "sifkit doctor says what is missing",
    )


def _ordinary(stack: Stack, features: Features, situation: Situation, fuse_possible: bool) -> Decision:
    refusal = _kernel_refusal(stack, features, situation)
    if not refusal:
        return _kernel(features, "this kernel mounts it")
    if situation.forced == "kernel":
        raise Failure(f"{FORCE}=kernel cannot be had", refusal, "leave the variable unset, or use another directory")
    return _fuse(fuse_possible, refusal)


def _kernel_refusal(stack: Stack, features: Features, situation: Situation) -> str:
    if not features.overlay:
        return f"kernel overlayfs cannot be mounted here ({features.why_not})"
    if not isinstance(stack.upper, Overlay):
        return ""
    if situation.upper_fstype not in KNOWN_UPPERS:
        return f"{stack.upper.path} lies on {situation.upper_fstype or 'an unknown file system'}, not known to be safe"
    if not situation.upper_xattr:
        return f"the {situation.upper_fstype} below {stack.upper.path} takes no user xattrs"
    return ""


def _into_image(
    stack: Stack, upper: ExtOverlay, features: Features, situation: Situation, fuse_possible: bool
) -> Decision:
    """Staged, as a directory overlay whose upper is the session's; in place through FUSE where that cannot be."""
    if upper.fuse or situation.forced == "fuse":
        why = ":fuse" if upper.fuse else f"{FORCE}=fuse"
        return _fuse(fuse_possible, f"{why} asks for it", squash=not situation.privileged)
    refusal = situation.not_staged
    if not refusal:
        as_directory = stack._replace(upper=Overlay(situation.session_root))
        forced = "kernel" if situation.forced == "kernel" else ""
        found = choose(as_directory, features, situation._replace(forced=forced))
        if found.driver == "kernel":
            reason = f"changes go into the image at the end; until then they lie in {situation.session_root}"
            return found._replace(driver="staged", reason=f"{reason}; {situation.lower} ({found.reason})")
        refusal = found.reason
    if situation.forced in ("kernel", "staged"):
        hint = "leave the variable unset, or use a directory overlay"
        raise Failure(f"{FORCE}={situation.forced} cannot be had", refusal, hint)
    return _fuse(fuse_possible, f"not staged: {refusal}", squash=not situation.privileged)


def _kernel(features: Features, reason: str, warning: str = "") -> Decision:
    how = "fsconfig lowerdir+" if features.lowerdir_append else "mount(2) text: no lowerdir+ (Linux 6.8) here"
    return Decision("kernel", f"{reason} ({how})", by_text=not features.lowerdir_append, warning=warning)


def _foreign(stack: Stack, features: Features, situation: Situation, fuse_possible: bool) -> Decision:
    """The best way that this host has, or the one that was asked for."""
    refusal = _kernel_refusal(stack, features, situation)
    passed: list[str] = []
    for way in WAYS if situation.foreign == "auto" else (situation.foreign,):
        why_not = _way_refused(way, refusal, features, situation, fuse_possible)
        if not why_not:
            return _by_way(way, features, situation, "; ".join(passed))
        passed.append(f"no {way}: {why_not}")
    if situation.foreign == "auto":
        return _fuse(False, "; ".join(passed))
    hint = "--foreign auto takes the best that can be had; sifkit doctor says what is missing"
    raise Failure(f"--foreign {situation.foreign} cannot be had", passed[0].partition(": ")[2], hint)


def _way_refused(way: str, refusal: str, features: Features, situation: Situation, fuse_possible: bool) -> str:
    if way == "squash":
        if situation.forced == "kernel":
            return f"{FORCE}=kernel excludes it"
        return "" if fuse_possible else "fuse-overlayfs or /dev/fuse is missing"
    if refusal:
        return refusal
    if way in situation.impossible:
        return "it could not be made"
    if way == "metadata" and not features.data_layers:
        return "this kernel has no data-only layers for ordinary users (Linux 6.16 has)"
    return ""


def _by_way(way: str, features: Features, situation: Situation, passed: str) -> Decision:
    theirs = f"the base belongs to {situation.foreign_base}"
    reason = theirs + (f" ({passed})" if passed else "")
    automatic = situation.foreign == "auto"
    if way == "metadata":
        return _kernel(features, f"{reason}: its metadata in a layer of yours")._replace(layer="metadata")
    if way == "directory":
        warning = f"{theirs}: its files cannot be changed in place, only replaced; --foreign squash can, and is slow"
        found = _kernel(features, f"{reason}: its directories in a layer of yours", warning if automatic else "")
        return found._replace(layer="directory")
    if way == "squash":
        warning = (
            f"{theirs}: writing through fuse-overlayfs, which is slow; what you may not read there "
            "(0700 directories, 0640 files) is not visible"
        )
        return Decision("fuse-overlayfs", f"{reason}: all of it shown as yours", squash=True, warning=warning)
    warning = f"{theirs}: only new names in its top directory can be written"
    return _kernel(features, f"{reason}: as it is, so for new names only", warning if automatic else "")


def _fuse(possible: bool, reason: str, squash: bool = False) -> Decision:
    if possible:
        return Decision("fuse-overlayfs", reason, squash=squash)
    raise Failure(
        "this host can mount no overlay",
        f"{reason}, and fuse-overlayfs or /dev/fuse is missing",
        "install fuse-overlayfs; sifkit doctor shows what is missing",
    )
