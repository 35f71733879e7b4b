"""Archives that nobody means well with, or that go to the limits of what one may hold."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from overlay.tree.layer import content
from overlay.tree.tar import TarTree
from overlay.tree.tar_index import TarError


def archive(place: Path, members: Iterable[tarfile.TarInfo]) -> TarTree:
    with tarfile.open(place / "odd.tar", "w", format=tarfile.PAX_FORMAT) as made:
        for member in members:
            made.addfile(member, io.BytesIO(bytes(member.size)))
    return TarTree((place / "odd.tar").open("rb"), lambda stream: stream)


@pytest.mark.parametrize("name", [".wh..", ".wh..."])
def test_a_whiteout_of_what_is_no_name_is_a_file(tmp_path: Path, name: str) -> None:
    tree = archive(tmp_path, [tarfile.TarInfo(name)])
    found = content(tree, tree.top)
    tree.close()
    assert ([entry.name.decode() for entry in found.entries], found.deleted) == ([name], [])


def test_directories_may_be_nested_deeper_than_calls_may(tmp_path: Path) -> None:
    tree = archive(tmp_path, [tarfile.TarInfo("d/" * 3000 + "file"), tarfile.TarInfo("d/" * 2000 + "other")])
    depth, here = 0, tree.top
    while below := [entry for entry in tree.listdir(here) if entry.is_directory]:
        depth, here = depth + 1, below[0]
    assert (depth, [entry.name for entry in tree.listdir(here)]) == (3000, [b"file"])
    tree.close()


@pytest.mark.parametrize("uid", [2**32, 2**33, -(2**31) - 1])
def test_an_owner_that_is_no_uid_does_not_become_another(tmp_path: Path, uid: int) -> None:
    member = tarfile.TarInfo("a")
    member.uid = uid
    with pytest.raises(TarError, match="impossible numbers"):
        archive(tmp_path, [member])
