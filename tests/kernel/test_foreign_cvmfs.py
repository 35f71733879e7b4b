"""Layers over what lies in a repository, which belong to its revision; and the ways into ext3 images over them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import images
import pytest
from foreign import ForeignTree
from images import CvmfsHosts, Program
from probes import needs, only_user

from overlay import revision
from overlay.metalayer.layers import base_of
from overlay.revision import Revision
from overlay.stack.layer import Directory
from sifkit.cli.console import Console
from sifkit.runtime import on_base, plan
from sifkit.runtime.identity import Identity
from sifkit.runtime.request import Layers, Request

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "xattr")]

DIGEST = "1f3a" * 16
FLAT = f".flat/1f/{DIGEST}"
HASHES = ("a" * 40, "b" * 40)


class Repository(NamedTuple):
    """The program run where one revision of a repository is mounted, with a cache of its own."""

    sifkit: Program
    hosts: tuple[CvmfsHosts, ...]
    cache: str

    def run(self, *argv: str, below: str = "image", number: int = 0, whose: str = "foreign") -> str:
        """Run it on the image ``below`` in revision ``number`` with ``argv`` before it; what it said with -d."""
        host = getattr(self.hosts[number], whose)()
        base = f"{host.mountpoint}/{below}"
        done = host.run("env", f"XDG_CACHE_HOME={self.cache}", self.sifkit.path, "-d", "exec", *argv, base, "true")
        assert done.returncode == 0, done.stderr
        return str(done.stderr)

    def layers(self) -> list[str]:
        found = json.loads(self.sifkit.ok("cache", "list", "--json", env={**os.environ, "XDG_CACHE_HOME": self.cache}))
        return [entry["of"] for entry in found]


@pytest.fixture(scope="module")
def revisions(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CvmfsHosts, ...]:
    """A repository with one image, by name and by digest, in two revisions."""
    top = tmp_path_factory.mktemp("repository")
    tree = top / "tree"
    for below in ("image", FLAT):
        shutil.copytree(rootfs, tree / below, symlinks=True)
    found = []
    for number, root_hash in enumerate(HASHES):
        for name, value in {"fqrn": "unpacked.example.org", "root_hash": root_hash, "revision": str(number)}.items():
            os.setxattr(tree, f"user.{name}", value.encode())
        squash = images.make_squash(tree, top / f"{number}.sqfs", "-all-root")
        found.append(CvmfsHosts(squash, "/cvmfs/unpacked.example.org"))
    return tuple(found)


@pytest.fixture
def repository(sifkit: Program, revisions: tuple[CvmfsHosts, ...], tmp_path: Path) -> Repository:
    return Repository(sifkit, revisions, str(tmp_path / "cache"))


ON_BASE = "layer on the base"
MAKING = "Making a metadata layer"


@only_user
@needs("cvmfs-host", "squashfuse")
def test_each_revision_has_its_layer(repository: Repository) -> None:
    assert MAKING in repository.run("--writable-tmpfs")
    assert MAKING not in repository.run("--writable-tmpfs")
    assert MAKING in repository.run("--writable-tmpfs", number=1)
    assert MAKING not in repository.run("--writable-tmpfs", number=0)
    assert repository.layers() == ["/cvmfs/unpacked.example.org/image"] * 2


@only_user
@needs("cvmfs-host", "squashfuse")
def test_a_digest_is_the_same_in_every_revision(repository: Repository) -> None:
    assert MAKING in repository.run("--writable-tmpfs", below=FLAT)
    assert MAKING not in repository.run("--writable-tmpfs", below=FLAT, number=1)


@needs("cvmfs-host", "squashfuse")
def test_runs_that_only_read_use_a_layer_that_is_there(repository: Repository) -> None:
    assert ON_BASE not in repository.run(whose="own")
    assert MAKING in repository.run("--metadata-cache", whose="own")
    assert ON_BASE in repository.run(whose="own")
    assert ON_BASE in repository.run("--writable-tmpfs", whose="own")
    assert ON_BASE not in repository.run("--foreign", "plain", whose="own")


class Said(Console):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def test_a_repository_that_moves_on_during_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attributes are read from a directory that stands for the mount point."""
    (tmp_path / "image").mkdir()
    (tmp_path / FLAT).mkdir(parents=True)

    def move_on(number: int) -> None:
        for name, value in {"fqrn": "repo.example.org", "root_hash": HASHES[number], "revision": str(number)}.items():
            os.setxattr(tmp_path, f"user.{name}", value.encode())

    move_on(0)
    first = revision.at(str(tmp_path))
    assert first == Revision(str(tmp_path), "repo.example.org", HASHES[0], "0")
    monkeypatch.setattr(revision, "of", lambda path: revision.at(str(tmp_path)))
    who = Identity(1000, 1000, (1000,), "ann", "/home/USER", "/bin/sh")
    by_name, by_digest = (
        plan.build(Request("exec", "/x", Layers(Directory(f"{tmp_path}/{below}")), ("true",)), who, {}, False)
        for below in ("image", FLAT)
    )
    said = Said()
    on_base.settle(by_name, said)
    assert said.warnings == []
    move_on(1)
    on_base.settle(by_digest, said)
    assert said.warnings == []
    on_base.settle(by_name, said)
    assert len(said.warnings) == 1
    assert "from revision 0 to 1" in said.warnings[0]
    assert HASHES[1] in os.fsdecode(base_of(f"{tmp_path}/image").key)


def test_only_fuse_tells_of_revisions(tmp_path: Path) -> None:
    os.setxattr(tmp_path, "user.root_hash", b"0123")
    assert revision.of(str(tmp_path)) is None
    assert revision.of("/no/such/place") is None


@only_user
@needs("subids", "fuse2fs", "fuse-overlayfs", "mke2fs")
@pytest.mark.parametrize("how", ["staged", "fuse"])
def test_into_an_ext3_image(sifkit: Program, foreign_tree: ForeignTree, rootfs: Path, tmp_path: Path, how: str) -> None:
    base, image = str(foreign_tree(rootfs)), str(tmp_path / "changes.img")
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "SIFKIT_OVERLAY_DRIVER": how}
    sifkit.ok("overlay", "create", "--size", "64", image)
    script = "set -e; echo more >> /etc/os-release; chmod 600 /etc/os-release; rm -r /usr; mkdir /usr; touch /usr/own"
    done = sifkit("-d", "exec", "--overlay", image, base, "sh", "-c", script, env=env)
    assert (done.returncode, ON_BASE in done.stderr) == (0, how == "staged"), done.stderr
    check = "tail -n 1 /etc/os-release; stat -c %a /etc/os-release; ls /usr"
    for other in ("staged", "fuse"):
        env["SIFKIT_OVERLAY_DRIVER"] = other
        assert sifkit.ok("exec", "--overlay", image, base, "sh", "-c", check, env=env) == "more\n600\nown\n"
    assert "redirect" not in images.run("debugfs", "-R", "ea_list /upper/etc/os-release", image).stdout
