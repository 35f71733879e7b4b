"""Images that are shown as directories: a squashfs, an ext3 file, or an object of a SIF image."""

from __future__ import annotations

import os

from overlay import probe
from overlay.failure import Failure, of_path
from overlay.section import Section
from overlay.stack.layer import ExtImage, ExtOverlay, SquashImage


def layer(path: str, number: int, readonly: bool, text: str) -> SquashImage | ExtImage | ExtOverlay:
    """What is in the image ``path``: an `ExtOverlay` when it may be written to and ``readonly`` was not asked for.

    ``number``: ID of the object of a SIF image, 0 for its first data partition. ``text``: as it was asked for.
    """
    try:
        found = probe.classify(path)
        if found.kind is probe.Kind.SIF:
            found = _object(path, number, text)
        elif number and not found.problem:
            raise Failure(text, f"{path} is a {found.kind}: only SIF images have objects with numbers")
    except OSError as error:
        raise of_path(f"{text}: cannot open {path}", error) from None
    if found.problem or not (found.is_ext or found.kind is probe.Kind.SQUASHFS):
        hint = "leave out image-src= and id=" if found.kind is probe.Kind.DIRECTORY else ""
        raise Failure(text, found.problem or f"{path} is a {found.kind}, not an image", hint)
    if not found.is_ext:
        return SquashImage(found.section)
    return ExtImage(found.section, "") if readonly or not os.access(path, os.W_OK) else ExtOverlay(found.section)


def _object(path: str, number: int, text: str) -> probe.Probe:
    """Object ``number`` of a SIF image, else its first data partition."""
    from sifkit import sif
    from sifkit.sif import PartType

    try:
        with sif.open(path) as opened:
            partitions = sorted((d for d in opened.objects if d.partition), key=lambda d: d.id)
            chosen = [
                d for d in partitions
                if (d.id == number if number else d.partition and d.partition.part == PartType.DATA)
            ]  # fmt: skip
            if not chosen:
                missing = f"no partition with ID {number}" if number else "no data partition"
                hint = f"sifkit sif list {path} shows what it has; id=N takes one"
                raise Failure(text, f"{path} has {missing}", hint)
            opened.require_inside(chosen[0])
            section = Section(path, chosen[0].offset, chosen[0].size)
    except sif.SifError as error:
        raise Failure(text, str(error), f"sifkit sif check {path} tells more") from None
    return probe.classify(path, section.offset, section.size)
