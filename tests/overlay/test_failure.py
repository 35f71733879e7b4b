"""What an OSError about a path that a user wrote is turned into."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay.failure import Failure, of_path


def opening(path: str) -> Failure:
    with pytest.raises(OSError) as caught:
        os.close(os.open(path, os.O_RDONLY))
    return of_path(f"cannot open {path}", caught.value)


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    for path in (f"{tmp_path}/there/no", f"{tmp_path}/there/no/file", f"{tmp_path}/there/no/"):
        failure = opening(path)
        assert failure.cause == "No such file or directory"
        assert failure.hint == f"{tmp_path}/there is the last directory of that path that exists"
    monkeypatch.chdir(tmp_path)
    assert opening("no").hint == f"{tmp_path} is the last directory of that path that exists"
    assert opening("/cvmfs/no.such.repo/x").hint.endswith("ls /cvmfs/no.such.repo")


def test_a_file_where_a_directory_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.chdir(tmp_path)
    for path, hint in (("file/", "leave out the / at its end"), ("file/in/it", "")):
        failure = opening(path)
        assert (failure.cause, failure.hint) == (f"{file} is a file, not a directory", hint)


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("moved")
    for path in (f"{tmp_path}/link", f"{tmp_path}/link/file"):
        failure = opening(path)
        assert failure.cause == f"{tmp_path}/link is a symbolic link to moved, which is not there"


def test_anything_else_is_as_ever(tmp_path: Path) -> None:
    failure = of_path("cannot write", OSError(28, "", f"{tmp_path}/x"))
    assert failure.cause == f"{tmp_path}/x: No space left on device" and "free space" in failure.hint
    # Without a name, as of an error on a descriptor, and of a directory that is there, nothing more is known.
    assert of_path("cannot read", FileNotFoundError(2, "")).hint == ""
    assert of_path("cannot make", FileNotFoundError(2, "", str(tmp_path))).hint == ""
