"""New overlays: an ext3 image that every driver and Apptainer take, or a directory.

Layout of both: ``upper/`` (the changes) and ``work/`` (overlayfs's own), mode 0755. In an image they belong
to ``owner``, and ``/`` and ``lost+found/`` to root, as Apptainer makes them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from overlay import e2fsprogs, newfile
from overlay.section import Section
from overlay.size import MIB, format_size

if TYPE_CHECKING:
    from overlay.superblock import Superblock

BLOCK_SIZE: Final = 4096
SMALLEST: Final = 16 * MIB  # mke2fs: the journal, 4 MiB at least, may not fill half of the free blocks
# Only what Apptainer's loader accepts (compat: a journal; incompat: filetype; ro_compat: these two).
FEATURES: Final = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file"

_SMALL: Final = 512 * MIB  # below this mke2fs, and so Apptainer, gives an inode for every 4 KiB
INODE_SIZE: Final = 256
_NAME_MAX: Final = 255
_LABEL_MAX: Final = 16


class Created(NamedTuple):
    """What was made. ``reserved``: the space is really allocated; False if sparse or the host cannot."""

    section: Section
    reserved: bool


def create_ext3(
    path: str,
    size: int,
    *,
    dirs: Iterable[str] = (),
    sparse: bool = False,
    inodes: int | None = None,
    bytes_per_inode: int | None = None,
    owner: tuple[int, int] | None = None,
    label: str | None = None,
    fill: Callable[[Section], None] | None = None,
) -> Created:
    """Make ``path``, a new ext3 overlay image of ``size`` bytes (cut to whole 4 KiB blocks), mode 0600.

    ``dirs`` are made below upper/. ``inodes`` wins over ``bytes_per_inode`` (default: 4 KiB below 512 MiB, as
    Apptainer has it, else 16 KiB). ``owner`` (uid, gid; default: the caller) owns upper/, work/ and ``dirs``.
    ``fill`` is called with the image before it gets its name.
    Nothing that exists is replaced, no neighbour touched, and nothing is left behind when it fails.

    Raises FileExistsError and other OSError (ENOSPC), ValueError for a bad size or directory name, ToolError
    when mke2fs or debugfs refuses, Failure when they are missing.
    """
    with newfile.new_file(path, 0o600) as fresh:
        section = Section(f"{e2fsprogs.FD_PREFIX}{fresh.fd}", 0, _whole_blocks(size))
        plan = _directories(dirs)
        os.truncate(fresh.fd, section.size)
        reserved = not sparse and _reserve(fresh.fd, section, path)
        # On a fresh sparse file discarding is free, and tells mke2fs that what it would zero is zero already.
        try:
            _format(section, inodes, bytes_per_inode, label, discard=sparse)
            _populate(section, plan, owner)
        except e2fsprogs.ToolError as error:
            said = error.said.replace(section.path, path)
            raise e2fsprogs.ToolError(error.program, path, error.status, said) from None
        if fill is not None:
            fill(section)
        fresh.publish()
        return Created(section._replace(path=path), reserved)


def format_ext3(
    section: Section,
    *,
    dirs: Iterable[str] = (),
    sparse: bool = False,
    inodes: int | None = None,
    bytes_per_inode: int | None = None,
    owner: tuple[int, int] | None = None,
    label: str | None = None,
) -> Created:
    """`create_ext3` inside an existing file: whatever the section held is destroyed, nothing outside it is.

    The caller holds the lock. Stale bytes are dropped first, as holes when ``sparse``.
    """
    whole = section._replace(size=_whole_blocks(section.size))
    plan = _directories(dirs)
    fd = os.open(section.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        # mke2fs would extend a file that is too short, and truncate nothing: the size is checked here.
        if os.fstat(fd).st_size < section.offset + section.size:
            raise OSError(errno.EINVAL, "the file ends inside the section", section.path)
        reserved = _clear(fd, section, sparse)
    finally:
        os.close(fd)
    _format(whole, inodes, bytes_per_inode, label, discard=False)
    _populate(whole, plan, owner)
    return Created(section, reserved and not sparse)


def format_like(section: Section, old: Superblock, inodes: int) -> None:
    """Make the zeroed ``section`` an empty file system with label and UUID of ``old`` and room for ``inodes`` files.

    Without upper/ and work/. Raises ToolError: more inodes than its size can have.
    """
    label = os.fsdecode(old.label) or None
    digits = old.uuid.hex()
    uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    _format(section, inodes, None, label, discard=True, uuid=uuid)
    e2fsprogs.debugfs(section, [[b"set_super_value", b"r_blocks_count", b"1"]], write=True)


def create_directory(path: str, *, dirs: Iterable[str] = ()) -> None:
    """Make ``path`` a directory overlay: upper/, work/ and ``dirs`` below upper/, mode 0755, the caller's.

    A missing ``path`` is made complete under another name and renamed; an existing one must be empty.
    Raises FileExistsError, OSError(ENOTEMPTY), other OSError, ValueError for a bad directory name.
    """
    plan = [os.fsdecode(name) for name in _directories(dirs)]
    if os.path.isdir(path):
        if os.listdir(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        _fill(path, plan)
        return
    with newfile.new_directory(path) as fresh:
        _fill(fresh, plan)


def _fill(top: str, plan: list[str]) -> None:
    """Make the directories ``plan`` below ``top``, all or none."""
    made: list[str] = []
    try:
        for name in plan:
            os.mkdir(top + name, 0o755)
            made.append(top + name)
            os.chmod(top + name, 0o755)  # the umask and a parent's setgid bit have no say
    except BaseException:
        for name in reversed(made):
            os.rmdir(name)
        raise


def _whole_blocks(size: int) -> int:
    if size < SMALLEST:
        raise ValueError(f"{size} bytes are too few for an ext3 overlay; the least is {SMALLEST}")
    return size - size % BLOCK_SIZE


def _directories(dirs: Iterable[str]) -> list[bytes]:
    """Every directory to make, parents first, as absolute names inside the overlay."""
    plan = {b"/upper": None, b"/work": None}
    for wanted in dirs:
        name = b"/upper"
        for part in _parts(wanted):
            name += b"/" + part
            plan[name] = None
    return list(plan)


def _parts(wanted: str) -> Iterator[bytes]:
    for part in os.fsencode(wanted).split(b"/"):
        if part == b"..":
            raise ValueError(f"directory {wanted!r} leads out of the overlay's upper directory")
        if part.startswith(b".wh."):
            raise ValueError(f"directory {wanted!r}: names beginning with .wh. mark deletions in overlays")
        if len(part) > _NAME_MAX or b"\0" in part:
            raise ValueError(f"directory {wanted!r}: not a possible file name")
        if part not in (b"", b"."):
            yield part


def _reserve(fd: int, section: Section, path: str) -> bool:
    """Allocate the file's blocks without writing them; False where the file system cannot (NFS 3)."""
    from overlay import linux_file

    try:
        linux_file.fallocate(fd, 0, 0, section.size, path)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    return True


def _clear(fd: int, section: Section, sparse: bool) -> bool:
    """Make the section read as zeros without writing them; False where the file system cannot."""
    from overlay import linux_file

    mode = linux_file.FALLOC_PUNCH_HOLE if sparse else linux_file.FALLOC_ZERO_RANGE
    try:
        linux_file.fallocate(fd, mode | linux_file.FALLOC_KEEP_SIZE, section.offset, section.size, section.path)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    return True


def _journal_mib(size: int) -> int:
    """MiB of journal. mke2fs would take 32 of 1 GiB and write them all, two thirds of the time of a create.

    Only the kernel driver, root's way, writes to the journal at all; 16 MiB hold four of its commits.
    """
    return 4 if size < _SMALL else 16


def _format(
    section: Section, inodes: int | None, bytes_per_inode: int | None, label: str | None, *,
    discard: bool, uuid: str = "",
) -> None:  # fmt: skip
    if inodes is not None and inodes * INODE_SIZE > section.size:
        need = format_size(inodes * INODE_SIZE)
        raise ValueError(f"{inodes} inodes alone take {need}, and the size is {format_size(section.size)}")
    count = ["-N", str(inodes)] if inodes is not None else ["-i", str(bytes_per_inode or usual_ratio(section.size))]
    if label is not None and len(os.fsencode(label)) > _LABEL_MAX:
        raise ValueError(f"label {label!r} is longer than {_LABEL_MAX} bytes")
    name = ["-L", label] if label is not None else []
    name += ["-U", uuid] if uuid else []
    e2fsprogs.mke2fs(
        section,
        *("-O", FEATURES, "-I", str(INODE_SIZE), "-m", "0", "-J", f"size={_journal_mib(section.size)}", *count, *name),
        extended=["discard" if discard else "nodiscard"],
        block_size=BLOCK_SIZE,
    )


def usual_ratio(size: int) -> int:
    """Bytes for each inode of an image of ``size`` bytes, unless one asks for something else."""
    return 4096 if size < _SMALL else 16384


def _populate(section: Section, plan: list[bytes], owner: tuple[int, int] | None) -> None:
    """Make the directories and give them to ``owner``.

    By debugfs, not by ``mke2fs -d TREE``: that needs a directory tree on the host, which a kill leaves
    behind, and which an ordinary user cannot give to another owner; older ones also cut uids to 16 bits.
    """
    uid, gid = (os.geteuid(), os.getegid()) if owner is None else owner
    commands: list[list[bytes]] = []
    for name in plan:
        commands.append([b"mkdir", name])
        commands.append([b"set_inode_field", name, b"uid", b"%d" % uid])
        commands.append([b"set_inode_field", name, b"gid", b"%d" % gid])
    # One block, for where none is reserved fuse2fs (1.47) withholds a tenth of the whole from its users.
    commands.append([b"set_super_value", b"r_blocks_count", b"1"])
    e2fsprogs.debugfs(section, commands, write=True)
