"""--overlay SRC[:ro|:rw] as records."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.failure import Failure
from overlay.stack.spec import LayerSpec, parse


@pytest.mark.parametrize(
    ("text", "source", "mode"),
    [
        ("over", "over", "auto"),
        ("over:ro", "over", "ro"),
        ("over:rw", "over", "rw"),
        (r"a\:b", "a:b", "auto"),
        (r"a\:b:ro", "a:b", "ro"),
        (r"a\,b", "a,b", "auto"),
        (r"a\\b", r"a\b", "auto"),
        ("dir:x/over", "dir:x/over", "auto"),
    ],
)
def test_a_path_and_its_mode(text: str, source: str, mode: str) -> None:
    assert parse(text) == (LayerSpec(source, mode),)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["over:foo", "over:", "over:RO", "over:ro:xx", ""])
def test_anything_else_is_an_error_that_says_what_is_allowed(text: str) -> None:
    """B8: Apptainer takes any other suffix for rw."""
    with pytest.raises(Failure) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    assert not text or ":ro" in caught.value.cause


@pytest.mark.parametrize("name", ["a:ro", "a,b", "a:b,c:rw", "a\\:b", ":ro"])
def test_a_path_that_exists_is_taken_whole(name: str, tmp_path: Path) -> None:
    """B9."""
    (tmp_path / name).touch()
    assert parse(f"{tmp_path}/{name}") == (LayerSpec(f"{tmp_path}/{name}", "auto"),)
    assert parse(f"{tmp_path}/{name}:ro") == (LayerSpec(f"{tmp_path}/{name}", "ro"),)


def test_a_comma_separates_only_what_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    a, b = f"{tmp_path}/a", f"{tmp_path}/b"
    assert parse(f"{a},{b}:ro") == (LayerSpec(a, "auto"), LayerSpec(b, "ro"))
    assert parse(f"{a},{b}x:ro") == (LayerSpec(f"{a},{b}x", "ro"),)
    monkeypatch.chdir(tmp_path)
    assert parse("a:ro,b:rw") == (LayerSpec("a", "ro"), LayerSpec("b", "rw"))
    with pytest.raises(Failure, match="a:foo"):
        parse("a:foo,b")
