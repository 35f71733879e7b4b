"""A base that the caller may not read all of: one sentence that names the file, and what to try instead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images import Program
from probes import only_root, only_user


def _base(top: Path) -> Path:
    for name in ("closed", "bin"):
        (top / name).mkdir(parents=True)
    (top / "closed" / "secret").write_text("x")
    (top / "unread").write_text("x")
    return top


def _overlay(top: Path) -> Path:
    (top / "upper" / "closed").mkdir(parents=True)
    (top / "upper" / "closed" / "new").write_text("y")
    (top / "work").mkdir()
    return top


COMMANDS = [
    *(["commit", "OVERLAY", "--base", "BASE", "-o", name] for name in ("n.sif", "n.sqfs", "n/", "n.tar")),
    ["diff", "--base", "BASE", "OVERLAY"],
    ["freeze", "--base", "BASE", "OVERLAY", "-o", "n.sqfs"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: f"{words[0]}-{words[-1]}")
@only_user
def test_a_closed_directory_or_file(sifkit: Program, tmp_path: Path, words: list[str]) -> None:
    """One's own that are closed stand for another's: nobody opens them either, for the base is to stay as it is."""
    base, changes = _base(tmp_path / "base"), _overlay(tmp_path / "changes")
    if words[0] != "commit":  # so that freeze looks into it too; to commit it need not be read then
        os.setxattr(changes / "upper" / "closed", "user.overlay.opaque", b"y")
    given = [{"OVERLAY": str(changes), "BASE": str(base)}.get(word, word) for word in words]
    before = sorted(tmp_path.iterdir())
    for closed in ("closed", "unread") if words[0] == "commit" else ("closed",):
        os.chmod(base / closed, 0)
        done = sifkit("overlay", *given, cwd=tmp_path)
        os.chmod(base / closed, 0o700)
        assert done.returncode == 255
        assert f"cannot read {base / closed}: this " in done.stderr
        assert "of the base is closed to you" in done.stderr
        assert "try: run it as root, or give a SIF" in done.stderr
        assert sorted(tmp_path.iterdir()) == before
    assert sifkit("overlay", *given, cwd=tmp_path).returncode == 0


@only_root
def test_root_reads_all(sifkit: Program, tmp_path: Path) -> None:
    base, changes = _base(tmp_path / "base"), _overlay(tmp_path / "changes")
    os.chmod(base / "closed", 0)
    os.chown(base / "closed", 12345, 12345)
    sifkit.ok("overlay", "commit", str(changes), "--base", str(base), "-o", f"{tmp_path}/new/")
    assert (tmp_path / "new" / "closed" / "secret").read_text() == "x"
