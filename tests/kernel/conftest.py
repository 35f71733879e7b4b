"""Fixtures of the tests that run containers: in the background, and with a look at what is left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import leftovers
import pytest
from images import Program, make_rootfs
from running import Running, Start


@pytest.fixture
def start(sifkit: Program, tmp_path: Path) -> Iterator[Start]:
    """Start the program in the background: ``start("exec", ..., env=, cwd=)``; `Running` tells the rest.

    Temporary directories of the run are made in one of its own. At the end of the test nothing may be left:
    no process, no mount, no temporary directory.
    """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    before = leftovers.mounts()
    started: list[Running] = []

    def start_one(*argv: str, env: dict[str, str] | None = None, **options: object) -> Running:
        environment = {**(os.environ if env is None else env), "TMPDIR": str(temporary)}
        started.append(Running(sifkit.path, *argv, env=environment, **options))
        return started[-1]

    try:
        yield start_one
        for running in started:
            running.process.wait(30)
            running.gone()
        assert leftovers.mounts() == before
        assert list(temporary.iterdir()) == []
    finally:
        for running in started:
            running.close()


@pytest.fixture
def overlay_dir(tmp_path: Path) -> Path:
    """An empty directory overlay."""
    path = tmp_path / "changes"
    path.mkdir()
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system to change."""
    return make_rootfs(tmp_path / "image")


@pytest.fixture
def bare(tree: Path) -> Path:
    """One without a shell: two programs and nothing that is usually there."""
    busybox = tree.with_name("busybox")
    shutil.copy(tree / "bin/busybox", busybox)
    shutil.rmtree(tree)
    (tree / "bin").mkdir(parents=True)
    for name in ("env", "pwd"):
        shutil.copy(busybox, tree / "bin" / name)
    return tree
