"""SIGTERM and SIGHUP, as batch systems and lost terminals send them, end a command as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from images import Program
from running import wait_for

MANY = 5_000  # files, which take much longer to make than a signal to arrive


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    overlay = tmp_path_factory.mktemp("source")
    (overlay / "work").mkdir()
    (overlay / "upper/many").mkdir(parents=True)
    for number in range(MANY):
        (overlay / f"upper/many/{number}").touch()
    return overlay


def begun(sifkit: Program, source: Path, place: Path, **options: object) -> subprocess.Popen[bytes]:
    """A command that has begun to make a directory in ``place``."""
    argv = [sifkit.path, "overlay", "convert", str(source), f"{place}/new/"]
    work = subprocess.Popen(argv, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]
    wait_for(lambda: list(place.glob(".sifkit-*.new")), "something that is made")
    return work  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_was_begun_is_removed(sifkit: Program, source: Path, tmp_path: Path, number: signal.Signals) -> None:
    with begun(sifkit, source, tmp_path) as work:
        work.send_signal(number)
        _, said = work.communicate(timeout=60)
    assert (work.returncode, said.strip()) == (128 + number, b"")
    assert os.listdir(tmp_path) == []


def test_what_is_ignored_stays_ignored(sifkit: Program, source: Path, tmp_path: Path) -> None:
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731  as nohup does
    with begun(sifkit, source, tmp_path, preexec_fn=ignore) as work:
        work.send_signal(signal.SIGHUP)
        work.send_signal(signal.SIGTERM)
        work.communicate(timeout=60)
    assert work.returncode == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == []
