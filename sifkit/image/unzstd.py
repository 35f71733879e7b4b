"""zstd, which the standard library has since Python 3.14 only: the compression of most squashfs images made today."""

from __future__ import annotations

from overlay.sqread_unpack import SquashError


def unzstd(block: bytes, most: int) -> bytes:
    """What ``block`` unpacks to, at most ``most`` bytes. Raises SquashError for damage."""
    import zstandard

    try:
        # As a stream: the size a frame claims is not believed.
        return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(block).read(most)
    except zstandard.ZstdError as error:
        raise SquashError(f"damaged block: {error}") from None
