"""Fixtures of all tests, the `needs` marker, and a limit of time for each test."""

from __future__ import annotations

import functools
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import _pytest.tmpdir
import leftovers
import probes
import pytest

pytest_plugins = ["images", "foreign", "layers", "real_images"]

LIMIT = 180  # seconds; a hung payload must not hang the gate


def _sparing_mounts(remove: Callable[..., None]) -> Callable[..., None]:
    """``remove`` that refuses where something is mounted: what escaped from a container may be the host's /dev."""

    @functools.wraps(remove)
    def rmtree(path: str | Path, *args: object, **options: object) -> None:
        if there := leftovers.points(Path(path)):
            raise RuntimeError(f"{path} is not removed, for these are mounted in it: {there}")
        remove(path, *args, **options)

    return rmtree


shutil.rmtree = _sparing_mounts(shutil.rmtree)  # type: ignore[assignment]
_pytest.tmpdir.rmtree = shutil.rmtree  # type: ignore[attr-defined]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(capability, ...): skip where this host lacks one, saying which")
    config.addinivalue_line("markers", "limit(seconds): let this test run longer than the rest")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        probes.require(*mark.args)


def _too_long(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError("the test ran longer than its limit")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    mark = item.get_closest_marker("limit")
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(mark.args[0] if mark else LIMIT)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
