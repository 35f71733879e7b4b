"""`sifkit overlay ps`: every kind of overlay in use, by processes with and without a record."""

from __future__ import annotations

import fcntl
import json
import os
import struct
from pathlib import Path

from click.testing import CliRunner

from overlay.locks import lock
from overlay.manage.create import create_ext3
from overlay.section import Section
from sifkit import sif
from sifkit.cli.commands import cli

MIB = 2**20


def ps(*words: str) -> str:
    done = CliRunner().invoke(cli, ["overlay", "ps", *words])
    assert done.exit_code == 0, done.output
    return done.output


def lines(directory: Path) -> list[str]:
    """The lines about overlays in ``directory``; others on this host may use theirs."""
    return [line for line in ps().splitlines() if str(directory) in line]


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "changes").mkdir()
    with lock.acquire(str(tmp_path / "changes"), exclusive=True):
        (line,) = lines(tmp_path)
        assert line.split()[:2] == ["write", str(os.getpid())]
        assert f" {tmp_path}/changes: " in line
        assert line.split()[2] != "-"
    assert not lines(tmp_path)


def test_an_image_and_its_json(tmp_path: Path) -> None:
    section = create_ext3(str(tmp_path / "a b.img"), 64 * MIB, sparse=True).section
    with lock.acquire(section, exclusive=False):
        (found,) = [use for use in json.loads(ps("--json")) if use["path"] == section.path]
    assert (found["target"], found["offset"], found["kind"]) == (section.path, 0, "ext3")
    (holder,) = found["holders"]
    assert (holder["pid"], holder["exclusive"], holder["alive"]) == (os.getpid(), False, True)


def test_a_process_without_a_record(tmp_path: Path) -> None:
    section = create_ext3(str(tmp_path / "i.img"), 64 * MIB, sparse=True).section
    with open(section.path, "r+b") as file:
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 64 * MIB, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, request)
        (line,) = lines(tmp_path)
        assert line.split()[:3] == ["write", str(os.getpid()), "-"]
        os.unlink(section.path)  # still locked, and still somebody's
        assert len(lines(tmp_path)) == 1


def test_partitions_of_a_sif_image(tmp_path: Path, rootfs_squash: Path) -> None:
    path = str(tmp_path / "i.sif")
    image = create_ext3(str(tmp_path / "o.img"), 64 * MIB, sparse=True).section.path
    sif.create(
        path,
        [
            sif.partition(rootfs_squash, sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64"),
            sif.partition(image, sif.FsType.EXT3, sif.PartType.OVERLAY, "amd64"),
        ],
    )
    with sif.open(path) as opened:
        root, part = (Section(path, d.offset, d.size) for d in opened.objects)
    with lock.acquire(root, exclusive=False), lock.acquire(part, exclusive=True):
        (line,) = lines(tmp_path)
        assert f" {path}#2: " in line
    with sif.editing(path):  # whoever edits the table uses no overlay
        assert not lines(tmp_path)
