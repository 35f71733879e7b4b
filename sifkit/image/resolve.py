"""From the IMAGE of a command line to the layer that is the root file system."""

from __future__ import annotations

import os

from overlay.failure import Failure, last_directory, of_path
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.stack.layer import Directory, Lower, SquashImage

if TYPE_CHECKING:
    from sifkit.image.sif import Partition


class Image(NamedTuple):
    """``reference``: as the user wrote it. ``path``: absolute. ``layer``: the root file system.

    ``is_sif``: and then ``embedded``: overlay partitions that come with it, lowest first; ``strays``: those not in
    ``group``, the root's.
    """

    reference: str
    path: str
    layer: Lower
    is_sif: bool = False
    embedded: tuple[Partition, ...] = ()
    strays: tuple[Partition, ...] = ()
    group: int = 0


def resolve(reference: str) -> Image:
    """Find the root file system that ``reference`` names. `Failure` says what it is instead, if it is none."""
    if not reference:
        raise Failure("the image has no name", "IMAGE is empty", "name a directory, a SIF or a squashfs file")
    path = os.path.abspath(reference)
    # Looking also wakes an autofs mount, which could not be entered from a private mount namespace.
    if os.path.isdir(path):
        return Image(reference, path, _directory(reference, path))
    return _file(reference, path)


def _file(reference: str, path: str) -> Image:
    from overlay import probe  # only for images: a directory must not pay for it

    try:
        found = probe.classify(path)
    except FileNotFoundError:
        if ":" in reference:
            from sifkit.image import uri

            uri.refuse(reference)
        raise Failure(f"no image {reference}", "there is no such file or directory", last_directory(path)) from None
    except OSError as error:
        raise of_path(f"cannot open the image {reference}", error) from None
    if found.problem:
        raise Failure(f"cannot run {reference}", found.problem)
    if found.kind is probe.Kind.SQUASHFS:
        return Image(reference, path, SquashImage(found.section))
    if found.kind is probe.Kind.SIF:
        from sifkit.image import sif

        inside = sif.contents(path)
        return Image(reference, path, inside.root, True, inside.overlays, inside.strays, inside.group)
    raise Failure(
        f"cannot run {reference}",
        f"it is an {found.kind} file, and as IMAGE that is not supported",
        f"use it as an overlay on another image: --overlay {reference}",
    )


def _directory(reference: str, path: str) -> Directory:
    if not os.access(path, os.R_OK | os.X_OK):
        raise Failure(f"cannot open the image {reference}", "you may not read this directory")
    return Directory(os.path.realpath(path))
