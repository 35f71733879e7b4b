"""What trees say, to be compared; and a layer with everything that is awkward about overlays."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from pathlib import Path

import images
import probes

from overlay.tree import layer as tree_layer
from overlay.tree.spelled import own
from overlay.tree.view import Tree

_NOBODY = 2**32 - 1
# u::rw- u:4711:r-- g::r-- m::rw- o::---
_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, _NOBODY), (2, 4, 4711), (4, 4, _NOBODY), (16, 6, _NOBODY), (32, 0, _NOBODY))
)
_CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service, effective and permitted


def dig(top: str, name: str, depth: int) -> int:
    """Make ``depth`` directories ``name`` one in the other, in ``top``, deeper than any path; the last one, open."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    return here


def facts(tree: Tree) -> dict[bytes, object]:
    """All that a tree says of everything in it; names of hard links beside their inode's first."""
    first: dict[int, bytes] = {}
    told: dict[bytes, object] = {}
    for path, entry in tree.walk():
        if path.startswith(b"lost+found"):
            continue
        contents: object = None
        if entry.is_file:
            with tree.open(entry) as stream:
                contents = stream.read()
        elif entry.is_symlink:
            contents = tree.readlink(entry)
        told[path] = (
            entry.kind, oct(entry.mode), entry.uid, entry.gid, entry.mtime_ns // 10**9, entry.device,
            None if entry.is_directory else (entry.size, entry.links, first.setdefault(entry.inode, path)),
            {k: v for k, v in tree.xattrs(entry).items() if k.startswith(b"user.")}, contents,
        )  # fmt: skip
    return told


def layer_facts(tree: Tree, *, drop: tuple[bytes, ...] = ()) -> dict[bytes, object]:
    """All that a layer says, whatever the spelling; attributes that begin with one of ``drop`` are left out."""
    first: dict[int, bytes] = {}
    told: dict[bytes, object] = {}
    for path, what, entry, _, _ in tree_layer.steps(tree, []):
        if entry is None:
            told[path] = what
            continue
        contents: object = None
        holes = False
        if entry.is_file:
            with tree.open(entry) as stream:
                contents = stream.read()
            holes = sum(extent.length for extent in tree.extents(entry)) < entry.size
        elif entry.is_symlink:
            contents = tree.readlink(entry)
        several = not entry.is_directory and entry.links > 1
        attributes = {k: v for k, v in own(tree.xattrs(entry), path).items() if not k.startswith(drop)}
        told[path] = {
            "what": what, "mode": oct(entry.mode), "owner": (entry.uid, entry.gid), "time": entry.mtime_ns // 10**9,
            "device": entry.device, "size": None if entry.is_directory else entry.size,
            "links": several and (entry.links, first.setdefault(entry.inode, path)), "holes": holes,
            "attributes": attributes, "contents": contents,
        }  # fmt: skip
    return told


def make_layer(out: Path) -> Path:
    """A directory overlay whose upper/ is the awkward tree with all that overlays add; root's has more."""
    upper = images.make_awkward(out / "upper")
    (out / "work").mkdir()
    _make_marks(upper / "marks")
    (upper / "flat").mkdir()
    for number in range(700):
        (upper / "flat" / f"file {number}").write_text(f"{number}\n" * (number % 50))
    (upper / "large").write_bytes(os.urandom(300_000) + b"\1" * 300_000 + b"end")
    os.setxattr(upper / "large", "user.binary", bytes(range(256)))
    os.setxattr(upper / "marks", "user.overlay.origin", b"\0" * 20)
    os.setxattr(upper / "marks", "user.overlay.impure", b"y")
    with contextlib.suppress(OSError):  # a file system without lists
        os.setxattr(upper / "kinds/old", "system.posix_acl_access", _ACL)
    if probes.IS_ROOT:
        _make_roots(upper / "roots")
    return out


def _make_marks(out: Path) -> None:
    """Whiteouts of files and directories, opaque directories, names deleted and made again, each spelling."""
    (out / "opaque/full").mkdir(parents=True)
    (out / "opaque/full/file").write_text("in place of all there was\n")
    os.setxattr(out / "opaque", "user.overlay.opaque", b"y")
    (out / "fuse").mkdir()
    os.setxattr(out / "fuse", "user.fuseoverlayfs.opaque", b"y")
    (out / "named").mkdir()
    (out / "named/.wh..wh..opq").touch()
    (out / "named/file").touch()
    (out / "again").mkdir()
    (out / ".wh.again").touch()
    (out / "again/inside").touch()
    for name in ("gone", "gone-directory", "with\nnewline"):
        os.mknod(out / name, stat.S_IFCHR, 0)
    os.mknod(os.fsencode(out) + b"/not-\xff\xfe", stat.S_IFCHR, 0)
    (out / ".wh.spelled").touch()


def _make_roots(out: Path) -> None:
    """What only root can make."""
    out.mkdir()
    for name, kind, device in (("c", stat.S_IFCHR, (5, 300)), ("b", stat.S_IFBLK, (259, 70000))):
        os.mknod(out / name, kind | 0o640, os.makedev(*device))
    (out / "ping").write_text("ping")
    os.chown(out / "ping", 4711, 70000)
    (out / "ping").chmod(0o4755)
    os.setxattr(out / "ping", "security.capability", _CAPABILITY)
    os.setxattr(out / "ping", "trusted.note", b"kept")
    os.chown(out / "c", 3_000_000_000, 4_000_000_000)
