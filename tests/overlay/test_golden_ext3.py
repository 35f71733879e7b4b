"""Images made by Apptainer: classified, read, locked, checked and told of."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from overlay import whiteout
from overlay.extread.reader import ExtReader
from overlay.locks import lock
from overlay.manage import check
from overlay.manage.info import inspect
from overlay.probe import Kind, classify
from overlay.section import Section

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
MIB = 2**20

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no golden images beside this checkout")


def unpack(name: str, tmp_path: Path) -> Path:
    zstd = shutil.which("zstd")
    if zstd is None:
        pytest.skip("the program zstd is missing")
    image = tmp_path / name.removesuffix(".zst")
    subprocess.run([zstd, "-q", "-d", str(GOLDEN / name), "-o", str(image)], check=True)
    image.chmod(0o600)
    return image


def test_an_image_of_overlay_create(tmp_path: Path) -> None:
    image = unpack("09-overlay-create-dir-user.img.zst", tmp_path)
    found = classify(str(image))
    assert (found.kind, found.problem, found.notes) == (Kind.EXT3, "", ())
    with ExtReader(found.section) as reader:
        paths = dict(reader.walk())
        assert not whiteout.scan_image(reader).opaque
    assert {b"upper", b"work", b"lost+found"} <= set(paths)
    assert (paths[b"upper"].uid, paths[b"upper"].gid) == (1000, 1000)
    assert any(path.startswith(b"upper/") for path in paths)
    told = inspect(str(image))
    assert told.upper_owner == (1000, 1000)
    assert told.state == "clean"
    assert any("blocks of 1 KiB" in note for note in told.notes)
    assert any("reserved for root" in note for note in told.notes)
    with lock.acquire(found.section, exclusive=True):
        assert check.check(found.section, mend=True, force=True).outcome is check.Outcome.CLEAN


@pytest.mark.parametrize("name", ["04-embedded-overlay-2M.sif", "04-embedded-overlay-64M.sif.zst"])
def test_an_embedded_overlay(name: str, tmp_path: Path) -> None:
    image = unpack(name, tmp_path) if name.endswith(".zst") else Path(shutil.copy(GOLDEN / name, tmp_path))
    offset, size = overlay_partition(GOLDEN / (name.removesuffix(".zst") + ".siftool.txt"))
    assert classify(str(image)).kind is Kind.SIF
    found = classify(str(image), offset, size)
    assert (found.kind, found.problem) == (Kind.EXT3, "")
    with ExtReader(found.section) as reader:
        upper = reader.lookup(b"/upper")
        assert upper is not None
        if "2M" in name:
            content = reader.lookup(b"/upper/data/f")
            assert content is not None
            assert reader.open(content).read()
    before = image.read_bytes()
    assert check.check(found.section, mend=False).outcome is check.Outcome.CLEAN
    assert image.read_bytes() == before


def overlay_partition(listing: Path) -> tuple[int, int]:
    """Offset and size of the overlay partition, from what siftool printed of the image."""
    line = next(line for line in listing.read_text().splitlines() if "Ext3/Overlay" in line)
    start, _, end = line.split("|")[3].strip().partition("-")
    return int(start), int(end) - int(start)


def test_a_directory_that_fuse_overlayfs_left(tmp_path: Path) -> None:
    with tarfile.open(GOLDEN / "10-dir-overlay-user.tar") as archive:
        for member in archive:
            target = tmp_path / member.name
            if member.isdir():
                target.mkdir()
            elif member.ischr():
                os.mknod(target, 0o020000, os.makedev(member.devmajor, member.devminor))
            else:
                target.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
    upper = tmp_path / "od-alice/upper"
    names = sorted(str(path.relative_to(upper)) for path in upper.rglob("*"))
    assert whiteout.normalise_directory(str(upper)) == 0
    assert sorted(str(path.relative_to(upper)) for path in upper.rglob("*")) == names
    assert whiteout.is_whiteout((upper / "etc/issue").lstat().st_mode, (0, 0))


def test_a_section_of_a_golden_image_is_a_section() -> None:
    offset, size = overlay_partition(GOLDEN / "04-embedded-overlay-2M.sif.siftool.txt")
    section = Section(str(GOLDEN / "04-embedded-overlay-2M.sif"), offset, size)
    with lock.acquire(section, exclusive=False):
        assert lock.in_use(section) == "read"
