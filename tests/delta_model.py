"""Trees as plain data, for tests of what is written into images: an upper directory, an image, and their merge."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from overlay.section import Section
from overlay.tree.image import ExtTree

MARKS = (b"user.overlay.opaque", b"trusted.overlay.opaque", b"user.fuseoverlayfs.opaque")


class Node(NamedTuple):
    """One name. ``content``: bytes, link target or device; ``same``: what names of one file have in common."""

    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    content: object
    xattrs: tuple[tuple[bytes, bytes], ...]
    opaque: bool
    same: object

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_whiteout(self) -> bool:
        return stat.S_ISCHR(self.mode) and self.content == os.makedev(0, 0)


Model = dict[bytes, Node]


def of_image(section: Section, top: bytes = b"upper") -> Model:
    """What the image holds below ``top``, which is itself ``b""``."""
    with ExtTree(section, top) as tree:
        model = {}
        for path, entry in [(b"", tree.top), *tree.walk()]:
            content: object = b""
            if entry.is_file:
                content = tree.open(entry).read()
            elif entry.is_symlink:
                content = tree.readlink(entry)
            elif stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode):
                content = entry.device
            model[path] = node(
                entry.mode, (entry.uid, entry.gid), entry.mtime_ns, content, tree.xattrs(entry), entry.inode
            )
        return model


def node(
    mode: int, owner: tuple[int, int], mtime_ns: int, content: object, xattrs: dict[bytes, bytes], same: object
) -> Node:
    kept = {name: value for name, value in xattrs.items() if b"overlay" not in name.split(b".")[1]}
    opaque = any(xattrs.get(mark) == b"y" for mark in MARKS)
    return Node(mode, owner, mtime_ns, content, tuple(sorted(kept.items())), opaque, same)


def of_directory(top: bytes) -> Model:
    """What a directory of the host holds."""
    model = {}
    waiting = [(b"", top)]
    while waiting:
        path, where = waiting.pop()
        found = os.lstat(where)
        content: object = b""
        if stat.S_ISREG(found.st_mode):
            with open(where, "rb") as file:
                content = file.read()
        elif stat.S_ISLNK(found.st_mode):
            content = os.readlink(where)
        elif stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            content = found.st_rdev
        elif stat.S_ISDIR(found.st_mode):
            waiting += [(path + b"/" + name if path else name, where + b"/" + name) for name in os.listdir(where)]
        xattrs = {os.fsencode(n): os.getxattr(where, n, follow_symlinks=False) for n in names_of(where)}
        owner = found.st_uid, found.st_gid
        model[path] = node(found.st_mode, owner, found.st_mtime_ns, content, xattrs, (found.st_dev, found.st_ino))
    return model


def names_of(where: bytes) -> list[str]:
    return [name for name in os.listxattr(where, follow_symlinks=False) if name != "security.selinux"]


def below(path: bytes, model: Model) -> list[bytes]:
    return [name for name in model if name.startswith(path + b"/" if path else b"") and name != path]


def parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def merge(image: Model, upper: Model, lower: frozenset[bytes] = frozenset()) -> Model:
    """What the image must hold after a commit; ``lower``: the paths that a layer below it shows, all directories."""
    merged = dict(image)
    hidden: set[bytes] = {path for path, each in image.items() if each.opaque}
    for path in sorted(upper, key=lambda path: path.count(b"/") + bool(path)):
        each = upper[path]
        if each.is_whiteout or stat.S_ISSOCK(each.mode):
            drop(path, merged)
            shown = path in lower and not any(above in hidden for above in parents(path))
            if shown:
                merged[path] = each._replace(mode=stat.S_IFCHR, content=os.makedev(0, 0), same="whiteout", xattrs=())
        elif each.is_directory:
            present = merged.get(path)
            was = present is not None and present.is_directory
            each = each._replace(opaque=each.opaque or (present is not None and not was))
            if not was or each.opaque:
                drop(path, merged)
            covered = path in lower and not any(above in hidden for above in parents(path))
            opaque = (was and path in hidden) or (each.opaque and covered)
            if opaque or each.opaque:
                hidden.add(path)
            merged[path] = each._replace(opaque=opaque)
        else:
            drop(path, merged)
            merged[path] = each
    return merged


def parents(path: bytes) -> list[bytes]:
    found = []
    while path:
        path = parent(path)
        found.append(path)
    return found


def drop(path: bytes, model: Model) -> None:
    for name in below(path, model):
        del model[name]
    model.pop(path, None)


def comparable(model: Model, *, nanoseconds: bool) -> dict[bytes, tuple[object, ...]]:
    """The model without inode numbers: links are told by the first of their names."""
    first: dict[object, bytes] = {}
    for path in sorted(model):
        if not model[path].is_directory:
            first.setdefault(model[path].same, path)
    return {
        path: ("whiteout",) if each.is_whiteout else (
            oct(each.mode), each.owner, each.mtime_ns if nanoseconds else each.mtime_ns // 10**9 * 10**9,
            each.content, each.xattrs, each.opaque, None if each.is_directory else first[each.same],
        )
        for path, each in model.items()
    }  # fmt: skip
