"""Undo for a half-made change, also when this process is killed.

`Guard` notes the file's length and, before each overwrite of live bytes, the old bytes. Leaving it without
`done` puts them back. So that SIGKILL cannot leave a half-made change, a forked child holds the same notes
and does the same when this process disappears. The child shares the open file description, and with it the
lock, so no other editor sees the file before it is whole again.

Rejected: working on a copy (the copy of a large image costs more than the change, and its rename would leave
running containers on the old file); a journal in the gap after the header (it would make bytes that the Go
tools do not write). No child is forked in a process with more threads: there the notes alone must do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import threading
from types import TracebackType

_NOTE = struct.Struct("<qi")
_DONE = _NOTE.pack(-1, 0)


class Guard:
    """Restores length and noted bytes of the open file ``fd`` on leaving, unless `done` was called."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._length = os.fstat(fd).st_size
        self._notes: list[tuple[int, bytes]] = []
        self._pipe = -1
        self._child = 0
        self._done = False

    def __enter__(self) -> Guard:
        if threading.active_count() == 1:
            self._fork()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        try:
            if not self._done:
                restore(self._fd, self._length, self._notes)
                self.done()
        finally:
            self._end_child()

    def note(self, offset: int, size: int) -> None:
        """Remember the ``size`` bytes at ``offset``, which are about to be overwritten."""
        old = os.pread(self._fd, size, offset)
        self._notes.append((offset, old))
        self._tell(_NOTE.pack(offset, len(old)) + old)

    def done(self) -> None:
        """The change is complete on disk: nothing is to be undone any more."""
        self._done = True
        self._tell(_DONE)

    def _tell(self, message: bytes) -> None:
        if self._child:
            with contextlib.suppress(BrokenPipeError):  # the child was killed; the notes here remain
                _write(self._pipe, message)

    def _fork(self) -> None:
        reader, self._pipe = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            status = 1
            try:
                os.close(self._pipe)
                _wait_and_restore(reader, self._fd, self._length)
                status = 0
            finally:
                os._exit(status)
        os.close(reader)

    def _end_child(self) -> None:
        if not self._child:
            return
        os.close(self._pipe)
        with contextlib.suppress(ChildProcessError):  # the program reaps children on its own
            os.waitpid(self._child, 0)
        self._child = 0


def restore(fd: int, length: int, notes: list[tuple[int, bytes]]) -> None:
    """Put noted bytes back, latest first, then the length: were it cut first, a header could point past the
    end."""
    for offset, old in reversed(notes):
        os.pwrite(fd, old, offset)
    if os.fstat(fd).st_size != length:
        os.ftruncate(fd, length)
    os.fsync(fd)


def _wait_and_restore(reader: int, fd: int, length: int) -> None:
    os.setsid()  # Ctrl-C and kill(-group) reach the editor, which then undoes; not its witness
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    notes: list[tuple[int, bytes]] = []
    received = b""
    while data := os.read(reader, 1 << 16):
        received += data
        while len(received) >= _NOTE.size:
            offset, size = _NOTE.unpack_from(received)
            if offset < 0:
                return
            if len(received) < _NOTE.size + size:
                break
            notes.append((offset, received[_NOTE.size : _NOTE.size + size]))
            received = received[_NOTE.size + size :]
    restore(fd, length, notes)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
