"""Carrying over with others: into an image of Apptainer's, and from the upper of a real overlayfs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from commit_carry import carry, delete, names
from delta_model import comparable, of_directory
from probes import needs, only_root

from overlay.extread.reader import ExtReader
from overlay.manage import create
from overlay.section import Section

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
MIB = 2**20


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    path = tmp_path / "upper"
    path.mkdir()
    return path


@pytest.fixture
def section(tmp_path: Path) -> Section:
    return create.create_ext3(str(tmp_path / "image"), 16 * MIB, sparse=True).section


def test_an_image_of_apptainer(tmp_path: Path, upper: Path) -> None:
    image = GOLDEN / "09-overlay-create-dir-user.img.zst"
    zstd = shutil.which("zstd")
    if not image.exists() or zstd is None:
        pytest.skip("no golden images beside this checkout, or no zstd")
    path = tmp_path / "apptainer.img"
    subprocess.run([zstd, "-q", "-d", str(image), "-o", str(path)], check=True)
    path.chmod(0o600)  # zstd gives it the mode of the packed one
    section = Section(str(path), 0, path.stat().st_size)
    before = names(section)
    for number in range(500):
        (upper / f"file {number}").write_bytes(b"x" * number * 7)
    os.setxattr(upper / "file 7", "user.x", b"y" * 500)
    carry(section, upper)
    assert names(section) - before == {b"file %d" % number for number in range(500)}
    with ExtReader(section) as reader:
        assert reader.superblock.refused_by_apptainer == ()
    for number in range(500):
        delete(upper / f"file {number}")
    carry(section, upper)
    assert names(section) == before


SESSION = """
set -e
echo appended >> old; rm -r tree; mkdir tree; echo new > tree/new
rm base-file; rm -r base-tree/sub; mv moved elsewhere; ln old hard; chmod -R 700 kept
rm image-file; rm -r replaced; echo now a file > replaced; mkfifo fifo; ln -s nowhere link
mkdir -p fresh/er; truncate -s 3 base-tree/long; rm -r both; mkdir both; touch both/mine
"""


@only_root
@needs("loop", "overlayfs")
def test_the_upper_of_a_real_overlayfs(section: Section, upper: Path, tmp_path: Path) -> None:
    """What a session sees is what the next run sees: the image over the base instead of upper, image and base."""
    base = tmp_path / "base"
    for name in ("base-file", "base-tree/sub/file", "base-tree/long", "both/of base", "kept/a", "moved"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(f"base {name}")
    for name in ("old", "tree/a/b", "image-file", "replaced/x", "both/of image", "kept/b"):
        (upper / name).parent.mkdir(parents=True, exist_ok=True)
        (upper / name).write_text(f"image {name}")
    carry(section, upper, base)
    seen = through_overlayfs(section, base, upper, tmp_path, SESSION)
    for name in ("mnt", "work"):
        shutil.rmtree(tmp_path / name)
    carry(section, upper, base)
    assert through_overlayfs(section, base, upper, tmp_path, "true") == seen


def through_overlayfs(section: Section, base: Path, upper: Path, top: Path, script: str) -> object:
    image, work, mnt = top / "mounted", top / "work", top / "mnt"
    for path in (image, work, mnt):
        path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "ext3", "-o", "ro,noload,loop", section.path, str(image)], check=True)
    try:
        options = f"userxattr,lowerdir={image}/upper:{base},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(mnt)], check=True)
        try:
            subprocess.run(["sh", "-c", script], cwd=mnt, check=True)
            model = of_directory(os.fsencode(mnt))
            del model[b""]  # the top directory is that of the upper, made anew for each run
            # The mark for root's driver shows through a mount with userxattr.
            return comparable({path: each._replace(opaque=False) for path, each in model.items()}, nanoseconds=True)
        finally:
            subprocess.run(["umount", str(mnt)], check=True)
    finally:
        subprocess.run(["umount", str(image)], check=True)
