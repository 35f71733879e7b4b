"""What an overlay is, how full, whose, in what state, and in use by whom: the facts, as data."""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from overlay import probe
from overlay.extread.reader import ExtError, ExtReader
from overlay.locks import lock
from overlay.locks.holder import Holder
from overlay.manage import edit_log
from overlay.section import Section
from overlay.session import pending as session_pending
from overlay.size import KIB, format_size
from overlay.superblock import Superblock

_NEARLY_FULL: Final = 0.05


class Info(NamedTuple):
    """``size`` and ``allocated`` are bytes (0 for a directory); ``ext`` is None for anything but ext2/3/4."""

    path: str
    offset: int
    kind: str
    size: int
    allocated: int
    state: str
    problem: str
    upper_owner: tuple[int, int] | None
    in_use: str  # "write", "read" or nothing
    holders: list[Holder]
    notes: list[str]
    ext: Superblock | None
    compression: str  # of a squashfs


def inspect(path: str, offset: int = 0, size: int | None = None) -> Info:
    """Look at a directory overlay or an image (``size`` bytes of ``path`` from ``offset`` on).

    Raises OSError when it is missing or unreadable; what is wrong with its contents is in ``problem``.
    """
    found = probe.classify(path, offset, size)
    target = path if found.kind is probe.Kind.DIRECTORY else found.section
    use = lock.in_use(target) if found.kind is probe.Kind.DIRECTORY or found.is_ext else ""
    notes = list(found.notes)
    state, owner, problem = "", None, found.problem
    if found.ext is not None and not problem:
        state = describe_state(found.ext, bool(use))
        if not use:
            notes += session_pending.remarks(found.section)
            state = (
                "an edit of it was cut off; the next use takes it back" if edit_log.cut_off(found.section) else state
            )
        try:
            owner = _image_owner(found.section)
            notes += _warnings(found.ext, owner)
            notes += _sessions(found.section) if use != "write" else []
        except ExtError as error:
            problem = f"damaged: {error}"
    elif found.kind is probe.Kind.DIRECTORY:
        owner = _directory_owner(path)
        problem = "" if owner else "no directory upper/ in it: not an overlay"
        host = os.statvfs(path)
        notes += _nearly_full("the file system it lies on", host.f_bavail, host.f_blocks, host.f_favail, host.f_files)
    allocated = 0 if found.kind is probe.Kind.DIRECTORY else os.stat(path).st_blocks * 512
    return Info(
        path, offset, str(found.kind), found.section.size, allocated, state, problem, owner, use,
        lock.holders(target) if use else [], notes, found.ext,
        found.squash.compression if found.squash else "",
    )  # fmt: skip


def _sessions(section: Section) -> list[str]:
    from overlay.session import pending as session_pending

    return [one.describe() for one in session_pending.find(section) if one.state != "done"]


def describe_state(ext: Superblock, used: bool) -> str:
    """The state the superblock records, in words."""
    if ext.has_errors:
        return "damaged: the driver recorded errors; check it (e2fsck)"
    if ext.clean:
        return "clean"
    if used:
        return "being written"
    if ext.needs_recovery:
        return "needs recovery: its last writer was killed, and the journal holds writes to replay"
    return "not clean: its last writer was killed; it is checked when it is next used"


def _image_owner(section: Section) -> tuple[int, int] | None:
    with ExtReader(section) as reader:
        upper = reader.lookup(b"/upper")
        return (upper.uid, upper.gid) if upper is not None and upper.is_directory else None


def _directory_owner(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(os.path.join(path, "upper"))
    except FileNotFoundError:
        return None
    return (found.st_uid, found.st_gid) if stat.S_ISDIR(found.st_mode) else None


def _not_yours(owner: int) -> str:
    """Of an image; sifkit makes the caller the owner of upper/ when it opens it for writing."""
    whose = "root (as for --fakeroot runs)" if owner == 0 else f"uid {owner}"
    return (
        f"its upper/ belongs to {whose}, you are uid {os.geteuid()}: Apptainer cannot write into it; "
        "sifkit overlay chown makes it yours"
    )


def _nearly_full(what: str, free_blocks: int, blocks: int, free_inodes: int, inodes: int) -> list[str]:
    said = []
    for name, free, all_ in (("blocks", free_blocks, blocks), ("inodes", free_inodes, inodes)):
        if all_ and free < all_ * _NEARLY_FULL:  # some file systems count none at all
            said.append(f"{what} is nearly full: few {name} are free")
    return said


def _warnings(ext: Superblock, owner: tuple[int, int] | None) -> list[str]:
    """What will hurt whoever uses it."""
    said = []
    if owner is None:
        said.append("it has no directory upper/; one is made when it is first written")
    elif os.geteuid() not in (0, owner[0]):
        said.append(_not_yours(owner[0]))
    if ext.block_size < 4 * KIB:
        said.append(f"its blocks of {format_size(ext.block_size)} make writing many small files slow")
    said += _nearly_full("it", ext.free_blocks - ext.reserved_blocks, ext.blocks, ext.free_inodes, ext.inodes)
    if ext.reserved_blocks > 1:  # one is how create keeps fuse2fs from withholding a tenth
        kept = format_size(ext.reserved_blocks * ext.block_size)
        said.append(f"{kept} are reserved for root (tune2fs -m 0 frees them)")
    return said
