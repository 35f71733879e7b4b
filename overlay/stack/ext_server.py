"""Shows an ext image to the kernel, read-only, by FUSE: what `ExtReader` reads as a mounted file system.

fuse2fs does that too, and is taken where an image has features that are not read here. But overlayfs asks for every
name and for its attributes one by one, for which fuse2fs (1.47) walks from the root of the image each time. It lists no
types, cuts times to seconds, and takes 16 ms to start. This server says all about each name in a listing (READDIRPLUS),
which the kernel keeps. It has no state that counts: the number of a node is that of its inode, so there is nothing to
open, to close or to forget. See docs/decisions/0039-a-fuse-server-of-our-own.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from overlay import linux
from overlay.extread import inode as inodes
from overlay.extread.reader import Entry, ExtError, ExtReader, Inode
from overlay.records import TYPE_CHECKING
from overlay.stack import fuse, fuse_wire

if TYPE_CHECKING:
    import io
    from typing import Final

    from overlay.section import Section

NAME: Final = "sifkit-ext3"
_DIRECTORIES_KEPT: Final = 64
_NAMES_KEPT: Final = 1 << 17  # in all of them together, if there is more than one
_FILES_KEPT: Final = 16
_PRIVATE: Final = b"trusted."  # overlayfs could not copy up what lists one of these to whom it is closed


def start(section: Section, point: str, *, bare: bool) -> fuse.Server:
    """Mount the image in ``section`` on ``point``, served by a child. ``bare``: nothing in it has extended attributes.

    Raises OSError; ExtError when it cannot be read.
    """
    with ExtReader(section) as reader:
        device = _mount(point)
        try:
            answers = Answers(reader, bare=bare)
            return fuse.serve(NAME, point, lambda: serve(device, answers), (device, reader.fileno()))
        finally:
            os.close(device)


def _mount(point: str) -> int:
    """Mount on ``point`` what is to be served by whoever has the descriptor that is returned."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        owner = f"user_id={os.geteuid()},group_id={os.getegid()}"
        options = f"fd={device},rootmode=40755,{owner},allow_other,default_permissions"
        linux.mount("sifkit", point, "fuse", linux.MS_RDONLY | linux.MS_NODEV | linux.MS_NOSUID, options)
    except BaseException:
        os.close(device)
        raise
    return device


def serve(device: int, answers: Answers) -> None:
    """Answer what the kernel asks by ``device`` until it is unmounted. Raises OSError."""
    buffer = bytearray(fuse_wire.BUFFER)
    view = memoryview(buffer)
    request = fuse_wire.REQUEST
    while True:
        try:
            length = os.readv(device, [buffer])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno in (errno.ENOENT, errno.EAGAIN):  # who asked was killed
                continue
            raise
        _, opcode, unique, node = request.unpack_from(buffer)
        if opcode in fuse_wire.UNANSWERED:
            continue
        number, data = answers.give(opcode, node, view[request.size : length])
        try:
            os.writev(device, [fuse_wire.header(unique, number, len(data)), data])
        except OSError as error:
            if error.errno != errno.ENOENT:  # who asked was killed
                raise


class _Listing:
    """The names of a directory, in their order, and by name once one was asked for."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self._numbers: dict[bytes, int] | None = None

    def find(self, name: bytes) -> int:
        """The inode of ``name``, 0 if there is none."""
        if self._numbers is None:
            self._numbers = {entry.name: entry.inode for entry in self.entries}
        return self._numbers.get(name, 0)


class Answers:
    """What is answered about the image that ``reader`` has open. ``bare``: nothing in it has extended attributes."""

    def __init__(self, reader: ExtReader, *, bare: bool) -> None:
        self._reader = reader
        self._block_size = reader.superblock.block_size
        self._listings: dict[int, _Listing] = {}
        self._names = 0  # in all listings
        self._files: dict[int, io.BufferedIOBase] = {}
        self._known = {
            fuse_wire.INIT: self._init,
            fuse_wire.STATFS: self._statfs,
            fuse_wire.LOOKUP: self._lookup,
            fuse_wire.GETATTR: self._getattr,
            fuse_wire.READDIRPLUS: self._readdirplus,
            fuse_wire.READLINK: self._readlink,
            fuse_wire.READ: self._read,
            fuse_wire.LISTXATTR: self._listxattr,
            fuse_wire.GETXATTR: self._getxattr,
        }
        if bare:  # overlayfs asks for an attribute of every file that it looks up, until it is told that there are none
            del self._known[fuse_wire.GETXATTR]

    def give(self, opcode: int, node: int, body: memoryview) -> tuple[int, bytes]:
        """The answer to a request about ``node``: an errno, 0 for none, and data."""
        answer = self._known.get(opcode)
        if answer is None:  # and the kernel does not ask again: opening needs no answer, writing has none
            return errno.ENOSYS, b""
        try:
            return 0, answer(node, body)
        except OSError as error:
            return error.errno or errno.EIO, b""
        except Exception as error:  # a damaged image must not end the server, whose other files are in use
            with contextlib.suppress(OSError):  # nobody has read what was said before
                os.write(2, f"{error if isinstance(error, ExtError) else repr(error)}\n".encode())
            return errno.EIO, b""

    def _inode(self, node: int) -> Inode:
        return self._reader.inode(inodes.ROOT if node == fuse_wire.ROOT else node)

    def _init(self, _node: int, body: memoryview) -> bytes:
        return fuse_wire.init(body)

    def _statfs(self, _node: int, _body: memoryview) -> bytes:
        sb = self._reader.superblock
        return fuse_wire.statfs(sb.blocks, sb.free_blocks, sb.inodes, sb.free_inodes, sb.block_size)

    # Names

    def _listing(self, node: int) -> _Listing:
        found = self._listings.get(node)
        if found is None:
            found = _Listing(list(self._reader.listdir(self._inode(node))))
            self._names += len(found.entries)
            while self._listings and (len(self._listings) >= _DIRECTORIES_KEPT or self._names > _NAMES_KEPT):
                oldest = next(iter(self._listings))
                self._names -= len(self._listings.pop(oldest).entries)
            self._listings[node] = found
        return found

    def _lookup(self, node: int, body: memoryview) -> bytes:
        number = self._listing(node).find(fuse_wire.name(body))
        return fuse_wire.entry(self._reader.inode(number), self._block_size) if number else fuse_wire.NO_ENTRY

    def _getattr(self, node: int, _body: memoryview) -> bytes:
        return fuse_wire.attributes(self._inode(node), self._block_size)

    def _readdirplus(self, node: int, body: memoryview) -> bytes:
        """As many names as fit, from an offset on. That counts names, ``.`` and ``..`` being the first two."""
        offset, room = fuse_wire.span(body)
        entries = self._listing(node).entries
        found = []
        for at in range(offset, len(entries) + 2):
            if at < 2:
                record = fuse_wire.dirent(fuse_wire.NOT_LOOKED_UP, node, at + 1, stat.S_IFDIR, b"." * (at + 1))
            else:
                record = self._dirent(entries[at - 2], at + 1)
            room -= len(record)
            if room < 0:
                break
            found.append(record)
        return b"".join(found)

    def _dirent(self, entry: Entry, following: int) -> bytes:
        try:
            inode = self._reader.inode(entry.inode)
        except ExtError:  # that is said when the file is asked for; the others can be listed
            return fuse_wire.dirent(fuse_wire.NOT_LOOKED_UP, entry.inode, following, 0, entry.name)
        about = fuse_wire.entry(inode, self._block_size)
        return fuse_wire.dirent(about, entry.inode, following, inode.mode, entry.name)

    # Contents

    def _readlink(self, node: int, _body: memoryview) -> bytes:
        return self._reader.readlink(self._inode(node))

    def _read(self, node: int, body: memoryview) -> bytes:
        offset, size = fuse_wire.span(body)
        file = self._files.get(node)
        if file is None:
            if len(self._files) >= _FILES_KEPT:
                del self._files[next(iter(self._files))]
            file = self._files[node] = self._reader.open(self._inode(node))
        file.seek(offset)
        return file.read(size)

    def _getxattr(self, node: int, body: memoryview) -> bytes:
        room, name = fuse_wire.attribute(body)
        value = self._reader.xattrs(self._inode(node)).get(name)
        if value is None:
            raise OSError(errno.ENODATA, "")
        return _fitting(value, room)

    def _listxattr(self, node: int, body: memoryview) -> bytes:
        room, _ = fuse_wire.attribute(body)
        names = (name for name in self._reader.xattrs(self._inode(node)) if not name.startswith(_PRIVATE))
        return _fitting(b"".join(name + b"\0" for name in names), room)


def _fitting(value: bytes, room: int) -> bytes:
    if not room:
        return fuse_wire.length(value)
    if len(value) > room:
        raise OSError(errno.ERANGE, "")
    return value
