"""Values that do not fit the field they are for: status 2 and one sentence, and the image is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from overlay.failure import Failure
from sifkit import sif
from sifkit.cli.sif_cmd import sif as command


@pytest.mark.parametrize("words", [
    ["--groupid", "-1"], ["--groupid", str(1 << 28)], ["--groupid", "4294967296"],
    ["--link", "-1"], ["--link", "4294967296"], ["--link-group", "-1"], ["--link", "1", "--link-group", "1"],
    ["--filename", "n" * 129],
])  # fmt: skip
@pytest.mark.parametrize("verb", ["add", "set"])
def test_numbers_and_names(image: str, tmp_path: Path, verb: str, words: list[str]) -> None:
    before = Path(image).read_bytes()
    source = tmp_path / "object"
    source.write_bytes(b"text")
    what = ["add", image, str(source), "--datatype", "7"] if verb == "add" else ["set", "1", image]
    result = CliRunner().invoke(command, [*what, *words])
    assert isinstance(result.exception, Failure)
    assert result.exception.exit_code == 2
    assert result.exception.cause
    assert result.stderr == ""
    assert Path(image).read_bytes() == before


@pytest.mark.parametrize("words", [
    ["--datatype", "99"], ["--datatype", "-1"], ["--datatype", "4294967296"], ["--datatype", "9" * 5000],
    ["--datatype", "4", "--parttype", "99"], ["--datatype", "4", "--parttype", "4", "--partarch", "99"],
    ["--datatype", "4", "--parttype", "4", "--partfs", "99"],
])  # fmt: skip
def test_numbers_that_stand_for_words(image: str, words: list[str]) -> None:
    result = CliRunner().invoke(command, ["add", image, image, *words])
    assert result.exit_code == 2
    assert "is not one of 1-" in result.stderr


def test_capacity(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["new", "--capacity", "4294967296", str(tmp_path / "x.sif")])
    assert isinstance(result.exception, Failure)
    assert result.exception.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_fill_its_field(image: str, tmp_path: Path) -> None:
    """128 bytes and no NUL, as siftool writes and reads them."""
    source = tmp_path / "object"
    source.write_bytes(b"text")
    result = CliRunner().invoke(command, ["add", image, str(source), "--datatype", "7", "--filename", "n" * 128])
    assert result.exit_code == 0
    with sif.open(image) as opened:
        assert opened.objects[-1].name_text == "n" * 128
    result = CliRunner().invoke(command, ["check", image])
    assert (result.exit_code, result.stdout) == (0, f"{image}: nothing wrong\n")


def test_hard_links_are_no_wrong_command_line(image: str, tmp_path: Path) -> None:
    (tmp_path / "other").hardlink_to(image)
    sif.delete(image, 1)
    result = CliRunner().invoke(command, ["compact", image])
    assert isinstance(result.exception, Failure)
    assert result.exception.exit_code == 255
