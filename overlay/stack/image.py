"""What must hold of an ext image before it is mounted, and what is to be said of it afterwards.

The caller holds the image's lock: exclusively for everything that writes.
"""

from __future__ import annotations

import os
import stat

from overlay import e2fsprogs, superblock, whiteout
from overlay.extread.reader import ExtError, ExtReader
from overlay.failure import Failure
from overlay.manage import check
from overlay.section import Section
from overlay.size import MIB

_FEW_INODES, _FEW_BYTES = 8, 1 << 20


def top_directory(section: Section) -> str:
    """The directory of a read-only image that is the layer: "upper", or "" (all of it) when there is none."""
    try:
        with ExtReader(section) as reader:
            found = reader.lookup(b"/upper")
    except ExtError as error:
        raise Failure(f"cannot read {section.describe()}", f"it is damaged: {error}", _repair(section)) from None
    return "upper" if found is not None and stat.S_ISDIR(found.mode) else ""


def make_sound(section: Section) -> str:
    """Check an image that its last writer did not leave properly, and mend it: what was done, "" if nothing.

    `Failure`, with the command to run, for what cannot be mended without a decision of the user.
    """
    try:
        if not check.needs_check(section):
            return ""
    except ExtError as error:
        raise Failure(f"cannot use {section.describe()}", f"it is damaged: {error}", _repair(section)) from None
    verdict = check.check(section, mend=True)
    if not verdict.usable:
        details = "; ".join(verdict.details[:3])
        cause = f"{verdict.summary} ({details})" if details else verdict.summary
        raise Failure(f"cannot use {section.describe()}", cause, verdict.command or _repair(section))
    return verdict.summary


def left_properly(section: Section) -> bool:
    """Whether the last writer of the image ended as it should. Raises OSError."""
    try:
        return not check.needs_check(section)
    except ExtError:
        return False


def make_directories(section: Section, uid: int, gid: int) -> list[str]:
    """Make upper/ and work/ where the image lacks them, and give them to ``uid``:``gid``; what was done.

    Without mounting, so that an image made by hand, whose top directory is root's, works for everybody. Root
    (uid 0) takes no directory from its owner.
    """
    done, commands = [], []
    with ExtReader(section) as reader:
        for name in (b"upper", b"work"):
            found = reader.lookup(name)
            if found is not None and not stat.S_ISDIR(found.mode):
                raise Failure(f"cannot use {section.describe()}", f"{name.decode()} in it is not a directory")
            if found is not None and (uid in (0, found.uid)):
                continue
            if found is None:
                commands.append([b"mkdir", name])
                done.append(f"made {name.decode()}/ in it")
            else:
                done.append(f"{name.decode()}/ in it belonged to uid {found.uid}, now to you; what is in it still does")
            commands += [[b"set_inode_field", name, b"uid", b"%d" % uid]]
            commands += [[b"set_inode_field", name, b"gid", b"%d" % gid]]
    if commands:
        e2fsprogs.debugfs(section, commands, write=True)
    return done


def owner(section: Section) -> tuple[int, int] | None:
    """The uid and gid of upper/, or None when there is none. Raises OSError, ExtError."""
    with ExtReader(section) as reader:
        found = reader.lookup(b"/upper")
    return (found.uid, found.gid) if found is not None else None


def unify_whiteouts(section: Section, upper: str) -> None:
    """Bring the image's upper, mounted for writing at ``upper``, into the kernel's spelling if it has another."""
    with ExtReader(section) as reader:
        found = whiteout.scan_image(reader)
    if found.markers or any(whiteout.KERNEL_MARK not in marks for marks in found.opaque.values()):
        whiteout.normalise_directory(upper)


def ran_out(section: Section) -> str:
    """What the image has run out of, and how to give it more; "" when there is room. Raises OSError."""
    descriptor = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        facts = superblock.read(descriptor, section.offset)
    except ExtError:
        return ""
    finally:
        os.close(descriptor)
    if facts.free_inodes <= _FEW_INODES:
        what = f"inodes ({facts.inodes} in all, each file needs one)"
        more = f"--inodes {2 * facts.inodes}"
    elif (facts.free_blocks - _withheld(facts)) * facts.block_size <= _FEW_BYTES:
        what = f"space ({facts.size // MIB} MiB in all)"
        more = "--size +1G"
    else:
        return ""
    import shlex

    # Of a SIF image that names the partition which runs write.
    grow = f"sifkit overlay resize {more} {shlex.quote(section.path)}"
    return f"{section.describe()} has run out of {what}; to grow it: {grow}"


def _withheld(facts: superblock.Superblock) -> int:
    """Blocks that fuse2fs keeps back from an ordinary user: those reserved, or a tenth of all where none are."""
    if os.geteuid() == 0:
        return 0
    return facts.reserved_blocks or facts.blocks // 10


def _repair(section: Section) -> str:
    return f"e2fsck -f {section.spec}"
