"""What this kernel lets this process do, found by trying, in a namespace and a tmpfs of our own.

Version numbers are no guide: distributions port features back, and containers and security modules
forbid what the version would allow. ``SIFKIT_DEBUG_WITHOUT`` (names of fields of `Features`, separated by
commas) makes a feature absent, so that every fallback can be tried on a new kernel.
"""

from __future__ import annotations

import errno
import os

from overlay.records import NamedTuple
from overlay.stack import mount


class Features(NamedTuple):
    """``overlay``: kernel overlayfs mounts here, and ``why_not`` if it does not. ``lowerdir_append``: Linux 6.8.

    ``tmpfs_xattr``: user xattrs on tmpfs (6.6). ``fuse``: /dev/fuse can be opened. ``loop``: loop devices can
    be set up (real root only). ``data_layers``: files of a lower whose content is in a data-only layer, for this
    user (6.16); False too where it was not asked for.
    """

    overlay: bool
    why_not: str
    lowerdir_append: bool
    tmpfs_xattr: bool
    fuse: bool
    loop: bool
    data_layers: bool = False


def without(feature: str) -> bool:
    """Whether the environment asks to do as if this host lacked ``feature``."""
    return feature in os.environ.get("SIFKIT_DEBUG_WITHOUT", "").split(",")


def fuse_usable() -> bool:
    """Whether /dev/fuse is there and open to us."""
    return not without("fuse") and os.access("/dev/fuse", os.R_OK | os.W_OK)


def probe(scratch: str, privileged: bool, data_layers: bool = False) -> Features:
    """Try each feature in ``scratch``, a directory on a tmpfs that belongs to our mount namespace.

    ``data_layers``: try these too, which few runs need and which takes a mount.
    """
    for name in ("lower", "upper", "work", "merged", "links"):
        os.mkdir(f"{scratch}/{name}")
    works, why_not, append = _try_overlay(scratch)
    return Features(
        overlay=works,
        why_not=why_not,
        lowerdir_append=append,
        tmpfs_xattr=_takes_xattr(scratch, "tmpfs_xattr"),
        fuse=fuse_usable(),
        loop=privileged and not without("loop") and os.access("/dev/loop-control", os.R_OK | os.W_OK),
        data_layers=data_layers and works and _try_data_layers(scratch, not append),
    )


def _try_overlay(scratch: str) -> tuple[bool, str, bool]:
    if without("overlay"):
        return False, "SIFKIT_DEBUG_WITHOUT says so", False
    parts = mount.Parts((f"{scratch}/lower",), f"{scratch}/upper", f"{scratch}/work")
    merged, links = f"{scratch}/merged", f"{scratch}/links"
    why_not = ""
    for by_text in (False, True):
        if not by_text and without("lowerdir_append"):
            continue
        try:
            mount.kernel(parts, merged, by_text, links)
        except OSError as error:
            why_not = error.strerror or str(error)
            continue
        # Left mounted: an unmount waits for the kernel (RCU, milliseconds); the namespace's end takes it along.
        return True, "", not by_text
    return False, why_not, False


def _try_data_layers(scratch: str, by_text: bool) -> bool:
    """Whether content is read through the marks of a metadata layer, from a layer that they alone make seen."""
    if without("data_layers"):
        return False
    for name in ("metadata", "data", "through"):
        os.mkdir(f"{scratch}/{name}")
    with open(f"{scratch}/data/there", "wb") as file:
        file.write(b"!")
    try:
        with open(f"{scratch}/metadata/here", "wb") as file:
            os.setxattr(file.fileno(), "user.overlay.redirect", b"/there")
            os.setxattr(file.fileno(), "user.overlay.metacopy", b"")
            file.truncate(1)
        parts = mount.Parts((f"{scratch}/metadata",), data=(f"{scratch}/data",))
        mount.kernel(parts, f"{scratch}/through", by_text, f"{scratch}/links")
        with open(f"{scratch}/through/here", "rb") as file:
            return file.read() == b"!"
    except OSError:  # no attributes on tmpfs, no such layers, or not for this user: the same to us
        return False


def _takes_xattr(directory: str, feature: str = "") -> bool:
    if without(feature):
        return False
    try:
        os.setxattr(directory, "user.sifkit.probe", b"y")
        os.removexattr(directory, "user.sifkit.probe")
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EROFS):
            return False
        raise
    return True


def takes_xattr(directory: str) -> bool:
    """Whether ``directory`` holds user xattrs, which overlayfs needs there to mark what was replaced."""
    return _takes_xattr(directory, "upper_xattr")
