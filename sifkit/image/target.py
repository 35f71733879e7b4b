"""TARGET of ``sifkit overlay``: what holds an overlay, and a path in it.

    TARGET   directory overlay | ext image | squashfs | image.sif | image.sif#ID
    TARGET:/path

``image.sif`` is its overlay partition; of several the lowest ext3 one of the root's group, which is the one
that runs write; ``#ID`` names any partition. The path begins at the last ``:/`` whose left side exists,
because names of image directories hold colons.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from overlay import probe
from overlay.failure import Failure, of_path
from overlay.probe import Kind, Probe
from overlay.section import Section

if TYPE_CHECKING:
    from overlay.tree.view import DirectoryTree, Tree
    from sifkit.sif import Descriptor, Image

_PARTITION = re.compile(r"(.+)#([0-9]{1,9})")


class Target(NamedTuple):
    """``text``: as written. ``path``: the directory or file; ``found``: what it, or the partition, holds.

    ``partition``: the ID of the SIF object, 0 when it is no SIF; ``group``: its group, 0 for none;
    ``partitions``: all overlay partitions there.
    """

    text: str
    path: str
    found: Probe
    partition: int = 0
    partitions: tuple[int, ...] = ()
    group: int = 0

    @property
    def kind(self) -> Kind:
        return self.found.kind

    @property
    def section(self) -> Section:
        """Its bytes; of a directory its path and no bytes."""
        return self.found.section

    @property
    def is_directory(self) -> bool:
        return self.kind is Kind.DIRECTORY

    @property
    def is_ext(self) -> bool:
        return self.found.is_ext

    def describe(self) -> str:
        """Its kind and place, for messages."""
        return f"partition {self.partition} of {self.path}" if self.partition else self.path


def split(text: str) -> tuple[str, str | None]:
    """``TARGET:/path`` as (TARGET, /path), at the last ``:/`` whose left side exists; (text, None) without one."""
    at = text.rfind(":/")
    while at > 0:
        if _exists(text[:at]):
            return text[:at], text[at + 1 :]
        at = text.rfind(":/", 0, at)
    return text, None


def _exists(text: str) -> bool:
    if os.path.lexists(text):
        return True
    match = _PARTITION.fullmatch(text)
    return match is not None and os.path.isfile(match[1])


def resolve(text: str) -> Target:
    """What ``text`` (without ``:/path``) names. `Failure` when there is nothing, or nothing that can be an overlay.

    A directory must have ``upper/`` in it.
    """
    found = look(text)
    if found.found.problem:
        raise Failure(f"cannot use {text}", found.found.problem, _hint(found))
    if found.is_directory and not os.path.isdir(os.path.join(found.path, "upper")):
        raise Failure(
            f"{text} is not an overlay", "there is no directory upper/ in it",
            f"sifkit overlay create {text}/ makes it one" if not os.listdir(found.path) else "",
        )  # fmt: skip
    return found


def look(text: str) -> Target:
    """As `resolve`, but what is wrong with the contents stays in ``found.problem``."""
    if not text:
        raise Failure("the overlay has no name", "TARGET is empty", exit_code=2)
    path, number = text, 0
    match = _PARTITION.fullmatch(text)
    if match is not None and not os.path.lexists(text):
        path, number = match[1], int(match[2])
    try:
        found = probe.classify(path)
    except FileNotFoundError:
        raise Failure(f"no overlay {text}", f"there is no {path}", f"sifkit overlay create {text} makes one") from None
    except OSError as error:
        raise of_path(f"cannot open {text}", error) from None
    if found.kind is Kind.SIF:
        return _in_sif(text, path, number)
    if number:
        raise Failure(f"cannot use {text}", f"{path} is no SIF image, so it has no partition {number}", exit_code=2)
    return Target(text, path, found)


def _hint(target: Target) -> str:
    if target.partition:
        return f"sifkit sif check {target.path} tells more"
    return f"e2fsck -f {target.section.spec}" if target.is_ext else ""


def _in_sif(text: str, path: str, number: int) -> Target:
    from sifkit import sif

    try:
        with sif.open(path) as opened:
            chosen, overlays = _partition(opened, text, path, number)
            opened.require_inside(chosen)
            found = probe.classify(path, chosen.offset, chosen.size)
    except sif.SifError as error:
        raise Failure(f"cannot use {text}", str(error), f"sifkit sif check {path} tells more") from None
    except OSError as error:
        raise of_path(f"cannot open {text}", error) from None
    return Target(text, path, found, chosen.id, overlays, chosen.group_id)


def _partition(opened: Image, text: str, path: str, number: int) -> tuple[Descriptor, tuple[int, ...]]:
    """The object that is meant, and the IDs of all overlay partitions."""
    from sifkit.sif import FsType, PartType

    parts = sorted((d for d in opened.objects if d.partition), key=lambda d: d.id)
    overlays = [d for d in parts if d.partition and d.partition.part == PartType.OVERLAY]
    ids = tuple(d.id for d in overlays)
    listing = f"sifkit sif list {path} shows what it has"
    if number:
        named = next((d for d in opened.objects if d.id == number), None)
        if named is None:
            raise Failure(f"cannot use {text}", f"{path} has no object {number}", listing)
        if not named.partition:
            raise Failure(f"cannot use {text}", f"object {number} is no partition", listing)
        if named.partition.fs in (FsType.ENCRYPTED_SQUASHFS, FsType.GOCRYPTFS_SQUASHFS):
            raise Failure(f"cannot use {text}", "this partition is encrypted")
        return named, ids
    if not overlays:
        hint = f"sifkit overlay create {path} adds one; {path}#ID names another partition"
        raise Failure(f"cannot use {text}", "this SIF image has no overlay partition", hint)
    primary = next((d for d in parts if d.is_primary), None)
    shown = [d for d in overlays if primary is not None and d.group_id == primary.group_id] or overlays
    ext = next((d for d in (*shown, *overlays) if d.partition and d.partition.fs == FsType.EXT3), None)
    return ext or shown[0], ids


def layer(target: Target, of_directory: type[DirectoryTree] | None = None) -> Tree:
    """The upper layer of an overlay, to read: ``upper/`` where it has one, else all of it (squashfs, `#ID`).

    ``of_directory``: what reads directories instead of `DirectoryTree`. `Failure` for what cannot be read.
    """
    return _opened(target, target.text, upper=True, of_directory=of_directory)


def whole(target: Target) -> Tree:
    """All that holds the overlay, ``upper/`` and what lies beside it. `Failure` for what cannot be read."""
    return _opened(target, target.text, upper=False)


def base(reference: str) -> Tree:
    """The root file system IMAGE, to read: a directory, a squashfs or ext file, a SIF image (or ``SIF#ID``)."""
    path, number = reference, 0
    if not os.path.lexists(reference) and (match := _PARTITION.fullmatch(reference)):
        path, number = match[1], int(match[2])
    try:
        found = probe.classify(path)
        if found.kind is Kind.SIF and not number:
            number = _primary(path)
        target = _in_sif(reference, path, number) if number else Target(reference, path, found)
    except OSError as error:
        raise of_path(f"cannot open the image {reference}", error) from None
    if target.found.problem:
        raise Failure(f"cannot use the image {reference}", target.found.problem)
    from sifkit.image.base_directory import BaseDirectory

    return _opened(target, reference, upper=False, of_directory=BaseDirectory)


def _primary(path: str) -> int:
    from sifkit import sif

    try:
        with sif.open(path) as opened:
            primary = opened.primary
    except sif.SifError as error:
        raise Failure(f"cannot use the image {path}", str(error), f"sifkit sif check {path} tells more") from None
    if primary is None:
        raise Failure(f"cannot use the image {path}", "it has no root file system (no primary system partition)")
    return primary.id


def _opened(target: Target, text: str, *, upper: bool, of_directory: type[DirectoryTree] | None = None) -> Tree:
    try:
        if target.is_directory:
            from overlay.stack.upper import marks
            from overlay.tree.view import DirectoryTree

            found = (of_directory or DirectoryTree)(os.path.join(target.path, "upper") if upper else target.path)
            found.opaque_marks = marks(target.path)
            return found
        from overlay.tree.image import ExtTree, SquashTree

        if target.kind is Kind.SQUASHFS:
            from sifkit.image.zstd import unzstd

            return SquashTree(target.section, unzstd)
        if target.is_ext:
            return ExtTree(target.section, inside=b"/upper" if upper else b"")
    except OSError as error:
        raise of_path(f"cannot open {text}", error) from None
    except ValueError as error:  # ExtError, SquashError
        raise Failure(f"cannot read {text}", f"it is damaged: {error}", _hint(target)) from None
    raise Failure(f"cannot use {text}", f"it is a {target.kind} file")
