"""Mounting an overlay: the kernel's by fsconfig(2) or by mount(2), or fuse-overlayfs.

fsconfig takes every layer as an option of its own: no escaping, paths of up to 255 bytes, and up to 500 of them.
Before Linux 6.8 (`lowerdir+`) mount(2) takes them as one text of at most a page, in which `:`, `,` and `\\` mean
something; there, and for longer paths, the layers get short names, numbered symbolic links. fuse-overlayfs 1.10
cannot escape, and splits what links resolve to: layers with such names are bind-mounted at plain ones.

Always with `userxattr`, for root too: one spelling of marks, so that what root wrote an ordinary user reads.
"""

from __future__ import annotations

import os

from overlay import linux, tools
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from overlay.stack.fuse import Server

MOST_LAYERS = 500  # OVL_MAX_STACK, fs/overlayfs/params.h


_LONGEST = 255  # bytes that fsconfig(2) takes of a text


class Parts(NamedTuple):
    """Directories of one overlay. ``lowers``: topmost first. ``upper`` and ``work``: both or neither ("").

    ``data``: data-only, seen only where files of the lowest of ``lowers`` say that their content is there.
    """

    lowers: tuple[str, ...]
    upper: str = ""
    work: str = ""
    data: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether fsconfig(2) takes every path as it is: short, and without what it unescapes in upperdir."""
        paths = (*self.lowers, *self.data, self.upper, self.work)
        return "\\" not in self.upper and all(len(os.fsencode(path)) <= _LONGEST for path in paths)


class Refused(OSError):
    """The kernel would not mount; the text says what it said."""


def kernel(parts: Parts, target: str, by_text: bool, links: str) -> None:
    """Mount ``parts`` on ``target`` with the kernel's overlayfs. Raises `Refused`."""
    try:
        if by_text:
            _text(parts, target, links)
        elif not parts.plain:
            _fsconfig(_link_all(parts, links, f"{links}/"), target)
        else:
            _fsconfig(parts, target)
    except Refused:
        raise
    except OSError as error:
        raise Refused(error.errno, error.strerror, error.filename) from error
    if parts.upper and os.statvfs(target).f_flag & os.ST_RDONLY:
        # The kernel does this without an error when it cannot use work/ (fs/overlayfs/super.c).
        linux.umount(target)
        raise Refused(None, f"the kernel cannot write in {parts.work} and would mount read-only")


def _fsconfig(parts: Parts, target: str) -> None:
    context = linux.fsopen("overlay")
    try:
        linux.fsconfig_string(context, "source", "sifkit")
        for lower in parts.lowers:
            linux.fsconfig_string(context, "lowerdir+", lower)
        for data in parts.data:
            linux.fsconfig_string(context, "datadir+", data)
        if parts.upper:
            linux.fsconfig_string(context, "upperdir", parts.upper)
            linux.fsconfig_string(context, "workdir", parts.work)
        linux.fsconfig_flag(context, "userxattr")
        mounted = linux.fsmount(context, linux.MOUNT_ATTR_NODEV)
    except OSError as error:
        raise Refused(error.errno, linux.context_log(context) or error.strerror, error.filename) from error
    finally:
        os.close(context)
    point = os.open(target, os.O_PATH | os.O_CLOEXEC)
    try:
        linux.move_mount(mounted, point)
    finally:
        os.close(point)
        os.close(mounted)


def _text(parts: Parts, target: str, links: str) -> None:
    names = _link_all(parts, links)
    options = ["lowerdir=" + ":".join(names.lowers) + "".join(f"::{data}" for data in names.data)]
    if parts.upper:
        options += [f"upperdir={names.upper}", f"workdir={names.work}"]
    options.append("userxattr")
    before = os.open(".", os.O_PATH | os.O_CLOEXEC)
    os.chdir(links)  # relative names keep 500 layers within the page that mount(2) takes
    try:
        linux.mount("sifkit", target, "overlay", linux.MS_NODEV, ",".join(options))
    finally:
        os.fchdir(before)
        os.close(before)


def _link_all(parts: Parts, links: str, prefix: str = "") -> Parts:
    """``parts`` by names, behind ``prefix``, of symbolic links in ``links`` that hold nothing to escape."""
    number = 0

    def link(path: str) -> str:
        nonlocal number
        number += 1
        name = f"{links}/{number}"
        if os.path.lexists(name):
            os.unlink(name)
        os.symlink(path, name)
        return f"{prefix}{number}"

    lowers = tuple(link(path) for path in parts.lowers)
    upper, work = (link(path) if path else "" for path in (parts.upper, parts.work))
    return Parts(lowers, upper, work, tuple(link(path) for path in parts.data))


def fuse_overlay(
    parts: Parts, target: str, links: str, squash: tuple[int, int] | None, at_once: bool = False
) -> Server:
    """Start fuse-overlayfs on ``target``; ``squash``: the uid and gid that everything is shown to belong to.

    ``at_once``: hand every write on as it comes, so that an error reaches who wrote.
    """
    from overlay.stack import fuse  # only where the kernel's overlayfs does not serve

    program = tools.need("fuse-overlayfs", "because kernel overlayfs cannot be used here")
    options = ["lowerdir=" + ":".join(_plain(path, f"{links}/lower{n}") for n, path in enumerate(parts.lowers))]
    if parts.upper:
        # One mount for both: files are renamed between them.
        parent, upper = os.path.split(parts.upper)
        place = _plain(parent, f"{links}/overlay")
        options += [f"upperdir={place}/{upper}", f"workdir={place}/{os.path.basename(parts.work)}"]
    if squash:
        options += [f"squash_to_uid={squash[0]}", f"squash_to_gid={squash[1]}"]
    if at_once:
        options.append("writeback=0")
    argv = [program, "-f", "-o", ",".join([*options, "allow_other,nodev,nosuid"]), target]
    return fuse.start(program, argv, target, writes=bool(parts.upper))


def _plain(path: str, point: str) -> str:
    """``path``, or when it holds what an option text cannot, ``point`` with it bound there."""
    if not any(character in path for character in ":,\\"):
        return path
    os.mkdir(point)
    linux.mount(path, point, None, linux.MS_BIND)
    return point


def wait(server: Server) -> None:
    """Return when ``server`` has mounted."""
    from overlay.stack import fuse

    fuse.wait_mounted([server])
