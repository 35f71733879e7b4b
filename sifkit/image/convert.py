"""An overlay turned into another kind: opened as a tree, and a tree written as each kind.

What is written appears complete under its name or not at all, and replaces nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Final

from overlay import newfile
from overlay.failure import Failure, from_oserror
from overlay.locks import lock
from overlay.size import format_size

if TYPE_CHECKING:
    from overlay.squash.writer import Compression
    from overlay.tree.loss import Report
    from overlay.tree.view import Tree
    from sifkit.image.target import Target

DIRECTORY, EXT3, SQUASHFS, TAR = "directory", "ext3", "squashfs", "tar"
COMPRESSIONS: Final = ("zstd", "gzip", "lz4")
SUFFIXES: Final = {
    ".sqfs": SQUASHFS, ".squashfs": SQUASHFS, ".sfs": SQUASHFS, ".sqsh": SQUASHFS, ".tar": TAR,
    ".img": EXT3, ".ext3": EXT3,
}  # fmt: skip
_TAR_MAGIC: Final = (257, b"ustar")
_TAR_SUFFIXES: Final = (".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.xz", ".tar.bz2")


def kind_of(path: str) -> str | None:
    """The kind that the name ``path`` asks for; a name that ends in ``/`` is a directory's."""
    if path.endswith("/"):
        return DIRECTORY
    return next((kind for suffix, kind in SUFFIXES.items() if path.lower().endswith(suffix)), None)


def is_tar(path: str) -> bool:
    """Whether ``path`` is a file that holds a tar archive, or is named like a compressed one."""
    if not os.path.isfile(path):
        return False
    place, magic = _TAR_MAGIC
    try:
        with open(path, "rb") as file:
            return path.lower().endswith(_TAR_SUFFIXES) or os.pread(file.fileno(), len(magic), place) == magic
    except OSError as error:
        raise from_oserror(f"cannot open {path}", error) from None


def place(target: Target) -> lock.Target:
    """What `overlay.locks.lock` locks."""
    return target.path if target.is_directory else target.section


@contextlib.contextmanager
def layer(text: str, scratch: str) -> Iterator[Tree]:
    """The layer of the overlay, or in the tar archive, ``text``; readers may share it meanwhile, writers may not.

    ``scratch``: a directory for what has to be unpacked. Raises `Failure`, InUse.
    """
    if is_tar(text):
        try:
            stream = open(text, "rb")
        except OSError as error:
            raise from_oserror(f"cannot open {text}", error) from None
        with archive(stream, scratch) as tree:
            yield tree
        return
    from sifkit.image import target

    found = target.resolve(text)
    with lock.acquire(place(found), exclusive=False), _own(found) or target.layer(found) as tree:
        require_whole(found, f"cannot read all of {text}")
        yield tree


def require_whole(found: Target, brief: str) -> None:
    """`Failure` when something of the overlay is not in it yet: what is made of it would lack that.

    A journal with newer writes, an edit or commit that was cut off, changes of a run that wait to be committed.
    """
    if not found.is_ext:
        return
    from overlay.manage import edit_log
    from overlay.session import pending as session_pending

    session_pending.refuse(found.section, brief)
    mend = f"sifkit overlay check --fix {found.text}"
    if edit_log.cut_off(found.section):
        raise Failure(brief, "an edit of it was cut off", mend)
    if found.found.ext is not None and found.found.ext.needs_recovery:
        raise Failure(brief, "its last writer was killed, and its journal holds newer writes", mend)


def _own(found: Target) -> Tree | None:
    """An ordinary user's directory, with what he closed to himself."""
    if not found.is_directory or os.geteuid() == 0:
        return None
    from overlay.stack.upper import marks
    from overlay.tree.own import OwnTree

    tree = OwnTree(os.path.join(found.path, "upper"))
    tree.opaque_marks = marks(found.path)
    return tree


def archive(stream: IO[bytes], scratch: str) -> Tree:
    """The tar archive in ``stream`` as a tree. Raises OSError, TarError."""
    from overlay.tree.tar import TarTree
    from sifkit.image.zstd import unzstd_stream

    return TarTree(stream, unzstd_stream, scratch)


def compression(name: str) -> Compression:
    """One of `COMPRESSIONS`."""
    if name == "gzip":
        from overlay.squash.writer import gzip

        return gzip()
    if name == "lz4":
        from overlay.squash.liblz4 import lz4

        return lz4()
    from sifkit.image.zstd import zstd

    return zstd()


def write(tree: Tree, path: str, kind: str, report: Report, *, compress: str = "zstd", size: int | None = None) -> None:
    """Write the layer ``tree`` as the new overlay ``path`` of ``kind``; ``report`` is told what cannot be kept.

    ``size``: of an ext3 image in bytes, None for what it needs and some room.

    Raises FileExistsError and other OSError, `Failure`, what the tree raises.
    """
    from overlay.tree.spelled import DEVICES, FILES, SpelledTree

    spelled = SpelledTree(tree, FILES if kind == TAR else DEVICES)
    if kind == DIRECTORY:
        write_overlay_directory(spelled, path, report)
    elif kind == EXT3:
        write_image(spelled, path, report, size)
    elif kind == SQUASHFS:
        write_squash(spelled, path, report, compress=compress)
    else:
        write_archive(spelled, path, report)


def write_archive(tree: Tree, path: str, report: Report) -> int:
    """Write ``tree`` as the new tar archive ``path``; its size."""
    from overlay.tree.write_tar import write_tar

    with newfile.new_file(path, new_mode(0o666)) as fresh:
        with open(fresh.fd, "wb", buffering=1 << 20, closefd=False) as stream:
            write_tar(tree, stream, report)
        fresh.publish()
        return os.fstat(fresh.fd).st_size


def new_mode(most: int) -> int:
    """The mode of something new, as the umask has it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return most & ~umask


def write_squash(
    tree: Tree, path: str, report: Report, *, compress: str, made: int | None = None, latest: int | None = None
) -> int:
    """Write ``tree`` as the new squashfs ``path``; its size. The rest as of `fill_squash`."""
    with newfile.new_file(path, new_mode(0o666)) as fresh:
        size = fill_squash(tree, fresh.fd, report, compress=compress, made=made, latest=latest)
        fresh.publish()
    return size


def fill_squash(
    tree: Tree, fd: int, report: Report, *, compress: str, made: int | None = None, latest: int | None = None
) -> int:
    """Write ``tree`` as a squashfs into the empty file ``fd``; its size in bytes.

    ``made``: when, in seconds since 1970, None for now. ``latest``: the latest time that a file in it may have.
    """
    from overlay.squash import writer as sqwrite

    when = int(time.time()) if made is None else made
    return sqwrite.write_squash(tree, fd, compression(compress), report, time=when, latest=latest)


@contextlib.contextmanager
def scratch_file(path: str) -> Iterator[int]:
    """A nameless file beside ``path``, which is gone with the block."""
    beside = os.path.join(os.path.dirname(path), f".sifkit-{os.urandom(12).hex()}.new")
    with newfile.new_file(beside, 0o600) as fresh:
        yield fresh.fd


def write_image(tree: Tree, path: str, report: Report, size: int | None) -> None:
    """Write ``tree`` as the upper/ of the new ext3 image ``path``, sparse, of ``size`` bytes or large enough."""
    from overlay.extwrite import fresh as write_ext
    from overlay.extwrite.volume import NoSpace
    from overlay.manage import create

    wanted = write_ext.needs(tree)
    inodes = wanted.inodes * 5 // 4 + 1024
    least = write_ext.image_size(wanted, inodes)
    size = least if size is None else size
    inodes = max(inodes, size // create.usual_ratio(size))
    try:
        create.create_ext3(
            path, size, sparse=True, inodes=inodes, fill=lambda section: write_ext.write_ext(tree, section, report)
        )
    except NoSpace as error:
        raise Failure(f"cannot make {path}", f"{format_size(size)} are too few: {error.strerror}",
                      f"--size {format_size(least).replace(' ', '')[:-2]} is enough") from None  # fmt: skip


def write_overlay_directory(tree: Tree, path: str, report: Report) -> None:
    """Write ``tree`` as the upper/ of the new directory overlay ``path``."""
    from overlay.remove import remove
    from overlay.tree.write import write_directory

    with newfile.new_directory(path, remove) as fresh:
        os.chmod(fresh, 0o700)  # until it is complete
        os.mkdir(f"{fresh}/upper", 0o700)
        write_directory(tree, f"{fresh}/upper", report)
        os.mkdir(f"{fresh}/work", 0o755)
        os.chmod(fresh, new_mode(0o777))
