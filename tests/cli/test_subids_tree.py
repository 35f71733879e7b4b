"""Overlays read without regard to owners: when subordinate ids are asked for, and how often."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from probes import only_user

from sifkit.cli import subids
from sifkit.cli.subids_tree import OwnerlessTree
from sifkit.runtime.idmap import IdMap, Span

IDS = IdMap((Span(0, 1000, 1), Span(1, 100000, 65536)), (Span(0, 1000, 1), Span(1, 100000, 65536)))


@pytest.fixture
def changes(tmp_path: Path) -> Path:
    """An overlay with a file, and another in a directory."""
    (tmp_path / "changes/upper/within").mkdir(parents=True)
    for name in ("file", "within/other"):
        (tmp_path / "changes/upper" / name).write_text(name)
    return tmp_path / "changes"


class Asked:
    """In place of the namespace: opens, or does not, what is closed."""

    def __init__(self, closed: Iterable[Path], ids: IdMap | None) -> None:
        self.closed = list(closed)
        self.ids = ids
        self.words: list[str] = []
        for path in self.closed:
            path.chmod(0)

    def __call__(self, words: Iterable[str]) -> IdMap | None:
        self.words += words
        for path in self.closed if self.ids else ():
            path.chmod(0o755)
        return self.ids


def test_of_what_is_open_nobody_is_asked(changes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked([], None)
    monkeypatch.setattr(subids, "enter_for", asked)
    with OwnerlessTree(str(changes / "upper")) as tree:
        assert [path for path, _ in tree.walk()] == [b"file", b"within", b"within/other"]
        for _, entry in tree.walk():
            tree.xattrs(entry)
            assert entry.is_directory or tree.open(entry).read()
    assert asked.words == []


@only_user
@pytest.mark.parametrize("name", ["file", "within", ""])
def test_what_is_closed_is_read_after_all(changes: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked = Asked([changes / "upper" / name], IDS)
    monkeypatch.setattr(subids, "enter_for", asked)
    with OwnerlessTree(str(changes / "upper")) as tree:
        found = dict(tree.walk())
        assert sorted(found) == [b"file", b"within", b"within/other"]
        assert tree.open(found[b"file"]).read() == b"file"
    assert asked.words == [str(changes)]


@only_user
def test_in_vain_it_is_asked_once(changes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked([changes / "upper/file", changes / "upper/within"], None)
    monkeypatch.setattr(subids, "enter_for", asked)
    with OwnerlessTree(str(changes / "upper")) as tree:
        file, within = tree.listdir(tree.top)
        with pytest.raises(PermissionError):
            tree.listdir(within)
        with pytest.raises(PermissionError):
            tree.open(file)
    assert asked.words == [str(changes)]
