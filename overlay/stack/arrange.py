"""From what the user asked for to layers in order: which are read-only, which one is writable, and why.

Nothing is changed here; `overlay.stack.upper.prepare` makes what a writable directory overlay lacks.
"""

from __future__ import annotations

import os

from overlay.failure import USAGE, Failure, of_path
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.stack.layer import Arranged, Directory, ExtImage, ExtOverlay, Lower, Overlay, SquashImage, Tmpfs, Writable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from overlay.probe import Probe
    from overlay.stack.spec import LayerSpec

    class Container(Protocol):
        """What `arrange` is told of a file that holds overlays in partitions (see ``sifkit.image.embedded``)."""

        @property
        def lowers(self) -> tuple[Lower, ...]: ...
        @property
        def upper(self) -> ExtOverlay | None: ...
        @property
        def warnings(self) -> tuple[str, ...]: ...


# What may lie in a directory overlay beside upper/ and work/ without being content.
OURS = frozenset({"upper", "work", "sifkit.json", ".sifkit.lock", "lost+found"})


class _Taken(NamedTuple):
    lowers: tuple[Lower, ...] = ()
    upper: Overlay | ExtOverlay | None = None
    warnings: tuple[str, ...] = ()
    demoted: bool = False


def arrange(specs: tuple[LayerSpec, ...], tmpfs: Tmpfs | None, open_sif: Callable[[LayerSpec], Container]) -> Arranged:
    """Stack ``specs`` as Apptainer does: of read-only layers the later is on top, the writable one on all.

    ``open_sif`` is asked for the layers of a SIF file.
    """
    lowers: list[Lower] = []
    upper: Writable | None = tmpfs
    written = ""
    warnings: list[str] = []
    demoted = False
    for spec in specs:
        taken = _take(spec, open_sif)
        warnings += [warning for warning in taken.warnings if warning]
        lowers[:0] = taken.lowers
        demoted = demoted or taken.demoted
        if taken.upper is None:
            continue
        if upper is not None:
            raise _second_writable(written, spec)
        upper, written = taken.upper, spec.source
    return Arranged(tuple(lowers), upper, tuple(warnings), demoted)


def _second_writable(first: str, spec: LayerSpec) -> Failure:
    if not first:
        return Failure(
            f"--writable-tmpfs and the writable overlay {spec.source} exclude each other",
            "only one layer can take the writes",
            f"leave one out, or use {spec.source}:ro",
            USAGE,
        )
    return Failure(
        f"two writable overlays: {first} and {spec.source}",
        "only one layer can take the writes",
        f"use {spec.source}:ro or {first}:ro",
        USAGE,
    )


def without_repeats(base: Lower, given: Arranged) -> Arranged:
    """``given`` without layers that are already there, higher up or as ``base``; a warning for each.

    They would change nothing, and the kernel refuses to stack a directory on itself (ELOOP).
    """
    seen = {_place(layer) for layer in (given.upper, base) if layer is not None and not isinstance(layer, Tmpfs)}
    lowers: list[Lower] = []
    warnings = list(given.warnings)
    for layer in given.lowers:
        place = _place(layer)
        if place in seen:
            warnings.append(f"{layer.describe()} is given twice; once is enough")
        else:
            lowers.append(layer)
        seen.add(place)
    return given._replace(lowers=tuple(lowers), warnings=tuple(warnings))


def _place(layer: Lower | Overlay | ExtOverlay) -> tuple[str, int]:
    if isinstance(layer, Directory | Overlay):
        return os.path.realpath(layer.path if isinstance(layer, Directory) else layer.upper), 0
    found = os.stat(layer.section.path)  # locks know files, not names: with two of one, a run would wait for itself
    return f"{found.st_dev}:{found.st_ino}", layer.section.offset


def _take(spec: LayerSpec, open_sif: Callable[[LayerSpec], Container]) -> _Taken:
    if os.path.isdir(spec.source):
        if spec.mode == "fuse":
            raise _only_images(spec)
        return _directory(spec)
    return _image(spec, open_sif)


def _only_images(spec: LayerSpec) -> Failure:
    return Failure(f"{spec.source}:fuse", "only an ext3 overlay can be written through FUSE", "use :rw", USAGE)


def _image(spec: LayerSpec, open_sif: Callable[[LayerSpec], Container]) -> _Taken:
    from overlay import probe  # only for images: a directory must not pay for it

    try:
        os.stat(spec.source)  # as it is written: abspath takes a / off the end, and with it a file is none
        found = probe.classify(os.path.abspath(spec.source))
    except FileNotFoundError:
        hint = _to_make(spec.source)
        raise Failure(f"no overlay {spec.source}", "there is no such file or directory", hint) from None
    except OSError as error:
        raise of_path(f"cannot use the overlay {spec.source}", error) from None
    if found.problem:
        raise Failure(f"cannot use the overlay {spec.source}", found.problem)
    if found.kind is probe.Kind.SQUASHFS:
        if spec.mode == "fuse":
            raise _only_images(spec)
        if spec.mode == "rw":
            raise Failure(f"{spec.source}:rw cannot be had", "a squashfs image is read-only by nature", "use :ro")
        return _Taken((SquashImage(found.section),))
    if found.is_ext:
        return _ext(spec, found)
    if found.kind is probe.Kind.SIF:
        inside = open_sif(spec)
        return _Taken(inside.lowers, inside.upper, inside.warnings, demoted=bool(inside.warnings))
    hint = "use a directory, ext3, squashfs or SIF overlay"
    raise Failure(f"cannot use the overlay {spec.source}", f"it is a {found.kind}", hint)


def _to_make(source: str) -> str:
    """The command that makes an empty overlay of that name: an image where it has an image's ending."""
    if source.endswith((".sif", ".sqfs", ".squashfs")):
        return ""
    name = source if source.endswith((".img", ".ext3")) else f"{source.rstrip('/')}/"
    return f"for an empty one: sifkit overlay create {name}"


def _ext(spec: LayerSpec, found: Probe) -> _Taken:
    note = f"{spec.source}: {'; '.join(found.notes)}" if found.notes else ""
    if spec.mode != "ro" and os.access(spec.source, os.W_OK):
        return _Taken(upper=ExtOverlay(found.section, fuse=spec.mode == "fuse"), warnings=(note,))
    if spec.mode in ("rw", "fuse"):
        brief = f"{spec.source}:{spec.mode} cannot be had"
        raise Failure(brief, "you may not write in this file", "use :ro, or a copy of it")
    from overlay.stack import image

    layer = ExtImage(found.section, image.top_directory(found.section))
    if spec.mode == "ro":
        return _Taken((layer,), warnings=(note,))
    warning = f"{spec.source} is used read-only: you may not write in this file"
    return _Taken((layer,), warnings=(warning,), demoted=True)


def _directory(spec: LayerSpec) -> _Taken:
    path = os.path.abspath(spec.source)
    upper = f"{path}/upper"
    try:
        names = set(os.listdir(path))
    except OSError as error:
        raise of_path(f"cannot use the overlay {spec.source}", error) from None
    if "upper" in names and not os.path.isdir(upper):
        raise Failure(f"cannot use the overlay {spec.source}", f"{upper} is not a directory")
    if spec.mode == "ro":
        return _Taken((Directory(upper if "upper" in names else path),))
    refusal = _not_writable(path, names)
    if not refusal:
        return _Taken(upper=Overlay(path))
    if spec.mode == "rw":
        raise Failure(f"{spec.source}:rw cannot be had", refusal, _remedy(names))
    layer = Directory(upper if "upper" in names else path)
    return _Taken((layer,), warnings=(f"{spec.source} is used read-only: {refusal}",), demoted=True)


def _not_writable(path: str, names: set[str]) -> str:
    if "upper" not in names and names - OURS:
        return "it has content of its own and no upper/, and that content would be hidden"
    for part in ("upper", "work"):
        if part in names and not os.access(f"{path}/{part}", os.R_OK | os.W_OK | os.X_OK):
            return f"you may not write in {path}/{part}"
    missing = {"upper", "work"} - names
    if missing and not os.access(path, os.W_OK | os.X_OK):
        return f"you may not write in {path}"
    return ""


def _remedy(names: set[str]) -> str:
    if "upper" not in names and names - OURS:
        return "use :ro, or a new directory (sifkit overlay create NEW/)"
    return "use :ro, or a directory of your own"
