"""An overlay frozen: its changes as one read-only squashfs overlay, a file or a partition of a SIF image."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from overlay.failure import Failure
from sifkit import sif
from sifkit.image import convert, target
from sifkit.sif import DataType, Descriptor, FsType, PartType, infer

if TYPE_CHECKING:
    from overlay.tree.loss import Report
    from overlay.tree.view import Tree


def moment(reproducible: bool) -> tuple[int, int | None]:
    """When an image says it was made, and the latest time that its files may have, None for any.

    Reproducible: SOURCE_DATE_EPOCH (reproducible-builds.org) for both, else the start of 1970.
    """
    if not reproducible:
        return int(time.time()), None
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return 0, None
    if not text.isdecimal():
        raise Failure("cannot be reproducible", f"SOURCE_DATE_EPOCH is {text!r}, which is no number of seconds")
    return int(text), int(text)


def base_of(text: str, named: str | None) -> Tree | None:
    """The image that the overlay ``text`` lies on: the one ``named``, else the last it was used on, else None.

    "none" is none. `Failure` only for one that was named.
    """
    from overlay import record

    if named == "none":
        return None

    if named is not None:
        return target.base(named)
    if convert.is_tar(text):
        return None
    try:
        with target.whole(target.resolve(text)) as whole:
            last = record.read(whole).get("base")
        return target.base(last) if isinstance(last, str) and os.path.exists(last) else None
    except (Failure, OSError, ValueError):  # it only informs; whoever reads the overlay itself will say what is wrong
        return None


def freeze(tree: Tree, path: str, report: Report, *, compress: str, reproducible: bool) -> int:
    """Write the layer ``tree`` as the new squashfs overlay ``path``, or into the SIF image that is there.

    Its size in bytes. Raises `Failure`, FileExistsError, other OSError, and what the tree raises.
    """
    made, latest = moment(reproducible)
    if not os.path.isfile(path) or not sif.is_sif(path):
        return convert.write_squash(tree, path, report, compress=compress, made=made, latest=latest)
    _check(path)
    with convert.scratch_file(path) as fd:
        size = convert.fill_squash(tree, fd, report, compress=compress, made=made, latest=latest)
        os.ftruncate(fd, size)
        os.lseek(fd, 0, os.SEEK_SET)
        _embed(path, fd, made if reproducible else None)
    return size


def _embed(path: str, fd: int, when: int | None) -> None:
    """Add the squashfs open at ``fd`` as an overlay partition, in the group of the image's root."""
    try:
        with sif.editing(path, time=when) as edit:
            objects = list(edit.objects.values())
            _refuse_signed(path, objects)
            primary = next((d for d in objects if d.is_primary), None)
            arch = sif.arch_text(primary.partition.arch if primary and primary.partition else edit.header.arch)
            if arch == "unknown":  # an image without a root yet: as `sif add` has it
                arch = infer.host_architecture()
            group = (primary.group_id if primary else 0) or 1
            sif.add_object(edit, sif.partition(fd, FsType.SQUASHFS, PartType.OVERLAY, arch, group=group))
            edit.commit()
    except sif.SifError as error:
        raise Failure(f"cannot add an overlay to {path}", str(error), f"sifkit sif check {path}") from None


def _check(path: str) -> None:
    """What can be known before the squashfs is made."""
    try:
        with sif.open(path) as opened:
            _refuse_signed(path, opened.objects)
    except sif.SifError as error:
        raise Failure(f"cannot add an overlay to {path}", str(error), f"sifkit sif check {path}") from None
    if not os.access(path, os.W_OK):
        raise Failure(f"cannot add an overlay to {path}", "you may not write into it")


def _refuse_signed(path: str, objects: Iterable[Descriptor]) -> None:
    if any(d.data_type == DataType.SIGNATURE for d in objects):
        raise Failure(
            f"cannot add an overlay to {path}", "it is signed, and a change would break the signature",
            "freeze into a file of its own: -o changes.sqfs",
        )  # fmt: skip
