"""SIF images to run, and overlays put into them."""

from __future__ import annotations

import os
from pathlib import Path

import images

from sifkit import sif

HERE = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}.get(os.uname().machine, "amd64")


def make_sif(path: Path, squash: Path, arch: str = HERE) -> Path:
    """A SIF image whose root file system is ``squash``."""
    sif.create(path, [sif.partition(squash, sif.FsType.SQUASHFS, sif.PartType.PRIMARY, arch)])
    return path


def add_squash(image: str, tree: Path, group: int = 1) -> int:
    """Add ``tree`` as a squashfs overlay partition; its ID."""
    squash = images.make_squash(tree, tree.with_suffix(".sqfs"))
    new = sif.partition(squash, sif.FsType.SQUASHFS, sif.PartType.OVERLAY, HERE, group=group)
    return sif.add(image, new).ids[0]


def add_ext3(image: str, path: Path, tree: Path | None = None, group: int = 1) -> int:
    """Add an ext3 overlay partition that holds ``tree`` as upper/; its ID."""
    made = images.make_overlay_image(path, tree)
    new = sif.partition(made, sif.FsType.EXT3, sif.PartType.OVERLAY, HERE, group=group)
    return sif.add(image, new).ids[0]


def tree_of(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path
