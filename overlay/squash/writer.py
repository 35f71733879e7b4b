"""A tree written as a squashfs 4.0 (kernel: fs/squashfs/squashfs_fs.h), in one pass, with nothing beside it.

Why not mksquashfs or sqfstar: docs/decisions/0018. The same tree gives the same bytes, whatever the machine,
the order in which its directories were made, and the number of threads.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from overlay.squash.writer_data import DataWriter, Pack
from overlay.squash.writer_inodes import BLOCK_SIZE, InodeWriter
from overlay.squash.writer_meta import indexed
from overlay.tree.loss import Report
from overlay.tree.view import Tree

COMPRESSIONS: Final = {"gzip": 1, "lz4": 5, "zstd": 6}
_SUPERBLOCK: Final = struct.Struct("<4s4I6H8Q")
_EXPORTABLE, _OPTIONS = 0x80, 0x400
_LATEST: Final = 2**32 - 1
_GZIP_LEVEL: Final = 9  # mksquashfs's


class Compression(NamedTuple):
    """``name`` as in `COMPRESSIONS`; ``packer`` makes a compressing function for one thread."""

    name: str
    packer: Callable[[], Pack]


def gzip() -> Compression:
    """What every kernel with squashfs reads."""
    import zlib

    return Compression("gzip", lambda: lambda data: zlib.compress(data, _GZIP_LEVEL))


def write_squash(
    tree: Tree,
    fd: int,
    compression: Compression,
    report: Report,
    *,
    time: int,
    latest: int | None = None,
    offset: int = 0,
) -> int:
    """Write ``tree`` to ``fd`` from byte ``offset`` on; its length in bytes, a multiple of 4 KiB.

    ``time``: when it was made, seconds since 1970. ``latest``: the latest time that a file in it may have; a later
    one becomes that. ``report`` is told of what could not be kept. Raises what the tree raises, OSError, and
    ValueError for what no squashfs can hold.
    """
    pack = compression.packer()
    options = _options(compression)
    with DataWriter(fd, offset, _SUPERBLOCK.size + len(options), BLOCK_SIZE, compression.packer) as data:
        writer = InodeWriter(tree, data, pack, report, _LATEST if latest is None else min(latest, _LATEST))
        root = writer.run()
        data.finish()
        starts = _tables(data, writer, pack)
    used = data.at
    data.write(bytes(-used % 4096))
    flags = _EXPORTABLE | (_OPTIONS if options else 0)
    superblock = _SUPERBLOCK.pack(
        b"hsqs", len(writer.places), min(max(time, 0), _LATEST), BLOCK_SIZE, len(data.fragments),
        COMPRESSIONS[compression.name], BLOCK_SIZE.bit_length() - 1, flags, len(writer.owners), 4, 0,
        root, used, starts["owners"], starts["attributes"], starts["inodes"], starts["listings"], starts["fragments"],
        starts["exports"],
    )  # fmt: skip
    os.pwrite(fd, superblock + options, offset)
    return data.at


def _options(compression: Compression) -> bytes:
    """LZ4 alone wants to hear that its one format, version 1, is meant."""
    return struct.pack("<HII", 8 | 0x8000, 1, 1) if compression.name == "lz4" else b""


def _tables(data: DataWriter, writer: InodeWriter, pack: Pack) -> dict[str, int]:
    """Write the tables behind the data, in the order that the kernel checks; where each begins."""
    starts = {"inodes": data.at}
    data.write(writer.inodes.finish())
    starts["listings"] = data.at
    data.write(writer.listings.finish())
    tables: Mapping[str, Iterator[bytes]] = {
        "fragments": (struct.pack("<Q2I", place, length, 0) for place, length in data.fragments),
        "exports": (struct.pack("<Q", place) for place in writer.places),
        "owners": (struct.pack("<I", identity) for identity in writer.owners),
    }
    for name, entries in tables.items():
        table, starts[name] = indexed(entries, data.at, pack)
        data.write(table)
    attributes, starts["attributes"] = writer.attributes.table(data.at)
    data.write(attributes)
    return starts
