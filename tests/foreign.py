"""A base that belongs to somebody else, on the disk: files of a subordinate id, as an administrator's would be.

foreign_tree    makes trees of uid 101: ``foreign_tree(source)``; removed at the end
as_owner        runs a command as who may change them
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import images
import pytest
from probes import IS_ROOT

OWNER = 101
AsOwner = Callable[..., None]
ForeignTree = Callable[..., Path]


def _as_owner(*argv: str) -> list[str]:
    """``argv`` as one who may do everything to files of uid 101 and of the caller."""
    if IS_ROOT:
        return list(argv)
    ids = ["--map-user", str(os.geteuid()), "--map-group", str(os.getegid()), "--map-auto"]
    return ["unshare", *ids, "--setuid", "0", "--setgid", "0", *argv]


@pytest.fixture
def as_owner() -> AsOwner:
    """Run a command that must succeed as who may change what `foreign_tree` made."""

    def act(*argv: str) -> None:
        done = images.run(*_as_owner(*argv))
        assert done.returncode == 0, done.stderr

    return act


@pytest.fixture
def foreign_tree(tmp_path: Path, as_owner: AsOwner) -> Iterator[ForeignTree]:
    """A copy of a tree that belongs to uid 101; needs("subids") for ordinary users."""
    made: list[Path] = []

    def make(source: Path, name: str = "theirs") -> Path:
        made.append(tmp_path / name)
        as_owner("cp", "-a", str(source), str(made[-1]))
        as_owner("chown", "-hR", f"{OWNER}:{OWNER}", str(made[-1]))
        return made[-1]

    yield make
    for path in made:
        as_owner("rm", "-rf", str(path))
