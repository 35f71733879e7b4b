"""Whether an ext3 overlay can be staged, where its session would lie, and how what it holds is shown meanwhile."""

from __future__ import annotations

import os

from overlay.failure import Failure
from overlay.features import without
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.session import place as session_place
from overlay.stack import content as contents
from overlay.superblock import ExtError

if TYPE_CHECKING:
    from overlay.section import Section
    from overlay.session.place import Place
    from overlay.stack.content import Content
    from overlay.stack.layer import ExtOverlay
    from sifkit.runtime.plan import Plan

# Unpacked rather than mounted: measured, 30 files take as long to unpack as fuse2fs to start (docs/staged-writes.md).
SMALL_INODES, SMALL_BYTES = 30, 1 << 20
# As much of it would be unpacked where FUSE cannot show it.
MOST_INODES, MOST_BYTES = 50_000, 2 << 30


class Look(NamedTuple):
    """Whether and how an ext3 overlay can be staged. ``refusal``: why not. ``lower``: how its content is read.

    ``unpack``: by our own reader, into the session.
    """

    place: Place
    content: Content
    refusal: str = ""
    lower: str = ""
    unpack: bool = False


def look(plan: Plan, upper: ExtOverlay, fuse: bool) -> Look:
    """What is to be known before choosing. ``fuse``: a FUSE server could show the content.

    `Failure` when --session-dir is given and does not serve.
    """
    section = upper.section
    try:
        content = contents.look(section, remember=True)
        unfit = _unfit(section)
    except (OSError, ExtError) as error:
        raise Failure(f"cannot read {upper.describe()}", str(error), f"sifkit overlay check {section.path}") from None
    place = session_place.choose(section, plan.staging.directory)
    if plan.staging.directory and not place.root:
        raise Failure(f"--session-dir {plan.staging.directory} cannot be used", place.why_not, "name another directory")
    refusal = unfit or ("" if place.root else f"no place for a session: {place.why_not}")
    lower, unpack = _how(content, fuse, not plan.privileged and bool(_others(content, plan)))
    if not lower:
        refusal = refusal or _not_shown(content, plan, fuse)
    return Look(place, content, refusal, lower, unpack)


def _unfit(section: Section) -> str:
    """Why a commit could not write into the image; "": it can."""
    from overlay import superblock
    from overlay.extwrite import fit as ext_fit

    fd = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _no_library() or ext_fit.refusal(superblock.read(fd, section.offset))
    finally:
        os.close(fd)


def _no_library() -> str:
    """Why libext2fs cannot be had. e2fsprogs comes with it, and looking for a program is faster than loading it."""
    from overlay import tools

    if tools.find("e2fsck") and not without("libext2fs"):
        return ""
    from overlay import libext2fs

    try:
        libext2fs.load()
    except Failure as failure:
        return failure.cause
    return "SIFKIT_DEBUG_WITHOUT says so: no libext2fs" if without("libext2fs") else ""


def _others(content: Content, plan: Plan) -> list[tuple[int, int]]:
    """The owners of what is in the image for whom the namespace has no id. Ids in an image are those of the inside."""
    if plan.ids is None:
        return sorted(content.owners - {(plan.who.uid, plan.who.gid)})
    return sorted(pair for pair in content.owners if not plan.ids.inside(*pair))


def _how(content: Content, fuse: bool, foreign: bool) -> tuple[str, bool]:
    """How the image's content becomes a layer, in words ("": it cannot), and whether by unpacking.

    ``foreign``: some of it belongs to others.
    """
    if content.empty:
        return "the image is empty, so it is no layer", False
    if content.inodes <= SMALL_INODES and content.size <= SMALL_BYTES:
        return "the little that is in it is unpacked", True
    shown = fuse and not foreign
    if shown and not content.trusted:
        return "what is in it is read through FUSE", False
    if content.inodes <= MOST_INODES and content.size <= MOST_BYTES:
        why = "belongs to others" if foreign else "cannot be mounted without FUSE"
        if shown:  # through FUSE the kernel does not take root's marks for its own
            why = "has marks of root's"
        return f"what is in it {why} and is unpacked", True
    return ("what is in it is read through FUSE", False) if shown else ("", False)


def _not_shown(content: Content, plan: Plan, fuse: bool) -> str:
    if fuse:
        uid, gid = _others(content, plan)[0]
        return f"files in it belong to {uid}:{gid}; you could not change them (sifkit overlay chown gives them to you)"
    return f"without FUSE its {content.inodes} files would have to be unpacked"
