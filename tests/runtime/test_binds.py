"""--bind SRC[:DEST[:OPT]] and --mount as records. 7.5: a checklist of Apptainer's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay.failure import Failure
from sifkit.runtime.binds import Asked, parse, parse_mount


def plain(text: str) -> list[tuple[str, str, bool]]:
    """Source, destination and whether it is read-only."""
    return [(asked.source, asked.destination, asked.readonly) for asked in parse(text)]


def test_the_forms(tmp_path: Path) -> None:
    here = str(tmp_path)
    assert plain(here) == plain(f"{here}:") == [(here, here, False)]
    assert plain(f"{here}:/x") == [(here, "/x", False)]
    assert plain(f"{here}:/x:ro") == [(here, "/x", True)]
    assert plain(f"{here}:/x:rw") == [(here, "/x", False)]
    assert plain(f"{here}:/x:ro,{here}:/y") == [(here, "/x", True), (here, "/y", False)]
    assert plain(f"{here},{here}:/y") == [(here, here, False), (here, "/y", False)]
    assert plain("") == plain(":") == []


def test_destinations_are_made_plain(tmp_path: Path) -> None:
    for text in ("//x/", "/y/../x", "/../x", "/./x/."):
        assert plain(f"{tmp_path}:{text}") == [(str(tmp_path), "/x", False)]


def test_escapes(tmp_path: Path) -> None:
    """7.5 \\, and \\: escape; bare ones do not."""
    odd = tmp_path / "a:b,c"
    odd.mkdir()
    escaped = str(odd).replace(":", r"\:").replace(",", r"\,")
    assert plain(f"{escaped}:/x\\:y") == [(str(odd), "/x:y", False)]
    assert plain(f"{escaped}:/x\\,y:ro,{escaped}") == [(str(odd), "/x,y", True), (str(odd), str(odd), False)]
    for bare in (str(odd).replace(",", r"\,"), str(odd).replace(":", r"\:")):
        with pytest.raises(Failure):
            parse(f"{bare}:/x")


def test_a_relative_source_is_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert plain("data:/x") == [(os.path.realpath(tmp_path / "data"), "/x", False)]


def test_what_is_in_images(tmp_path: Path) -> None:
    image = tmp_path / "i"
    image.touch()
    (asked,) = parse(f"{image}:/x:image-src=/a\\:b")
    assert (asked.of_image, asked.inside, asked.id, asked.readonly) == (True, "/a:b", 0, False)
    first, second = parse(f"{image}:/x:id=4,ro,{image}:/y:image-src=/,id=2")
    assert (first.of_image, first.inside, first.id, first.readonly) == (True, "/", 4, True)
    assert (second.inside, second.id, second.destination) == ("/", 2, "/y")


@pytest.mark.parametrize(
    "text",
    ["/tmp:x", "/tmp:/x:bad", "/tmp:/x:ro:more", ":/x", "/tmp,/no/such", "/tmp:/", "/tmp:/x:id=0", "/tmp:/x:id=a"],
)
def test_mistakes(text: str) -> None:
    """7.5 NonExistentSource, RelativeBindDestination, id=0, unknown option."""
    with pytest.raises(Failure):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "type=bind,source={here},destination=/x,readonly",
        "src={here},dst=/x,ro",
        'type=bind,"src={here}",target=/x,ro=true',
    ],
)
def test_mounts(tmp_path: Path, text: str) -> None:
    asked = parse_mount(text.format(here=tmp_path))
    assert asked._replace(text="") == Asked(str(tmp_path), "/x", True)


def test_mounts_hold_commas_and_colons(tmp_path: Path) -> None:
    odd = tmp_path / 'a:b,c"d'
    odd.mkdir()
    quoted = str(odd).replace('"', '""')
    asked = parse_mount(f'type=bind,"source={quoted}",dst=/x:y,nonested')
    assert (asked.source, asked.destination, asked.readonly, asked.nested) == (str(odd), "/x:y", False, False)


@pytest.mark.parametrize(
    "text",
    [
        *("", "type=tmpfs,src=/tmp,dst=/x", "src=/tmp", "dst=/x", "src=/tmp,dst=/x,odd=1"),
        *("src=/no/such,dst=/x", "src=/tmp,dst=x"),
    ],
)
def test_mistakes_in_mounts(text: str) -> None:
    with pytest.raises(Failure):
        parse_mount(text)
