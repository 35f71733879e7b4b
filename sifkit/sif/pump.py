"""Read and write at the same time: one thread reads ahead of the other, which writes.

The kernel's copying takes a processor for the reading and one for the writing, instead of one for both in turn (ext4,
500 MB in the page cache, minima: 125 ms; in turn 186; cp 150).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing's, which takes longer to load than an object to find
if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue

PIECE = 256 << 10  # bytes; both fit the second cache of a processor
_AHEAD = 4  # pieces
_WORTH = 4 << 20  # bytes, for which a thread is started


def pump(source: int, offset: int, size: int, write: Callable[[memoryview], None]) -> None:
    """Hand ``size`` bytes at ``offset`` of the regular file ``source`` to ``write``, piece by piece.

    ``write`` is called in this thread, and a piece is its own until it returns. Raises ``EOFError`` when the source is
    shorter, and ``OSError``. No thread is left when this returns.
    """
    if size < _WORTH:
        _in_turn(source, offset, size, write)
        return
    from queue import SimpleQueue
    from threading import Thread

    free: SimpleQueue[memoryview | None] = SimpleQueue()  # None: no more is wanted
    full: SimpleQueue[memoryview | Exception] = SimpleQueue()
    reader = Thread(target=_fill, args=(source, offset, size, free, full), daemon=True)
    try:
        reader.start()
    except RuntimeError:  # the limit of processes, which threads count for (ulimit -u, pids.max)
        _in_turn(source, offset, size, write)
        return
    for _ in range(_AHEAD):
        free.put(memoryview(bytearray(PIECE)))
    try:
        while size:
            found = full.get()
            if isinstance(found, Exception):
                raise found
            write(found)
            size -= len(found)
            free.put(memoryview(found.obj))
    finally:
        free.put(None)
        reader.join()


def _in_turn(source: int, offset: int, size: int, write: Callable[[memoryview], None]) -> None:
    buffer = memoryview(bytearray(min(PIECE, size)))
    while size:
        piece = _read(source, offset, buffer[:size], size)
        write(piece)
        offset, size = offset + len(piece), size - len(piece)


def _fill(source: int, offset: int, size: int, free: SimpleQueue[memoryview | None],
          full: SimpleQueue[memoryview | Exception]) -> None:  # fmt: skip
    try:
        while size and (buffer := free.get()) is not None:
            piece = _read(source, offset, buffer[:size], size)
            full.put(piece)
            offset, size = offset + len(piece), size - len(piece)
    except (OSError, EOFError) as error:
        full.put(error)


def _read(source: int, offset: int, buffer: memoryview, left: int) -> memoryview:
    count = os.preadv(source, [buffer], offset)
    if count == 0:
        raise EOFError(f"the source ends {left} bytes early")
    return buffer[:count]
