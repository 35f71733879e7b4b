"""``sifkit sif``: flags in siftool's numbers and in words, what is said, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest
from sif_calls import call, failure

from sifkit import sif
from sifkit.cli.sif_cmd import sif as command

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


PARTITION = ("--datatype", "--partfs", "--parttype", "--partarch")


def one(path: object, number: int) -> sif.Descriptor:
    with sif.open(str(path)) as image:
        return image.one(sif.by_id(number))


def test_new_and_add_in_numbers_and_in_words(tmp_path: Path, generate: ModuleType) -> None:
    """B31, too: the name is stored when it is given."""
    squashfs, ext3 = tmp_path / "s", tmp_path / "e"
    squashfs.write_bytes(generate.squashfs_head())
    ext3.write_bytes(generate.ext3_head())
    made = []
    for words in (False, True):
        path = tmp_path / f"{words}.sif"
        assert call("new", path).exit_code == 0
        kinds = ("partition", "squashfs", "primsys", "amd64") if words else ("4", "1", "2", "2")
        flags = [f"{flag}={kind}" for flag, kind in zip(PARTITION, kinds, strict=True)]
        assert call("add", path, squashfs, *flags, "--groupid", "1", "--filename", "root").exit_code == 0
        kinds = ("partition", "ext3", "overlay", "amd64") if words else ("4", "2", "4", "2")
        flags = [f"{flag}={kind}" for flag, kind in zip(PARTITION, kinds, strict=True)]
        assert call("add", path, ext3, *flags, "--groupid", "1").exit_code == 0
        signature = ("signature", "sha256") if words else ("5", "1")
        assert call("add", path, squashfs, "--datatype", signature[0], "--signhash", signature[1],
                    "--signentity", generate.FINGERPRINT, "--link", 1).exit_code == 0  # fmt: skip
        with sif.open(path) as image:
            made.append([d._replace(created=0, modified=0) for d in image.objects])
    assert made[0] == made[1]
    assert [d.name_text for d in made[0]] == ["root", "", ""]
    assert call("list", tmp_path / "True.sif").stdout.count("FS (Ext3/Overlay/amd64)") == 1


def test_add_infers_and_says_so(image: str, tmp_path: Path, generate: ModuleType) -> None:
    sif.change(image, 2, group=7)
    ext3 = tmp_path / "e"
    ext3.write_bytes(generate.ext3_head())
    result = call("add", image, ext3, "--datatype", "partition", "--parttype", "overlay")
    assert result.exit_code == 0
    for words in ("group: 7, that of the primary partition, object 2", "Ext3, from the object", "amd64, that of"):
        assert words in result.stderr
    added = one(image, 4)
    assert (added.group_id, added.partition) == (7, sif.PartitionExtra(2, 4, b"02\0"))
    assert result.stdout == ""


def test_add_takes_the_architecture_from_a_program(image: str, tmp_path: Path, generate: ModuleType) -> None:
    ext3 = tmp_path / "e"
    elf = b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + b"\xb7\0"
    ext3.write_bytes(generate.ext3_head()[:8192] + elf.ljust(1024, b"\0") + bytes(56320))
    assert "architecture: arm64, from a program" in call(
        "add", image, ext3, "--datatype", "4", "--parttype", "data"
    ).stderr  # fmt: skip


@pytest.mark.parametrize("compressor", ["gzip", "xz"])
def test_architecture_of_a_real_squashfs(tmp_path: Path, compressor: str) -> None:
    if shutil.which("mksquashfs") is None:
        pytest.skip("no mksquashfs")
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "aaa").write_bytes(b"text" * 50000)
    elf = b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + b"\xf3\0" + bytes(200000)
    (tree / "bin" / "sh").write_bytes(elf)
    out = tmp_path / "s"
    subprocess.run(["mksquashfs", tree, out, "-quiet", "-no-progress", "-comp", compressor], check=True)
    with open(out, "rb") as file:
        assert sif.infer.architecture(file.fileno(), 0, out.stat().st_size) == "riscv64"


def test_standard_input(image: str, generate: ModuleType, run: Run) -> None:
    done = run("add", image, "-", "--datatype", "4", "--parttype", "3", input=generate.squashfs_head())
    assert done.returncode == 0, done.stderr
    assert b"Squashfs, from the object" in done.stderr
    assert one(image, 4).partition == sif.PartitionExtra(1, 3, b"02\0")
    before = Path(image).read_bytes()
    done = run("add", image, "-", "--datatype", "4", "--parttype", "3", "--partfs", "2", input=generate.squashfs_head())
    assert b"said to be Ext3, and is Squashfs" in done.stderr
    assert Path(image).read_bytes() == before


def test_an_object_that_is_not_what_is_said(image: str, tmp_path: Path, generate: ModuleType) -> None:
    squashfs, text = tmp_path / "s", tmp_path / "t"
    squashfs.write_bytes(generate.squashfs_head())
    text.write_bytes(b"text")
    before = Path(image).read_bytes()
    for source, fs in ((squashfs, "ext3"), (text, "squashfs"), (text, "5")):
        failed = failure("add", image, source, "--datatype", "4", "--parttype", "4", "--partfs", fs)
        assert "said to be" in failed.cause and "--force" in failed.hint
    assert "--partfs raw" in failure("add", image, text, "--datatype", "4", "--parttype", "4").cause
    assert Path(image).read_bytes() == before
    assert call("add", image, text, "--datatype", "4", "--parttype", "4", "--partfs", "2", "--force").exit_code == 0
    assert call("add", image, text, "--datatype", "4", "--parttype", "4", "--partfs", "raw").exit_code == 0


@pytest.mark.parametrize("arguments", [
    ["--datatype", "0"], ["--datatype", "12"], ["--datatype", "x"], [], ["--datatype", "4"], ["--datatype", "5"],
    ["--datatype", "9"], ["--datatype", "1", "--partfs", "1"], ["--datatype", "4", "--parttype", "5"],
    ["--datatype", "4", "--parttype", "1", "--partfs", "7"], ["--datatype", "4", "--parttype", "1", "--partarch", "14"],
    ["--datatype", "5", "--signhash", "6"], ["--datatype", "5", "--signhash", "1", "--signentity", "abc"],
    ["--datatype", "5", "--signhash", "1", "--signentity", "abcd"], ["--datatype", "9", "--sbomformat", "word"],
    ["--datatype", "1", "--groupid", "x"], ["--datatype", "1", "--sbomformat", "spdx-json"],
])  # fmt: skip
def test_wrong_command_lines_exit_2(image: str, arguments: list[str]) -> None:
    """B32, among them."""
    before = Path(image).read_bytes()
    assert call("add", image, image, *arguments).exit_code == 2
    assert Path(image).read_bytes() == before


@pytest.mark.parametrize("mode", [0o755, 0o444, 0o000])
def test_new_says_that_the_file_was_not_touched(image: str, mode: int) -> None:
    """B2: siftool truncates it."""
    before = Path(image).read_bytes()
    os.chmod(image, mode)
    assert "exists" in failure("new", image).brief
    os.chmod(image, 0o755)
    assert Path(image).read_bytes() == before


def test_links_to_nothing_are_named(image: str, squashfs: str) -> None:
    """A link may come before what it leads to, but rarely is meant to."""
    result = call("add", image, squashfs, "--datatype", 7, "--link", 99)
    assert (result.exit_code, "links to object 99, which is not there" in result.stderr) == (0, True)
    assert "WARNING" not in call("add", image, squashfs, "--datatype", 7, "--link", 1).stderr
    result = call("add", image, squashfs, "--datatype", 7, "--link-group", 7)
    assert (result.exit_code, "links to group 7, which is empty" in result.stderr) == (0, True)


def test_what_cannot_be_an_object_is_no_matter_of_force(image: str, tmp_path: Path) -> None:
    for source in (tmp_path, image):
        assert failure("add", image, source, "--datatype", 7).hint == ""


def test_delete_says_what_stays(image: str) -> None:
    """B29."""
    result = call("del", 2, image)
    assert result.exit_code == 0 and "4096 bytes of the object stay in the file;" in result.stderr
    assert "as zeros" in call("del", 1, image, "--zero").stderr
    assert call("del", 3, image, "--compact").stderr == ""
    assert failure("del", 3, image).cause == "object not found"
    assert "invalid object ID" in failure("del", 0, image).cause


def test_set(image: str, tmp_path: Path) -> None:
    assert call("set", 3, image, "--name", "new", "--group", "0", "--link", "2").exit_code == 0
    changed = one(image, 3)
    assert (changed.name_text, changed.group_id, changed.link_id) == ("new", 0, 2)
    assert call("set", 2, image, "--parttype", "data", "--partarch", "arm64").exit_code == 0
    assert one(image, 2).partition == sif.PartitionExtra(1, 3, b"04\0")
    assert "said to be Ext3" in failure("set", 2, image, "--partfs", "ext3").cause
    assert "not a partition" in failure("set", 3, image, "--parttype", "1").cause
    assert "not an SBOM" in failure("set", 3, image, "--sbomformat", "spdx-json").cause
    assert call("set", 3, image).exit_code == 2


def test_setprim_and_compact(image: str) -> None:
    sif.add(image, sif.partition(b"p", sif.FsType.RAW, sif.PartType.SYSTEM, "arm64"))
    assert call("setprim", 4, image).exit_code == 0
    assert json.loads(call("header", "--json", image).stdout)["primary_architecture"] == "arm64"
    assert "not a partition" in failure("setprim", 1, image).cause
    call("del", 2, image)
    assert "shorter" in call("compact", image).stderr
    assert "nothing to give back" in call("compact", image).stderr


def test_a_signed_image(image: str, tmp_path: Path) -> None:
    sif.add(image, sif.signature(b"about group 1", 1, link_group=1))
    failed = failure("set", 3, image, "--name", "x")
    assert "would break the signature" in failed.cause and "--force" in failed.hint
    for arguments in (["set", 3, image, "--name", "x", "--force"], ["del", 1, image, "--force"]):
        assert "the signature of this image is now broken" in call(*arguments).stderr


def test_names_cannot_write_to_the_terminal(image: str) -> None:
    sif.change(image, 1, name="\x1b]0;owned\x07\nData Type: forged")
    shown = call("info", 1, image).stdout
    assert "\x1b" not in shown and "\\x1b]0;owned\\x07\\nData Type: forged" in shown
    assert json.loads(call("info", 1, image, "--json").stdout)["name"] == "\x1b]0;owned\x07\nData Type: forged"


@pytest.mark.parametrize("arguments", [["list"], ["header"], ["check"], ["compact"], ["info", "1"], ["del", "1"]])
def test_missing_and_foreign_files(tmp_path: Path, arguments: list[str]) -> None:
    missing = failure(*arguments, tmp_path / "missing")
    assert "No such file" in missing.cause and missing.hint.startswith(f"{tmp_path} is the last directory")
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"#!/bin/sh\n" * 100)
    if arguments != ["check"]:
        assert "no SIF magic" in failure(*arguments, foreign).cause
    else:
        assert call("check", foreign).exit_code == 1


def test_check_on_a_sound_image(image: str) -> None:
    result = call("check", image)
    assert (result.exit_code, result.stdout) == (0, f"{image}: nothing wrong\n")


def test_every_option_and_command_has_help() -> None:
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None and found.help and found.epilog and "Example: sifkit sif" in found.epilog
        assert found.help.splitlines()[0].endswith(".")
        for parameter in found.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (name, parameter.name)


def test_nothing_heavy_is_imported_with_the_commands() -> None:
    code = "import sys, sifkit.cli.sif_cmd; print([m for m in ('construct', 'rich', 'json') if m in sys.modules])"
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONPATH": root})
    assert done.stdout == b"[]\n"


def test_the_library_stands_alone(tmp_path: Path) -> None:
    """Reading and editing load neither click nor anything else of ours; asking `is_sif` loads no construct."""
    code = (
        "import sys, os; from sifkit import sif; p = sys.argv[1];"
        "assert not sif.is_sif(sys.executable) and 'construct' not in sys.modules;"
        "sif.create(p, [sif.NewObject(0x4007, b'x')]); sif.delete(p, 1); sif.compact(p); sif.check(p); os.unlink(p);"
        "loaded = [m for m in sys.modules if m.partition('.')[0] in ('click', 'rich', 'overlay', 'sifkit')];"
        "sys.exit(' '.join(m for m in loaded if m != 'sifkit' and not m.startswith('sifkit.sif')) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    arguments = [sys.executable, "-c", code, str(tmp_path / "new.sif")]
    done = subprocess.run(arguments, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
