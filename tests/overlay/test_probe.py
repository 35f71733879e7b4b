"""Classification: every kind of file has its own sentence, and no more than 2 KiB is read."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import superblock
from overlay.probe import Kind, Probe, classify
from overlay.tools import find

MIB = 2**20


def mkfs(path: Path, *options: str, size: int = 8 * MIB) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    mke2fs = find("mke2fs")
    assert mke2fs is not None
    subprocess.run([mke2fs, "-q", "-F", *options, str(path)], check=True, env={"MKE2FS_CONFIG": "/dev/null"})
    return path


def squash(tmp_path: Path) -> Path:
    mksquashfs = find("mksquashfs")
    if mksquashfs is None:
        pytest.skip("mksquashfs is not installed")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    image = tmp_path / "a.sqfs"
    subprocess.run([mksquashfs, str(tmp_path / "tree"), str(image), "-quiet"], check=True, stdout=subprocess.DEVNULL)
    return image


def test_directory(tmp_path: Path) -> None:
    assert classify(str(tmp_path)).kind is Kind.DIRECTORY


@pytest.mark.parametrize(
    ("options", "kind", "refused"),
    [
        (("-t", "ext3", "-O", "has_journal", "-J", "size=1"), Kind.EXT3, ()),
        (("-t", "ext2"), Kind.EXT2, ("no has_journal",)),
        (("-t", "ext4", "-O", "extent,has_journal", "-J", "size=1"), Kind.EXT4, ("extent",)),
        (
            ("-t", "ext2", "-O", "extent,64bit,metadata_csum"),
            Kind.EXT4,
            ("no has_journal", "extent", "64bit", "metadata_csum"),
        ),
    ],
)
def test_ext(tmp_path: Path, options: tuple[str, ...], kind: Kind, refused: tuple[str, ...]) -> None:
    probe = classify(str(mkfs(tmp_path / "i", "-b", "1024", *options)))
    assert (probe.kind, probe.problem) == (kind, "")
    assert probe.is_ext
    assert probe.ext is not None
    assert probe.ext.refused_by_apptainer == refused
    assert bool(probe.notes) == bool(refused)


def test_superblock_agrees_with_dumpe2fs(tmp_path: Path) -> None:
    image = mkfs(tmp_path / "i", "-t", "ext3", "-j", "-b", "4096", "-m", "3", "-L", "label", size=64 * MIB)
    dumpe2fs = find("dumpe2fs")
    assert dumpe2fs is not None
    said = subprocess.run([dumpe2fs, "-h", str(image)], check=True, capture_output=True, text=True).stdout
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in said.splitlines())}
    sb = classify(str(image)).ext
    assert sb is not None
    assert sb.inodes == int(fields["Inode count"])
    assert sb.blocks == int(fields["Block count"])
    assert sb.free_blocks == int(fields["Free blocks"])
    assert sb.free_inodes == int(fields["Free inodes"])
    assert sb.reserved_blocks == int(fields["Reserved block count"])
    assert sb.inode_size == int(fields["Inode size"])
    assert sb.uuid.hex() == fields["Filesystem UUID"].replace("-", "")
    assert sb.label == b"label"
    assert set(sb.features) == set(fields["Filesystem features"].split())
    assert sb.clean
    assert sb.has_journal
    assert sb.journal_inode == 8


def test_squashfs_whole_and_cut(tmp_path: Path) -> None:
    image = squash(tmp_path)
    probe = classify(str(image))
    assert (probe.kind, probe.problem) == (Kind.SQUASHFS, "")
    assert probe.squash is not None
    assert probe.squash.compression == "gzip"
    os.truncate(image, 120)
    assert classify(str(image)).problem.startswith("truncated: the squashfs needs")


def test_at_an_offset(tmp_path: Path) -> None:
    inner = mkfs(tmp_path / "i", "-t", "ext3", "-j", "-J", "size=1", "-b", "1024").read_bytes()
    outer = tmp_path / "o"
    outer.write_bytes(b"x" * 4096 + inner + b"tail")
    assert classify(str(outer), 4096, len(inner)).kind is Kind.EXT3
    assert classify(str(outer)).kind is Kind.UNKNOWN
    assert classify(str(outer), 4096, len(inner) + 5).problem.startswith("truncated")
    assert classify(str(outer), 10**12).problem == "the file is empty"


def test_sentences(tmp_path: Path) -> None:
    image = tmp_path / "i"
    texts: dict[str, bytes] = {
        "empty": b"",
        "zeros": bytes(5000),
        "gunzip": b"\x1f\x8b\x08" + bytes(50),
        "unzstd": b"\x28\xb5\x2f\xfd" + bytes(50),
        "LUKS": b"LUKS\xba\xbe" + bytes(50),
        "tail -c +32": b"#!/usr/bin/env run-singularity\n" + bytes(3000),
        "neither a directory": b"hello\n",
        "squashfs version": b"hsqs" + bytes(100),
        "tar archive": b"a" + bytes(256) + b"ustar" + bytes(300),
    }
    for words, data in texts.items():
        image.write_bytes(data)
        probe = classify(str(image))
        assert words in probe.problem, probe
    assert classify("/dev/null").problem == "it is a character device, not a file or directory"


def test_sif_is_named(tmp_path: Path) -> None:
    image = tmp_path / "i"
    image.write_bytes(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0" + bytes(100))
    assert classify(str(image)).kind is Kind.SIF


def test_pipe_and_socket_do_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "p")
    assert "named pipe" in classify(str(tmp_path / "p")).problem
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the path of a socket may have 108 bytes only
        server.bind("s")
        assert "socket" in classify(str(tmp_path / "s")).problem


def test_truncated(tmp_path: Path) -> None:
    image = mkfs(tmp_path / "i", "-t", "ext3", "-j", "-J", "size=1", "-b", "1024")
    os.truncate(image, 5 * MIB)
    assert classify(str(image)).problem == f"truncated: the file system needs {8 * MIB} bytes, {5 * MIB} are there"
    os.truncate(image, 1500)
    assert classify(str(image)).problem.startswith("truncated")


def test_missing_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        classify(str(tmp_path / "no"))
    assert caught.value.filename == str(tmp_path / "no")


@given(st.dictionaries(st.integers(0, 511), st.integers(0, 2**16 - 1), max_size=12))
def test_any_superblock_is_parsed_or_refused(words: dict[int, int]) -> None:
    data = bytearray(BASE)
    for index, value in words.items():
        data[2 * index : 2 * index + 2] = value.to_bytes(2, "little")
    try:
        parsed = superblock.parse(bytes(data))
    except superblock.ExtError:
        return
    assert parsed.groups > 0
    assert parsed.features or not (parsed.compat | parsed.incompat | parsed.ro_compat)


def _base() -> bytes:
    data = bytearray(1024)
    for at, value in ((0, 128), (4, 8192), (20, 1), (32, 8192), (36, 8192), (40, 128), (76, 1), (84, 11)):
        data[at : at + 4] = value.to_bytes(4, "little")
    data[56:58] = (0xEF53).to_bytes(2, "little")
    data[88:90] = (256).to_bytes(2, "little")
    return bytes(data)


BASE = _base()


def test_base_superblock_is_valid() -> None:
    assert superblock.parse(BASE).blocks == 8192


def test_probe_is_plain_data(tmp_path: Path) -> None:
    assert isinstance(classify(str(tmp_path)), Probe)
