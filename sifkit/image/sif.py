"""What of a SIF image is run: its root file system, and the overlays embedded with it."""

from __future__ import annotations

import os

from overlay import probe
from overlay.failure import Failure, from_oserror
from overlay.records import NamedTuple
from overlay.section import Section
from overlay.stack.layer import ExtImage, Lower, SquashImage
from sifkit.sif import glance
from sifkit.sif.arch import arch_text
from sifkit.sif.errors import SifError

# uname(2) machine -> the architectures, by Go's names, that its processors run.
_RUNS = {
    "x86_64": ("amd64", "386"), "aarch64": ("arm64", "arm"), "i686": ("386",), "armv7l": ("arm",),
    "ppc64le": ("ppc64le",), "ppc64": ("ppc64",), "s390x": ("s390x",), "riscv64": ("riscv64",),
    "loongarch64": ("loong64",),
}  # fmt: skip

_ENCRYPTED = (5, 6)  # `FsType.ENCRYPTED_SQUASHFS`, `FsType.GOCRYPTFS_SQUASHFS`


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
    found = _read(path, f"cannot run {path}")
    if found.primary is None:
        raise Failure(
            f"cannot run {path}", "it has no root file system (no primary system partition)",
            f"sifkit sif list {path} shows what it has; --overlay uses its overlay partitions",
        )  # fmt: skip
    group = found.primary.group
    parts = [_partition(path, part) for part in found.overlays]
    shown = tuple(part for part in parts if part.group == group and group)
    strays = tuple(part for part in parts if part not in shown)
    return Contents(_root(path, found.primary), shown, strays, group)


def overlays(path: str) -> tuple[Partition, ...]:
    """All overlay partitions of ``path``, of whatever group, lowest ID first. `Failure` when there is none."""
    found = tuple(_partition(path, part) for part in _read(path, f"cannot use the overlay {path}").overlays)
    if not found:
        hint = f"sifkit overlay create {path} adds one"
        raise Failure(f"cannot use the overlay {path}", "the SIF image has no overlay partition", hint)
    return found


def _read(path: str, brief: str) -> glance.Runnable:
    try:
        return glance.read(path)
    except OSError as error:
        raise from_oserror(brief, error) from None
    except SifError as error:
        raise Failure(brief, str(error), f"sifkit sif check {path} tells more") from None


def _partition(path: str, part: glance.Part) -> Partition:
    section = Section(path, part.offset, part.size)
    found = probe.classify(path, part.offset, part.size)
    if found.problem or not (found.is_ext or found.kind is probe.Kind.SQUASHFS):
        cause = found.problem or f"it is a {found.kind}"
        raise Failure(f"cannot use overlay partition {part.id} of {path}", cause, f"sifkit sif check {path}")
    return Partition(part.id, part.group, section, found.is_ext, part.signed)


def _root(path: str, primary: glance.Part) -> Lower:
    _check_architecture(path, arch_text(primary.arch))
    section = Section(path, primary.offset, primary.size)
    if primary.fs in _ENCRYPTED:
        raise Failure(f"cannot run {path}", "its root file system is encrypted, which is not supported")
    found = probe.classify(path, primary.offset, primary.size)
    if found.problem:
        raise Failure(f"cannot run {path}", f"its root file system: {found.problem}", f"sifkit sif check {path}")
    if found.kind is probe.Kind.SQUASHFS:
        return SquashImage(section)
    if found.is_ext:
        return ExtImage(section, "")
    from sifkit.sif.enums import fs_text

    raise Failure(f"cannot run {path}", f"its root file system is {fs_text(primary.fs)}, which is not supported")


def _check_architecture(path: str, architecture: str) -> None:
    machine = os.uname().machine
    runs = _RUNS.get(machine)
    if architecture == "unknown" or runs is None or architecture in runs:
        return
    raise Failure(
        f"cannot run {path}", f"it is for {architecture} processors, and this machine is {machine} ({runs[0]})",
        f"get the image for {runs[0]}",
    )  # fmt: skip
