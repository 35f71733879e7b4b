"""The layer that takes the writes: a directory, an ext3 image, or memory, made ready for the driver."""

from __future__ import annotations

import os

from overlay import linux
from overlay.failure import from_oserror
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.stack.layer import ExtOverlay, Overlay, Tmpfs
from sifkit.runtime.scratch import SCRATCH, on_disk

if TYPE_CHECKING:
    from overlay import features
    from overlay.stack import driver
    from overlay.stack.fuse import Server
    from overlay.stack.layer import Writable
    from sifkit.runtime.plan import Plan


class Opened(NamedTuple):
    """``upper`` and ``work``: directories, "" when nothing is written. ``disk``: to be removed at the end.

    ``server``: what serves the image they are in.
    """

    upper: str = ""
    work: str = ""
    disk: str = ""
    server: Server | None = None


def ready(plan: Plan, found: features.Features, name: driver.Name, lowers: list[str]) -> Opened:
    """Make the writable layer of ``plan`` ready for the driver ``name``, on ``lowers``; --create-dir is done."""
    opened = _open(plan.stack.upper, found, name)
    if isinstance(plan.stack.upper, ExtOverlay):
        from overlay import record

        record.keep(f"{SCRATCH}/image", plan.image)
    if plan.create_dirs:
        from sifkit.runtime import create_dir

        for path in plan.create_dirs:
            create_dir.make(opened.upper, lowers, path)
    return opened


def _open(upper: Writable | None, found: features.Features, name: driver.Name) -> Opened:
    if isinstance(upper, ExtOverlay):
        place, server = _image(upper, name == "kernel")
        return Opened(f"{place}/upper", f"{place}/work", server=server)
    if isinstance(upper, Overlay) and name == "staged":  # new, and ours
        return Opened(upper.upper, upper.work)
    if isinstance(upper, Overlay):
        from overlay.stack.upper import make_ready

        try:
            make_ready(upper, name)
        except OSError as error:
            raise from_oserror(f"cannot prepare {upper.path}", error) from None
        return Opened(upper.upper, upper.work)
    if not isinstance(upper, Tmpfs):
        return Opened()
    place = _memory(upper.size) if found.tmpfs_xattr else _disk()
    for part in ("upper", "work"):
        os.mkdir(f"{place}/{part}", 0o755)
    return Opened(f"{place}/upper", f"{place}/work", "" if found.tmpfs_xattr else place)


def _memory(size: int) -> str:
    place = f"{SCRATCH}/upper"
    os.mkdir(place, 0o755)
    try:
        linux.mount("tmpfs", place, "tmpfs", linux.MS_NODEV, f"mode=0755,size={size}")
    except OSError as error:
        raise from_oserror("cannot mount a tmpfs for the changes", error) from None
    return place


def _disk() -> str:
    """Without xattrs on tmpfs kernel overlayfs could not mark a replaced directory: rm -rf of one would be EIO."""
    import tempfile

    directory, prefix = on_disk(os.getppid())
    try:
        return tempfile.mkdtemp(prefix=prefix, dir=directory)
    except OSError as error:
        raise from_oserror(f"cannot make a place for the changes in {directory}", error) from None


def _image(upper: ExtOverlay, by_kernel: bool) -> tuple[str, Server | None]:
    from overlay.stack.attach import attach_writable
    from overlay.stack.image import unify_whiteouts

    place = f"{SCRATCH}/image"
    os.mkdir(place)
    try:
        server = attach_writable(upper, place, by_kernel)
    except OSError as error:
        raise from_oserror(f"cannot mount {upper.describe()} for writing", error) from None
    if by_kernel:
        unify_whiteouts(upper.section, f"{place}/upper")
    return place, server


def open_work(work: str) -> None:
    """The kernel makes work/work with mode 000, which its owner could not `rm -rf` later."""
    if work and os.path.isdir(f"{work}/work"):
        os.chmod(f"{work}/work", 0o700)
