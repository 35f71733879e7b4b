"""LZ4 by the system's liblz4 (lz4.h, lz4hc.h), which systemd brings everywhere; the standard library has none.

ctypes lets go of the interpreter's lock during a call, so that several threads compress at once.
"""

from __future__ import annotations

import ctypes

from overlay.failure import Failure
from overlay.squash.writer import Compression
from overlay.squash.writer_data import Pack

_LEVEL = 12  # LZ4HC_CLEVEL_MAX: it costs only the writer


def lz4() -> Compression:
    """`Failure` where the library is missing."""
    try:
        library = ctypes.CDLL("liblz4.so.1")
    except OSError:
        raise Failure(
            "cannot compress with lz4", "liblz4.so.1 is missing", "install liblz4, or take another compression"
        ) from None

    def packer() -> Pack:
        def pack(data: bytes) -> bytes:
            room = library.LZ4_compressBound(len(data))
            packed = ctypes.create_string_buffer(room)
            length = library.LZ4_compress_HC(data, packed, len(data), room, _LEVEL)
            return packed.raw[:length] if length > 0 else data

        return pack

    return Compression("lz4", packer)
