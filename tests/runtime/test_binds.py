"""--bind SRC[:DEST[:OPT]] as steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay.failure import Failure
from sifkit.runtime.binds import parse
from sifkit.runtime.steps import Bind


def test_the_forms(tmp_path: Path) -> None:
    here = str(tmp_path)
    assert parse(here) == (Bind(here, here),)
    assert parse(f"{here}:/x") == (Bind(here, "/x"),)
    assert parse(f"{here}:/x:ro") == (Bind(here, "/x", readonly=True),)
    assert parse(f"{here}:/x:rw") == (Bind(here, "/x"),)
    assert parse(f"{here}:/x:ro,{here}:/y") == (Bind(here, "/x", readonly=True), Bind(here, "/y"))


def test_escapes(tmp_path: Path) -> None:
    odd = tmp_path / "a:b,c"
    odd.mkdir()
    escaped = str(odd).replace(":", r"\:").replace(",", r"\,")
    assert parse(f"{escaped}:/x\\:y") == (Bind(str(odd), "/x:y"),)


def test_a_relative_source_is_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse("data:/x") == (Bind(os.path.realpath(tmp_path / "data"), "/x"),)


@pytest.mark.parametrize("text", ["/tmp:x", "/tmp:/x:bad", "/tmp:/x:ro:more", "/tmp:/../x", ":/x", "", "/tmp,/no/such"])
def test_mistakes(text: str) -> None:
    with pytest.raises(Failure):
        parse(text)
