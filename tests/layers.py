"""Layers over a base in a cache of their own: what the tests of `overlay.metalayer.layers` share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from overlay.metalayer import layers as metalayer
from overlay.metalayer.cache import Stored
from overlay.metalayer.layers import Asked


class Said:
    """Collects what is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.made = 0

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def info(self, text: str) -> None:
        pass

    @contextlib.contextmanager
    def task(self, text: str) -> Iterator[Callable[[int], None]]:
        self.made += 1
        yield lambda done: None


class Setting(NamedTuple):
    """A base, and a cache of its own."""

    base: Path
    said: Said

    def obtain(self, **asked: object) -> Stored:
        """The layer of the base, made or found."""
        wanted = Asked("metadata")._replace(**asked)  # type: ignore[arg-type]
        found = metalayer.obtain(metalayer.base_of(str(self.base)), wanted, self.said, lambda tree: None)
        found.release()
        return found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/sifkit/metadata"


@pytest.fixture
def setting(tmp_path: Path, cache: Path) -> Setting:
    base = tmp_path / "base"
    (base / "etc").mkdir(parents=True)
    (base / "etc/passwd").write_text("root:x:0:0\n")
    (base / "usr/bin").mkdir(parents=True)
    (base / "usr/bin/tool").write_text("#!/bin/sh\n")
    (base / "usr/bin/tool").chmod(0o4755)
    return Setting(base, Said())


def grow(base: Path) -> None:
    """Change a file of the base of `setting`."""
    (base / "etc/passwd").write_text("another:x:1:1\n")
