"""What an ext overlay's content asks of a driver, remembered so that opening it again need not read any of it.

The answer is kept in an attribute of the image's file, together with what identifies the image as of now: any write
to it changes that, and then the answer counts for nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat

from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.session import state as session

if TYPE_CHECKING:
    from typing import Final

    from overlay.extread.reader import ExtReader
    from overlay.extread.table import Inodes
    from overlay.section import Section
    from overlay.session.state import Identity

_ATTRIBUTE: Final = "user.sifkit.content."
_MOST_OWNERS: Final = 8
_FEW: Final = 64


class Content(NamedTuple):
    """``empty``: upper/ holds nothing. ``inodes``: in use in the whole image. ``owners``: their (uid, gid).

    ``size``: bytes they take on disk; where they are many, what the file system itself takes is in it.
    ``plain``: no deletion is spelt as the kernel does not read it. ``devices``: character devices, as whiteouts are.
    ``owner``: the uid of upper/, whose permissions are ``mode``; ``mtime_ns``: when it was changed; ``bare``: it has
    no extended attributes. ``trusted``: a replaced directory carries root's mark. ``attributes``: anything in the image
    has extended attributes.
    """

    empty: bool
    inodes: int
    size: int
    owners: frozenset[tuple[int, int]]
    plain: bool
    devices: bool
    owner: int
    mode: int
    mtime_ns: int
    bare: bool
    trusted: bool = False
    attributes: bool = True


def known(section: Section) -> Content | None:
    """The content of the image in ``section`` if it is remembered. Raises OSError, ExtError."""
    return _recall(section.path, session.identity(section))


def look(section: Section, *, remember: bool) -> Content:
    """The content of the image in ``section``; ``remember`` it if it had to be read. Raises OSError, ExtError."""
    there = session.identity(section)
    seen = _recall(section.path, there)
    if seen is None:
        seen = _read(section)
        if remember:
            _remember(section.path, there, seen)
    return seen


def committed(section: Section, before: Content) -> None:
    """Remember what the image holds after a commit of ours, which spells as the kernel does."""
    if before.plain:
        # A commit writes no mark of root's, but it may have removed one: then all of them are read again.
        _remember(section.path, session.identity(section), _read(section, plain=not before.trusted))


def _read(section: Section, *, plain: bool = False) -> Content:
    from overlay import whiteout
    from overlay.extread import table as extread_table
    from overlay.extread.reader import ExtReader

    with ExtReader(section) as reader:
        top = reader.lookup(b"/upper")
        if top is None or not top.is_directory:
            return Content(True, 0, 0, frozenset(), True, False, -1, 0o755, 0, False)
        empty = not any(True for _ in reader.listdir(top))
        about = (top.uid, stat.S_IMODE(top.mode), top.mtime_ns, not reader.xattrs(top))
        if empty:
            return Content(True, 0, 0, frozenset(), True, False, *about)
        found = extread_table.survey(section)
        trusted = False
        if not plain and not (plain := _unmarked(reader, found)):
            spelt = whiteout.scan_image(reader)
            trusted = any(whiteout.ROOT_MARK in marks for marks in spelt.opaque.values())
            plain = not spelt.markers and all(whiteout.KERNEL_MARK in marks for marks in spelt.opaque.values())
        sb = reader.superblock
        size = (sb.blocks - sb.free_blocks) * sb.block_size
        if found.number <= _FEW:
            size = sum(inode.sectors * 512 for _, inode in reader.walk(b"/upper"))
    seen = Content(False, found.number, size, found.owners, plain, found.devices, *about, trusted)
    return seen._replace(attributes=found.attributes)


def _unmarked(reader: ExtReader, found: Inodes) -> bool:
    """Whether a look at raw blocks shows that no name and no attribute marks anything: no need to read all names."""
    from overlay.whiteout import PREFIX

    if found.attributes:
        return False
    blocks = (block for number in found.directories for block in reader.directory_blocks(reader.inode(number)))
    return not any(PREFIX in block for block in blocks)


def _remember(path: str, there: Identity, seen: Content) -> None:
    if len(seen.owners) > _MOST_OWNERS or seen.owner < 0:
        return
    owners = ",".join(f"{uid}:{gid}" for uid, gid in sorted(seen.owners))
    flags = f"{seen.empty:d}{seen.plain:d}{seen.devices:d}{seen.bare:d}{seen.trusted:d}{seen.attributes:d}"
    text = f"{there.superblock} {flags} {seen.inodes} {seen.size} {seen.owner} {seen.mode} {seen.mtime_ns} {owners}"
    with contextlib.suppress(OSError):  # a convenience
        os.setxattr(path, _ATTRIBUTE + there.uuid, text.encode())


def _recall(path: str, there: Identity) -> Content | None:
    try:
        checksum, flags, inodes, size, owner, mode, mtime, owners = (
            os.getxattr(path, _ATTRIBUTE + there.uuid).decode().split(" ")
        )
        if checksum != there.superblock:
            return None
        empty, plain, devices, bare, trusted, attributes = (flag == "1" for flag in flags)
        pairs = [owner.split(":") for owner in owners.split(",")] if owners else []
        given = frozenset((int(uid), int(gid)) for uid, gid in pairs)
        about = (int(owner), int(mode), int(mtime), bare, trusted, attributes)
        return Content(empty, int(inodes), int(size), given, plain, devices, *about)
    except (OSError, ValueError):
        return None
