"""``sifkit.json``, beside ``upper/`` in an overlay: on what base it was last used by somebody who could write.

One JSON object; ``base`` is the path of the image. Other members are kept. It only informs: what cannot be
understood counts as no record, and what cannot be written stops nobody.
"""

from __future__ import annotations

import contextlib
import os

from overlay import flatjson
from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Final

    from overlay.extwrite.writer import Writer
    from overlay.section import Section
    from overlay.tree.view import Tree

NAME: Final = "sifkit.json"
_LARGEST: Final = 65536
_SPARE_INODES: Final = 64


def read(whole: Tree) -> dict[str, Any]:
    """What the record at the top of ``whole`` says; {} without one. Raises as `Tree` does."""
    found = whole.lookup(NAME.encode())
    if found is None or not found.is_file or found.size > _LARGEST:
        return {}
    with whole.open(found) as stream:
        return _decode(stream.read(_LARGEST))


def updated(old: bytes, base: str) -> bytes:
    """The record ``old`` (empty: none yet) with this base, as it is to be written; ``old`` itself if it says so."""
    new = flatjson.encode({"base": base}) + b"\n"  # by hand, as a start must not load json
    if old in (b"", new):
        return new
    import json

    fields = _decode(old)
    if fields.get("base") == base:
        return old
    return json.dumps({**fields, "base": base}).encode() + b"\n"


def keep(overlay: str, base: str) -> None:
    """Record in the directory overlay ``overlay``, which is locked, that it is used on ``base``."""
    # A full disk or quota must not keep anybody from opening the overlay to delete.
    with contextlib.suppress(OSError):
        fd = os.open(f"{overlay}/{NAME}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        try:
            if os.geteuid() == 0:
                from overlay.locks import lock

                lock.give_to_owner(fd, overlay)
            old = os.read(fd, _LARGEST)
            new = updated(old, base)
            if new != old:
                os.pwrite(fd, new, 0)
                os.ftruncate(fd, len(new))
        finally:
            os.close(fd)


def keep_in_image(writer: Writer, section: Section, base: str, added: int) -> None:
    """The same for the image in ``section``, in which ``writer`` has made ``added`` names; nothing where it is full."""
    from overlay.extread.reader import ExtReader

    if writer.superblock.free_inodes - added < _SPARE_INODES:
        return
    with ExtReader(section) as reader:
        found = reader.lookup(NAME.encode())
        old = reader.read(found, _LARGEST) if found is not None and found.is_file and found.size <= _LARGEST else b""
    new = updated(old, base)
    if new != old:
        with contextlib.suppress(OSError):  # not even one free block
            put(writer, new)


def put(writer: Writer, data: bytes) -> None:
    """Make ``data`` the record of the image that ``writer`` has open."""
    import stat
    import time

    from overlay.extwrite.inode import Attributes

    now = time.time_ns()
    if writer.lookup(writer.root, NAME.encode()):
        writer.unlink(writer.root, NAME.encode())
    fd = os.memfd_create("sifkit")
    try:
        os.write(fd, data)
        attributes = Attributes(stat.S_IFREG | 0o644, os.geteuid(), os.getegid(), now, now, now)
        writer.create(writer.root, NAME.encode(), fd, attributes)
    finally:
        os.close(fd)


def _decode(data: bytes) -> dict[str, Any]:
    import json

    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
