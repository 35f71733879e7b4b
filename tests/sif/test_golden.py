"""siftool's images: our text is its text, our bytes are its bytes."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from sifkit import sif
from sifkit.cli import sif_text
from sifkit.cli.sif_cmd import sif as command

RECIPES = ["empty", "every-type", "deleted", "setprim", "full", "nothing"]


def _printed(path: str) -> list[tuple[str, str]]:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(command, [*arguments, path])
        assert result.exit_code == 0, result.output
        return result.stdout

    found = [("header", run("header")), ("list", run("list"))]
    with sif.open(path) as image:
        return found + [(f"info {d.id}", run("info", str(d.id))) for d in image.objects]


@pytest.mark.parametrize("name", [*RECIPES, "odd"])
def test_text_is_siftools(siftool_image: Callable[[str], str], generate: ModuleType, name: str) -> None:
    parts = re.split(r"(?m)^\$ siftool (.*)\n", generate.text(name))[1:]
    expected = list(zip(parts[::2], parts[1::2], strict=True))
    assert _printed(siftool_image(name)) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_bytes_are_siftools(tmp_path: Path, generate: ModuleType, name: str) -> None:
    wanted = generate.image(name)
    theirs = tmp_path / "theirs.sif"
    theirs.write_bytes(wanted)
    with sif.open(theirs) as image:
        header = image.header
    ours = tmp_path / "ours.sif"
    generate.by_library(name, str(ours), uuid.UUID(bytes=header.uuid), header.created)
    assert ours.read_bytes() == wanted


def test_text_of_golden_images(golden: Path) -> None:
    seen = 0
    for path in golden.glob("*.sif"):
        text = Path(f"{path}.siftool.txt").read_text()
        parts = re.split(r"(?m)^--- siftool (.*)\n", text)[1:]
        ours = dict(_printed(str(path)))
        for name, expected in zip(parts[::2], parts[1::2], strict=True):
            printed = re.sub(r"(?m)^rc=0\n", "", expected)
            # The text of the full table was cut to its first lines when it was made.
            assert ours[name] == printed or (name == "list" and printed.count("\n") == 30), (path.name, name)
            assert ours[name].startswith(printed)
            seen += 1
    assert seen > 50


@pytest.mark.parametrize("name", RECIPES)
def test_siftools_images_are_sound(siftool_image: Callable[[str], str], name: str) -> None:
    assert sif.check(siftool_image(name)) == []


def test_golden_images_are_sound(golden: Path) -> None:
    assert {path.name: sif.check(path) for path in golden.glob("*.sif") if sif.check(path)} == {}


def test_json_says_the_same(siftool_image: Callable[[str], str]) -> None:
    path = siftool_image("every-type")
    run = CliRunner().invoke
    header = json.loads(run(command, ["header", "--json", path]).stdout)
    assert (header["primary_architecture"], header["descriptors_free"], header["data_offset"]) == ("amd64", 36, 32176)
    listed = json.loads(run(command, ["list", "--json", path]).stdout)
    assert [o["id"] for o in listed] == list(range(1, 13))
    info = json.loads(run(command, ["info", "--json", "4", path]).stdout)
    assert info == listed[3]
    assert (info["filesystem_type"], info["name"], info["group"]) == ("Squashfs", "rootfs", 1)
    assert listed[4]["entity"] == "433FE984155206BD962725E20E8713472A879943"
    assert json.loads(run(command, ["check", "--json", path]).stdout) == []


@pytest.mark.parametrize(("size", "text"), [
    (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1535, "1 KiB"), (1536, "2 KiB"), (2560, "2 KiB"),
    (1048575, "1024 KiB"), (1048576, "1 MiB"), (-1, "-1 B"), (2**63 - 1, "8 EiB"), (28080, "27 KiB"),
])  # fmt: skip
def test_sizes(size: int, text: str) -> None:
    assert sif_text.size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "1970-01-01 00:00:00 +0000 UTC"), (951782400, "2000-02-29 00:00:00 +0000 UTC"),
    (-62135596800, "0001-01-01 00:00:00 +0000 UTC"), (2**62, "146138514283-06-19 07:45:04 +0000 UTC"),
    (-62167219201, "-0001-12-31 23:59:59 +0000 UTC"), (-(2**63), "292277026596-12-04 15:30:08 +0000 UTC"),
])  # fmt: skip
def test_times_are_gos(seconds: int, text: str) -> None:
    assert sif_text.go_time(seconds) == text


def test_control_characters_are_escaped() -> None:
    assert sif_text.printable("a\x1b[31m\nb\t\x7f\udcff\u202e é\\") == "a\\x1b[31m\\nb\\t\\x7f\\xff\\u202e é\\"
