"""What of a SIF image is run: its root file system, and the overlays embedded with it."""

from __future__ import annotations

import os
from typing import NamedTuple

from overlay import probe
from overlay.failure import Failure, from_oserror
from overlay.section import Section
from overlay.stack.layer import ExtImage, Lower, SquashImage
from sifkit import sif
from sifkit.sif import Descriptor, FsType, PartType
from sifkit.sif.integrity import signed_groups

# uname(2) machine -> the architectures, by Go's names, that its processors run.
_RUNS = {
    "x86_64": ("amd64", "386"), "aarch64": ("arm64", "arm"), "i686": ("386",), "armv7l": ("arm",),
    "ppc64le": ("ppc64le",), "ppc64": ("ppc64",), "s390x": ("s390x",), "riscv64": ("riscv64",),
    "loongarch64": ("loong64",),
}  # fmt: skip


class Partition(NamedTuple):
    """An overlay partition: object ``id``, of ``group`` (0: none), its bytes, ``ext``: ext3, else squashfs.

    ``signed``: a signature covers it, and writing into it would break that.
    """

    id: int
    group: int
    section: Section
    ext: bool
    signed: bool = False

    def layer(self) -> Lower:
        """It as a read-only layer."""
        if not self.ext:
            return SquashImage(self.section)
        from overlay.stack import image  # the ext reader: not for the usual SIF, which has none

        return ExtImage(self.section, image.top_directory(self.section))


class Contents(NamedTuple):
    """``root``: the root file system. ``overlays``: those of its group, lowest ID first, and so lowest in the
    stack. ``strays``: overlay partitions of no group or another, which no container shows. ``group``: the root's.
    """

    root: Lower
    overlays: tuple[Partition, ...]
    strays: tuple[Partition, ...]
    group: int


def contents(path: str) -> Contents:
    """What there is to run in the image ``path``; `Failure` for what cannot be run here, with the reason."""
    try:
        with sif.open(path) as opened:
            primary = opened.primary
            if primary is None:
                raise Failure(
                    f"cannot run {path}", "it has no root file system (no primary system partition)",
                    f"sifkit sif list {path} shows what it has; --overlay uses its overlay partitions",
                )  # fmt: skip
            opened.require_inside(primary)
            found = _partitions(path, opened)
            group = primary.group_id
            shown = tuple(part for part in found if part.group == group and group)
            strays = tuple(part for part in found if part not in shown)
            return Contents(_root(path, primary), shown, strays, group)
    except sif.SifError as error:
        raise Failure(f"cannot run {path}", str(error), f"sifkit sif check {path} tells more") from None
    except OSError as error:
        raise from_oserror(f"cannot open the image {path}", error) from None


def overlays(path: str) -> tuple[Partition, ...]:
    """All overlay partitions of ``path``, of whatever group, lowest ID first. `Failure` when there is none."""
    try:
        with sif.open(path) as opened:
            found = tuple(_partitions(path, opened))
    except sif.SifError as error:
        raise Failure(f"cannot use the overlay {path}", str(error), f"sifkit sif check {path} tells more") from None
    except OSError as error:
        raise from_oserror(f"cannot open the overlay {path}", error) from None
    if not found:
        hint = f"sifkit overlay create {path} adds one"
        raise Failure(f"cannot use the overlay {path}", "the SIF image has no overlay partition", hint)
    return found


def _partitions(path: str, opened: sif.Image) -> list[Partition]:
    signed = signed_groups(opened.objects)
    found = [d for d in opened.objects if d.partition and d.partition.part == PartType.OVERLAY]
    for descriptor in found:
        opened.require_inside(descriptor)
    found.sort(key=lambda descriptor: descriptor.id)
    return [_partition(path, descriptor, descriptor.group in signed) for descriptor in found]


def _partition(path: str, descriptor: Descriptor, signed: bool) -> Partition:
    section = Section(path, descriptor.offset, descriptor.size)
    found = probe.classify(path, descriptor.offset, descriptor.size)
    if found.problem or not (found.is_ext or found.kind is probe.Kind.SQUASHFS):
        cause = found.problem or f"it is a {found.kind}"
        raise Failure(f"cannot use overlay partition {descriptor.id} of {path}", cause, f"sifkit sif check {path}")
    return Partition(descriptor.id, descriptor.group_id, section, found.is_ext, signed)


def _root(path: str, primary: Descriptor) -> Lower:
    extra = primary.partition
    assert extra is not None
    _check_architecture(path, sif.arch_text(extra.arch))
    if extra.fs in (FsType.ENCRYPTED_SQUASHFS, FsType.GOCRYPTFS_SQUASHFS):
        raise Failure(f"cannot run {path}", "its root file system is encrypted, which is not supported")
    section = Section(path, primary.offset, primary.size)
    found = probe.classify(path, primary.offset, primary.size)
    if found.problem:
        raise Failure(f"cannot run {path}", f"its root file system: {found.problem}", f"sifkit sif check {path}")
    if found.kind is probe.Kind.SQUASHFS:
        return SquashImage(section)
    if found.is_ext:
        return ExtImage(section, "")
    raise Failure(f"cannot run {path}", f"its root file system is {sif.fs_text(extra.fs)}, which is not supported")


def _check_architecture(path: str, architecture: str) -> None:
    machine = os.uname().machine
    runs = _RUNS.get(machine)
    if architecture == "unknown" or runs is None or architecture in runs:
        return
    raise Failure(
        f"cannot run {path}", f"it is for {architecture} processors, and this machine is {machine} ({runs[0]})",
        f"get the image for {runs[0]}",
    )  # fmt: skip
