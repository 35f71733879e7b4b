"""What undoes a change that did not come to its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sifkit.sif import guard


def test_guard_without_a_witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process with more threads nothing is forked; errors are undone all the same."""
    import threading

    monkeypatch.setattr(threading, "active_count", lambda: 2)
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR)
    with pytest.raises(RuntimeError), guard.Guard(fd) as guarded:
        guarded.note(3, 4)
        os.pwrite(fd, b"xxxx", 3)
        os.pwrite(fd, b"tail", 10)
        raise RuntimeError
    os.close(fd)
    assert path.read_bytes() == b"0123456789"
