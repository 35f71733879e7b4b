"""Resizing an ext3 overlay partition inside a SIF image.

It grows where it is: what lies behind it is moved to the end of the file first, then its descriptor says the
new size (a partition may be longer than its file system), then the file system grows (`overlay.manage.resize_grow`).
It shrinks on a copy, or is rebuilt with more inodes, behind everything else; the descriptor is switched, the old place
becomes a hole, and the image is compacted, unless a run still uses it. Killed between any two of these, the image is
whole, and the overlay the old or the new one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from overlay.failure import Failure
from overlay.locks import lock
from overlay.manage import resize, resize_grow
from overlay.manage.resize import Resized, Wanted, Wish
from overlay.section import Section
from overlay.superblock import Superblock
from sifkit import sif
from sifkit.image.convert import scratch_file
from sifkit.sif import Descriptor, Edit, transfer
from sifkit.sif.integrity import is_signature, signed_groups
from sifkit.sif.objects import PARTITION_ALIGNMENT, next_aligned


class Embedded(NamedTuple):
    """``resized``, and ``gap``: why the image keeps a gap where the partition was, "" when it does not."""

    resized: Resized
    gap: str = ""


def resize_embedded(path: str, number: int, wish: Wish) -> Embedded:
    """Resize the ext3 overlay that is object ``number`` of the SIF image ``path``.

    Other objects keep IDs, order and times. Raises InUse, `Failure` (signed, in use, damaged), OSError, ToolError,
    ValueError.
    """
    path = os.path.realpath(path)
    brief = f"cannot resize object {number} of {path}"
    try:
        with sif.editing(path) as edit:
            old = edit.find(number)
            _require_unsigned(edit, old, brief)
            _claim(edit, old)
            done = _resize(edit, old, wish, brief)
        return Embedded(done, "" if done.in_place else _compact(path))
    except sif.InUse as error:
        raise Failure(brief, str(error), "wait until nothing of the image is in use") from None
    except sif.SifError as error:
        raise Failure(brief, str(error), f"sifkit sif check {path}") from None


def enlarge(section: Section, size: int, inodes: int = 0) -> Section:
    """Grow the ext3 overlay in ``section``, a whole file or a partition of a SIF image, to ``size`` bytes in place.

    With ``inodes`` it is rebuilt: a file under its name, a partition behind everything else in the image.

    Where it is then. For who holds its lock exclusively (`overlay.session.room.Enlarge`). Raises NoRoom with the reason
    when it cannot grow where it is, OSError, ToolError.
    """
    from overlay.session import room as session_room

    if not section.offset:
        return session_room.enlarge_file(section, size, inodes)
    path = os.path.realpath(section.path)
    if inodes:
        return _rebuilt(section, path, Wanted(size, inodes))
    try:
        with sif.editing(path) as edit:
            old = _at(edit, section.offset)
            if old is None:
                raise session_room.NoRoom("it is not where it was in the SIF image", size)
            _leave_signed(edit, old)
            sb = resize.sound(section)
            reserved = resize.allocated(edit.fd)
            _make_room(edit, old, size, "it cannot grow")
            after = resize.grown(section._replace(size=max(size, section.size)), size, reserved)
            if after is None:
                raise session_room.NoRoom("its features do not let it grow where it is", sb.size)
            return Section(section.path, section.offset, max(size, section.size))
    except sif.SifError as error:
        raise session_room.NoRoom(f"it cannot grow inside the SIF image: {error}", size) from None
    except Failure as failure:
        raise session_room.NoRoom(f"{failure.brief}: {failure.cause}", size) from None


def _rebuilt(section: Section, path: str, wanted: Wanted) -> Section:
    """The partition with more inodes, in another place, which stays locked as long as this process lives."""
    from overlay.session import room as session_room

    hint = f"sifkit overlay resize --inodes {wanted.inodes} {path}"
    try:
        with sif.editing(path) as edit:
            old = _at(edit, section.offset)
            if old is None:
                raise session_room.CannotRebuild("it is not where it was in the SIF image")
            _leave_signed(edit, old)
            kept = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            lock_it = partial(session_room.lock_for_good, kept)
            after = _by_copy(edit, old, section, resize.sound(section, thorough=True), wanted, lock_it)
            return Section(section.path, edit.find(old.id).offset, after.size)
    except sif.SifError as error:
        raise session_room.CannotRebuild(str(error), hint) from None
    except Failure as failure:
        raise session_room.CannotRebuild(failure.cause, hint) from None
    except PermissionError as error:
        raise session_room.CannotRebuild(f"its directory cannot be written ({error.strerror})", hint) from None


def _leave_signed(edit: Edit, old: Descriptor) -> None:
    from overlay.session import room as session_room

    signature = next((d for d in edit.objects.values() if is_signature(d)), None)
    if signature is not None and old.group in signed_groups(edit.objects.values()):
        cause = "it cannot grow: it is signed, and a change would break the signature"
        raise session_room.NoRoom(cause, hint=f"sifkit sif del --force {signature.id} {edit.path}")


def _at(edit: Edit, offset: int) -> Descriptor | None:
    return next((d for d in edit.objects.values() if d.offset == offset), None)


def _require_unsigned(edit: Edit, old: Descriptor, brief: str) -> None:
    if old.group in signed_groups(edit.objects.values()):
        hint = "use an overlay beside it: sifkit overlay create changes.img"
        raise Failure(brief, "it is signed, and a change would break the signature", hint)


def _claim(edit: Edit, descriptor: Descriptor) -> None:
    try:
        edit.claim(descriptor)
    except sif.InUse:
        section = Section(edit.path, descriptor.offset, descriptor.size)
        raise lock.InUse(edit.path, True, lock.holders(section)) from None


def _resize(edit: Edit, old: Descriptor, wish: Wish, brief: str) -> Resized:
    section = Section(edit.path, old.offset, old.size)
    sb = resize.sound(section)
    wanted = resize.wanted(sb, wish)
    size, inodes = wanted
    reserved = resize.allocated(edit.fd)
    if size == sb.size and not inodes:
        return Resized(sb, sb, True)
    if size is not None and size > sb.size and not inodes:
        _make_room(edit, old, size, brief)
        after = resize.grown(section._replace(size=max(size, old.size)), size, reserved)
        if after is not None:
            return Resized(sb, after, True)
        old = edit.find(old.id)
    resize.sound(section, thorough=True)
    return Resized(sb, _by_copy(edit, old, section, sb, wanted), False)


def _make_room(edit: Edit, old: Descriptor, size: int, brief: str) -> None:
    """Let the object be ``size`` bytes long; on disk when this returns, and not taken back any more."""
    end = old.offset + size
    at = max(edit.data_end(), end)
    if old.offset < edit.header.table_offset < end:
        cause = "the table of the image lies behind it"
        raise Failure(brief, cause, f"sifkit sif compact {edit.path} puts it to the front")
    for d in sorted(edit.objects.values(), key=lambda d: d.offset):
        if old.end <= d.offset < end:
            edit.claim(d)
            at = _move(edit, d, at)
    if size > old.size:
        edit.length = max(edit.length, at)
        if os.fstat(edit.fd).st_size < edit.length:
            os.ftruncate(edit.fd, edit.length)
        edit.put(old._replace(size=size, padded_size=old.padded_size - old.size + size, modified=edit.now))
        _settle(edit)


def _move(edit: Edit, d: Descriptor, at: int) -> int:
    """Copy an object to the first fitting place from ``at`` on; the byte behind it there."""
    aligned = d.partition is not None and d.offset % PARTITION_ALIGNMENT == 0
    start = next_aligned(at, PARTITION_ALIGNMENT if aligned else 0)
    transfer.copy(edit.fd, d.offset, edit.fd, start, d.size, zero_below=edit.length, flush=True)
    edit.put(d._replace(offset=start, padded_size=start - at + d.size))
    return start + d.size


def _settle(edit: Edit) -> None:
    end = max(d.end for d in edit.objects.values())
    edit.header = edit.header._replace(data_size=end - edit.header.data_offset, modified=edit.now)
    edit.commit()
    assert edit.guard is not None
    edit.guard.done()


def _by_copy(edit: Edit, old: Descriptor, section: Section, sb: Superblock, wanted: Wanted,
             before: Callable[[Section], None] | None = None) -> Superblock:  # fmt: skip
    """Write the file system anew behind everything else. ``before`` is told where, before anybody can find it."""
    with scratch_file(edit.path) as scratch:
        after = resize.fill(section, sb, scratch, wanted)
        at = edit.data_end()
        start = next_aligned(at, PARTITION_ALIGNMENT)
        transfer.copy(scratch, 0, edit.fd, start, after.size, zero_below=edit.length, flush=True)
    if before is not None:
        before(Section(edit.path, start, after.size))
    edit.length = max(edit.length, start + after.size)
    edit.put(old._replace(offset=start, size=after.size, padded_size=start - at + after.size, modified=edit.now))
    _settle(edit)
    others = [d for d in edit.objects.values() if d.offset < old.end and d.end > old.offset]
    if not others and not old.offset < edit.header.table_offset < old.end:
        resize_grow.zero(edit.fd, old.offset, old.size, edit.path, keep=False)
    return after


def _compact(path: str) -> str:
    """Take the gap out that the old partition left; why not, where that cannot be now."""
    try:
        sif.compact(path)
    except (sif.SifError, OSError) as error:
        return f"{error}; sifkit sif compact {path} takes the gap out"
    return ""
