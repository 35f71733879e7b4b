"""Which of the overlays inside images are written, which are read, and which are only warned about.

An overlay partition of the image itself takes writes when nothing else does: that is what Apptainer's guide
promises of ``overlay create image.sif`` (its runtime mounts it read-only). Another writable overlay, a
throwaway one, ``--read-only`` or an image file that may not be written leave it read-only.
"""

from __future__ import annotations

import os

from overlay.failure import Failure
from overlay.records import NamedTuple
from overlay.stack.layer import ExtOverlay, Lower
from overlay.stack.spec import LayerSpec
from sifkit.image import sif
from sifkit.image.resolve import Image
from sifkit.image.sif import Partition


class Chosen(NamedTuple):
    """``lowers``: read-only layers, topmost first. ``upper``: what takes the writes, or None."""

    lowers: tuple[Lower, ...]
    upper: ExtOverlay | None
    warnings: tuple[str, ...] = ()


def of_image(image: Image, writable: bool, may_write: bool) -> Chosen:
    """The overlays embedded in ``image``. ``writable``: --writable was given; ``may_write``: nothing else is written.

    The lowest ext3 partition is the one that is written (Apptainer's choice); all others stay visible below it.
    """
    warnings = tuple(_stray(image, part, writable) for part in image.strays)
    target = next((part for part in image.embedded if part.ext), None)
    if writable:
        target = _demand(image, target)
        if target.signed:
            warnings += (f"{image.reference} is signed; what is written now breaks the signature",)
    elif target is None or target.signed or not may_write or not os.access(image.path, os.W_OK):
        target = None  # whoever signed an overlay meant it as it is
    upper = ExtOverlay(target.section, required=writable) if target else None
    lowers = tuple(part.layer() for part in reversed(image.embedded) if part is not target)
    return Chosen(lowers, upper, warnings)


def _stray(image: Image, part: Partition, writable: bool) -> str:
    group = image.group or 1
    mend = f"sifkit sif set {part.id} {image.reference} --group {group}"
    where = f"in group {part.group}, and its root file system is not" if part.group else "in no group"
    text = f"overlay partition {part.id} of {image.reference} is {where}, so no container shows it"
    if writable:
        raise Failure(f"--writable: {text}", f"it was added without --groupid {group}", mend)
    return f"{text}; to mend it: {mend}"


def _demand(image: Image, target: Partition | None) -> Partition:
    if target is None:
        raise Failure(
            f"--writable: {image.reference} has no writable overlay",
            "there is no ext3 overlay partition in it",
            f"sifkit overlay create {image.reference} adds one; --writable-tmpfs throws changes away",
        )
    if not os.access(image.path, os.W_OK):
        name = image.reference
        raise Failure(f"--writable: {name} cannot be written", "you may not write in this file", "use a copy of it")
    return target


def of_spec(spec: LayerSpec) -> Chosen:
    """The layers of ``--overlay file.sif``: its overlay partitions; the lowest ext3 one is written unless ``:ro``."""
    found = sif.overlays(os.path.abspath(spec.source))
    target = next((part for part in found if part.ext), None) if spec.mode != "ro" else None
    if spec.mode in ("rw", "fuse") and target is None:
        cause = "its overlay partitions are squashfs, read-only by nature"
        raise Failure(f"{spec.source}:{spec.mode} cannot be had", cause, "use :ro")
    warning = ""
    if target is not None and not os.access(spec.source, os.W_OK):
        if spec.mode in ("rw", "fuse"):
            cause = "you may not write in this file"
            raise Failure(f"{spec.source}:{spec.mode} cannot be had", cause, "use :ro, or a copy of it")
        target, warning = None, f"{spec.source} is used read-only: you may not write in this file"
    if target is not None and target.signed:  # whoever signed it meant it as it is
        if spec.mode in ("rw", "fuse"):
            warning = f"{spec.source} is signed; what is written now breaks the signature"
        else:
            target, warning = None, f"{spec.source} is used read-only: it is signed, and :rw breaks the signature"
    lowers = tuple(part.layer() for part in reversed(found) if part is not target)
    upper = ExtOverlay(target.section, fuse=spec.mode == "fuse") if target else None
    return Chosen(lowers, upper, (warning,) if warning else ())
