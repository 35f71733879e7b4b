"""Images to test with: siftool's from testdata/sif, those beside the checkout where they are, and small new ones."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from sifkit import sif

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sif_generate", ROOT / "testdata" / "sif" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def generate() -> ModuleType:
    """testdata/sif/generate.py."""
    return _load()


@pytest.fixture(scope="session")
def golden() -> Path:
    """Images by Apptainer and siftool; skips where they are not beside the checkout."""
    if not GOLDEN.is_dir():
        pytest.skip("no golden images beside this checkout")
    return GOLDEN


@pytest.fixture
def siftool_image(tmp_path: Path, generate: ModuleType) -> Callable[[str], str]:
    """Path of a fresh copy of one of siftool's images in testdata/sif."""

    def copy(name: str) -> str:
        path = tmp_path / f"{name}.sif"
        path.write_bytes(generate.image(name))
        return str(path)

    return copy


@pytest.fixture
def squashfs(tmp_path: Path, generate: ModuleType) -> str:
    path = tmp_path / "rootfs.squashfs"
    path.write_bytes(generate.squashfs_head())
    return str(path)


@pytest.fixture
def image(tmp_path: Path, squashfs: str) -> str:
    """A small image: definition file, primary squashfs, JSON."""
    path = str(tmp_path / "image.sif")
    sif.create(path, [
        sif.NewObject(sif.DataType.DEFFILE, b"bootstrap: scratch\n"),
        sif.partition(squashfs, sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64"),
        sif.NewObject(sif.DataType.GENERIC_JSON, b"{}", "a.json"),
    ])  # fmt: skip
    return path


def contents(path: str) -> dict[int, bytes]:
    with sif.open(path) as opened:
        return {d.id: opened.read(d) for d in opened.objects}


@pytest.fixture(name="contents")
def _contents() -> Callable[[str], dict[int, bytes]]:
    """Object ID → bytes of an image."""
    return contents


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run ``sifkit sif`` as a process."""

    def call(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
        code = "from sifkit.cli.sif_cmd import sif; sif()"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, env=environment, **options)  # type: ignore[call-overload]

    return call
