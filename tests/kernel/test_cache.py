"""`sifkit cache`: layers and unpacked images listed, and removed unless they are in use."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from images import Program
from probes import needs, only_root
from running import Start

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "xattr")]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}


def kinds(sifkit: Program, env: dict[str, str], *options: str) -> list[str]:
    return [entry["kind"] for entry in json.loads(sifkit.ok("cache", *options, "--json", env=env))]


def test_an_empty_cache(sifkit: Program, env: dict[str, str]) -> None:
    assert sifkit.ok("cache", "list", env=env) == ""
    assert sifkit.ok("cache", "clean", env=env).startswith("0 removed")


@needs("mksquashfs", "unsquashfs")
def test_what_is_kept_is_listed_and_removed(
    sifkit: Program, start: Start, rootfs: Path, rootfs_squash: Path, env: dict[str, str], tmp_path: Path
) -> None:
    sifkit.ok("exec", "--unsquash", str(rootfs_squash), "true", env=env)
    waiting = ("sh", "-c", "echo there; read line; true")
    running = start("exec", "--metadata-cache", str(rootfs), *waiting, env=env, stdin=-1)
    running.expect("there")
    [layer] = json.loads(sifkit.ok("cache", "list", "--metadata", "--json", env=env))
    assert (layer["kind"], layer["of"], layer["in_use"]) == ("metadata", str(rootfs), True)
    assert layer["bytes"] > 10_000
    assert sorted(kinds(sifkit, env, "list")) == ["metadata", "unpacked"]
    assert "in use" in sifkit.ok("cache", "list", env=env)
    assert kinds(sifkit, env, "clean") == ["unpacked"]
    assert os.path.isdir(layer["path"])
    running.process.stdin.close()
    running.process.stdin = None
    assert running.end() == 0
    assert "1 removed" in sifkit.ok("cache", "clean", "--metadata", env=env)
    assert [name for name in os.listdir(tmp_path / "cache/sifkit/metadata") if not name.endswith(".lock")] == []


@only_root
def test_roots_layer_shows_whose_files_are(sifkit: Program, rootfs: Path, env: dict[str, str], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(rootfs, base, symlinks=True)
    os.chown(base / "etc/os-release", 12, 34)
    os.chown(base / "usr", 56, 78)
    script = "stat -c %u:%g /etc/os-release /usr && cat /etc/os-release"
    for _ in range(2):
        done = sifkit("-d", "exec", "--metadata-cache", str(base), "sh", "-c", script, env=env)
        assert done.stdout == "12:34\n56:78\n" + (base / "etc/os-release").read_text(), done.stderr
        assert "layer on the base" in done.stderr
