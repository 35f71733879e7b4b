"""--unsquash, and hosts without FUSE: a squashfs unpacked once into the cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images import Program
from probes import IS_ROOT, needs
from running import Start
from sif_parts import make_sif

from sifkit import sif

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "squashfuse", "fuse2fs", "fuse-overlayfs", "mke2fs")]


@pytest.fixture
def image(tmp_path: Path, rootfs_squash: Path) -> str:
    """A fresh SIF image of the test root file system."""
    return str(make_sif(tmp_path / "image.sif", rootfs_squash))


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    """An environment with a cache of its own."""
    return {**os.environ, "XDG_CACHE_HOME": f"{tmp_path}/cache"}


def trees(cache: dict[str, str]) -> list[Path]:
    return list(Path(cache["XDG_CACHE_HOME"], "sifkit/unpacked").glob("*/root"))


def test_it_is_unpacked_once_and_runs(sifkit: Program, image: str, cache: dict[str, str]) -> None:
    for _ in range(2):
        done = sifkit("-v", "exec", "--unsquash", image, "sh", "-c", "touch /x 2>/dev/null || echo ro", env=cache)
        assert (done.returncode, done.stdout) == (0, "ro\n"), done.stderr
    assert "Unpacking" not in done.stderr
    assert len(trees(cache)) == 1
    sifkit.ok("exec", "--unsquash", "--writable-tmpfs", image, "rm", "-r", "/usr", env=cache)
    assert (trees(cache)[0] / "usr").is_dir()


def test_a_changed_image_is_unpacked_anew(sifkit: Program, image: str, cache: dict[str, str]) -> None:
    sifkit.ok("exec", "--unsquash", image, "true", env=cache)
    sif.add(image, sif.NewObject(sif.DataType.GENERIC, b"edited"))
    sifkit.ok("exec", "--unsquash", image, "true", env=cache)
    assert len(trees(cache)) == 2


@pytest.mark.skipif(IS_ROOT, reason="root's kernel reads squashfs without FUSE")
def test_a_host_without_fuse_does_it_by_itself(sifkit: Program, image: str, cache: dict[str, str]) -> None:
    env = {**cache, "SIFKIT_DEBUG_WITHOUT": "fuse"}
    assert sifkit.ok("exec", image, "echo", "runs", env=env) == "runs\n"
    assert len(trees(cache)) == 1


def test_what_is_written_into_the_overlay_changes_nothing(sifkit: Program, image: str, cache: dict[str, str]) -> None:
    sifkit.ok("overlay", "create", image)
    for name in ("/a", "/b"):
        sifkit.ok("exec", "--unsquash", image, "touch", name, env=cache)
    assert len(trees(cache)) == 1


def test_what_is_unpacked_is_never_written(sifkit: Program, rootfs_squash: Path, cache: dict[str, str]) -> None:
    done = sifkit("exec", "--unsquash", "--writable", str(rootfs_squash), "touch", "/x", env=cache)
    assert (done.returncode, "read-only by nature" in done.stderr) == (255, True)


def test_two_at_once_share_the_work(start: Start, image: str, cache: dict[str, str]) -> None:
    both = [start("exec", "--unsquash", image, "true", env=cache) for _ in range(2)]
    assert [running.end() for running in both] == [0, 0]
    assert len(trees(cache)) == 1


def test_what_a_killed_one_left_is_removed(sifkit: Program, image: str, cache: dict[str, str]) -> None:
    sifkit.ok("exec", "--unsquash", image, "true", env=cache)
    place = trees(cache)[0].parent
    os.rename(place / "root", place / "new-abandoned")
    sifkit.ok("exec", "--unsquash", image, "true", env=cache)
    assert sorted(os.listdir(place)) == ["lock", "root"]


def test_a_damaged_image_is_a_sentence(
    sifkit: Program, rootfs_squash: Path, tmp_path: Path, cache: dict[str, str]
) -> None:
    data = bytearray(rootfs_squash.read_bytes())
    data[200:-4000] = os.urandom(len(data) - 4200)
    (tmp_path / "bad.sqfs").write_bytes(data)
    done = sifkit("exec", "--unsquash", f"{tmp_path}/bad.sqfs", "true", env=cache)
    assert (done.returncode, "Traceback" in done.stderr, "cannot unpack" in done.stderr) == (255, False, True)
    assert trees(cache) == []
