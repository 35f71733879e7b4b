"""The compressions of squashfs, block by block: what the standard library knows, LZ4, and zstd where it is had.

Every function takes a block and the most bytes it may give: nothing unpacks to more, whatever it claims.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from typing import Final

# (block, most bytes it may give) -> its contents. Raises SquashError.
Unpack = Callable[[bytes, int], bytes]

_LZMA_MEMORY: Final = 64 << 20


class SquashError(ValueError):
    """The bytes are not a squashfs this code can trust; the text says where and why."""


def unpacker(compression: str, zstd: Unpack | None) -> Unpack:
    """The function for ``compression``, as `superblock.Squash` names it; ``zstd`` is the caller's.

    The standard library has zstd since Python 3.14 only, so whoever has a library for it passes it in.
    """
    known: dict[str, Unpack | None] = {"gzip": _gzip, "xz": _xz, "lzma": _lzma, "lz4": _lz4, "zstd": zstd}
    found = known.get(compression)
    if found is None:
        raise SquashError(f"its compression, {compression}, cannot be read; unpack it with unsquashfs")
    return found


def _gzip(block: bytes, most: int) -> bytes:
    unpack = zlib.decompressobj()
    try:
        data = unpack.decompress(block, most)
    except zlib.error as error:
        raise SquashError(f"damaged block: {error}") from None
    return _whole(data, unpack.eof or len(data) == most)


def _xz(block: bytes, most: int) -> bytes:
    return _xz_like(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY), block, most)


def _lzma(block: bytes, most: int) -> bytes:
    return _xz_like(lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY), block, most)


def _xz_like(unpack: lzma.LZMADecompressor, block: bytes, most: int) -> bytes:
    try:
        data = unpack.decompress(block, most)
    except lzma.LZMAError as error:
        raise SquashError(f"damaged block: {error}") from None
    return _whole(data, unpack.eof or len(data) == most)


def _whole(data: bytes, whole: bool) -> bytes:
    if not whole:
        raise SquashError("damaged block: it ends early")
    return data


def _lz4(block: bytes, most: int) -> bytes:
    """LZ4's block format (lz4_Block_format.md). Rare, and thirty lines: no reason for a dependency."""
    out = bytearray()
    at, end = 0, len(block)
    try:
        while at < end:
            token = block[at]
            at, literals = _length(block, at + 1, token >> 4)
            out += block[at : at + literals]
            at += literals
            if at >= end or len(out) > most:
                break
            back = block[at] | block[at + 1] << 8
            at, count = _length(block, at + 2, token & 15)
            count += 4
            if not 0 < back <= len(out) or len(out) + count > most:
                raise SquashError("damaged block: LZ4")
            # A match may reach into what it makes: then it repeats.
            piece = bytes(out[len(out) - back : len(out) - back + count])
            out += (piece * -(-count // len(piece)))[:count]
    except IndexError:
        raise SquashError("damaged block: it ends early") from None
    if at > end or len(out) > most:
        raise SquashError("damaged block: LZ4")
    return bytes(out)


def _length(block: bytes, at: int, length: int) -> tuple[int, int]:
    if length == 15:
        while True:
            more = block[at]
            at += 1
            length += more
            if more != 255:
                break
    return at, length
