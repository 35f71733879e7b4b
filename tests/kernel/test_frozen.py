"""A run's changes frozen, converted and committed: what the next run sees, under each driver."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from images import Program
from probes import IS_ROOT, needs

from sifkit import sif

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "squashfuse", "xattr")]

CHANGES = """set -e
echo more >> /etc/os-release; echo new > /etc/new; rm -r /usr; mkdir /usr; echo own > /usr/own; rm /bin/ls
mkdir -p /opt/x/y; mv /etc/new /opt/x/y/moved; ln /opt/x/y/moved /opt/x/linked"""
CHECK = """cat /usr/own /opt/x/y/moved; tail -n 1 /etc/os-release; ls -A /usr
cat /opt/x/linked; test ! -e /bin/ls && test ! -e /etc/new"""
CHECKED = "own\nnew\nmore\nown\nnew\n"


@pytest.fixture
def changed(sifkit: Program, rootfs: Path, tmp_path: Path) -> Path:
    """A directory overlay with `CHANGES`."""
    (tmp_path / "changes").mkdir()
    sifkit.ok("exec", "--overlay", str(tmp_path / "changes"), str(rootfs), "sh", "-c", CHANGES)
    return tmp_path / "changes"


@pytest.mark.parametrize("driver", ["kernel", pytest.param("fuse-overlayfs", marks=needs("fuse-overlayfs"))])
def test_every_driver_honours_it(
    sifkit: Program, rootfs: Path, rootfs_squash: Path, changed: Path, tmp_path: Path, driver: str
) -> None:
    env = {**os.environ, "SIFKIT_OVERLAY_DRIVER": driver}
    frozen, image = str(tmp_path / "frozen.sqfs"), tmp_path / "image.sif"
    sifkit.ok("overlay", "freeze", str(changed), "-o", frozen)
    sif.create(image, [sif.partition(str(rootfs_squash), sif.FsType.SQUASHFS, sif.PartType.PRIMARY, _arch())])
    sifkit.ok("overlay", "freeze", str(changed), "-o", str(image))
    for words in (["--overlay", frozen, str(rootfs)], ["--overlay", frozen, str(rootfs_squash)], [str(image)]):
        assert sifkit.ok("exec", *words, "sh", "-c", CHECK, env=env) == CHECKED, words
    # Below a writable layer as well, where its marks meet those of another.
    words = ["--overlay", frozen, "--writable-tmpfs", str(rootfs)]
    said = sifkit.ok("exec", *words, "sh", "-c", "rm -r /usr; mkdir /usr; ls -A /usr; cat /opt/x/linked", env=env)
    assert said == "new\n"


@needs("mke2fs", "fuse2fs", "fuse-overlayfs")
def test_converted_into_an_image_it_is_an_overlay(sifkit: Program, rootfs: Path, changed: Path, tmp_path: Path) -> None:
    image = str(tmp_path / "changes.img")
    sifkit.ok("overlay", "convert", str(changed), image)
    assert sifkit.ok("exec", "--overlay", f"{image}:ro", str(rootfs), "sh", "-c", CHECK) == CHECKED
    sifkit.ok("exec", "--overlay", image, str(rootfs), "sh", "-c", "touch /usr/more; ls /usr")
    sifkit.ok("overlay", "convert", image, str(tmp_path / "again") + "/")
    said = sifkit.ok("exec", "--overlay", str(tmp_path / "again"), str(rootfs), "sh", "-c", "rm /usr/more; " + CHECK)
    assert said == CHECKED


@pytest.mark.parametrize("kind", ["changes.img", "changes/"])
@needs("mke2fs", "fuse2fs", "fuse-overlayfs")
def test_a_copied_up_mark_of_another_driver_means_nothing(
    sifkit: Program, rootfs: Path, changed: Path, tmp_path: Path, kind: str
) -> None:
    """The kernel copies the marks of a replaced directory below with it, but for its own: nothing is replaced again."""
    below = str(tmp_path / "below.img")
    sifkit.ok("overlay", "convert", str(changed), below)
    top = f"{tmp_path}/top/{kind}"
    (tmp_path / "top").mkdir()
    sifkit.ok("overlay", "create", top)
    words = ["--overlay", f"{below}:ro", "--overlay", top.rstrip("/"), str(rootfs)]
    sifkit.ok("exec", *words, "touch", "/usr/more")
    assert " /usr\n" not in sifkit.ok("overlay", "diff", top).replace("A directory                - /usr\n", "")
    fuse = {**os.environ, "SIFKIT_OVERLAY_DRIVER": "fuse-overlayfs"} if kind.endswith("/") else dict(os.environ)
    for env in (dict(os.environ), fuse):
        said = sifkit.ok("exec", *words, "sh", "-c", "touch /usr/again; ls -A /usr; cat /usr/own", env=env)
        assert said == "again\nmore\nown\nown\n"


@pytest.mark.parametrize("kind", ["new.sif", "new.sqfs", "new/"])
def test_committed_it_needs_no_overlay(
    sifkit: Program, rootfs: Path, rootfs_squash: Path, changed: Path, tmp_path: Path, kind: str
) -> None:
    image = tmp_path / "image.sif"
    described = sif.NewObject(sif.DataType.DEFFILE, b"bootstrap: docker\n", "definition")
    labels = sif.NewObject(sif.DataType.LABELS, b'{"a": "b"}')
    root = sif.partition(str(rootfs_squash), sif.FsType.SQUASHFS, sif.PartType.PRIMARY, _arch())
    sif.create(image, [described, labels, root], launch=sif.LAUNCH_SCRIPT)
    new = f"{tmp_path}/{kind}"
    sifkit.ok("overlay", "commit", str(changed), "--base", str(image), "-o", new)
    assert sifkit.ok("exec", new, "sh", "-c", CHECK) == CHECKED
    if kind == "new.sif":
        _provenance(sifkit, Path(new), changed, image)
    if kind == "new.sqfs":
        # What the run copied up is root's again, as it was in the image; --keep-owners leaves it.
        said = sifkit.ok("overlay", "ls", "-l", new, "etc")
        assert {tuple(line.split()[2:4]) for line in said.splitlines()} == {("0", "0")}
        sifkit.ok("overlay", "commit", "--keep-owners", str(changed), "--base", str(image), "-o", f"{tmp_path}/k.sqfs")
        said = sifkit.ok("overlay", "ls", "-l", f"{tmp_path}/k.sqfs", "etc")
        owners = {line.split()[-1]: line.split()[2] for line in said.splitlines()}
        assert owners["os-release"] == str(os.geteuid())


def _provenance(sifkit: Program, new: Path, changed: Path, image: Path) -> None:
    with sif.open(new) as opened:
        assert [sif.data_type_text(d.data_type) for d in opened.objects] == [
            "Def.FILE", "JSON.Labels", "JSON.Generic", "FS",
        ]  # fmt: skip
        assert opened.view(opened.objects[0]).read() == b"bootstrap: docker\n"
        told = json.loads(opened.view(opened.objects[2]).read())
        assert opened.primary is not None
        assert opened.primary.partition == sif.PartitionExtra(1, 2, sif.architecture(_arch()))
    assert told["command"][1:3] == ["overlay", "commit"]
    assert told["base"]["image"] == str(image)
    assert told["overlay"]["target"] == str(changed)
    archive = sifkit("overlay", "export", str(changed), text=False, errors=None).stdout
    import hashlib

    assert isinstance(archive, bytes)
    assert told["overlay"]["digest"] == "sha256:" + hashlib.sha256(archive).hexdigest()
    assert os.access(new, os.X_OK)


def test_overlays_inside_the_base_belong_to_it(
    sifkit: Program, rootfs_squash: Path, changed: Path, tmp_path: Path
) -> None:
    """B26: Apptainer's build leaves out what is in the overlay of a SIF image, and says nothing."""
    image, new = tmp_path / "image.sif", str(tmp_path / "new.sqfs")
    sif.create(image, [sif.partition(str(rootfs_squash), sif.FsType.SQUASHFS, sif.PartType.PRIMARY, _arch())])
    sifkit.ok("overlay", "freeze", str(changed), "-o", str(image))
    (tmp_path / "more/upper/opt/x").mkdir(parents=True)
    (tmp_path / "more/upper/opt/x/third").write_text("third\n")
    sifkit.ok("overlay", "commit", str(tmp_path / "more"), "--base", str(image), "-o", new)
    assert sifkit.ok("exec", new, "sh", "-c", CHECK + "; cat /opt/x/third") == CHECKED + "third\n"
    # The overlay in the image itself, committed: not twice.
    sifkit.ok("overlay", "commit", str(image), "--base", str(image), "-o", str(tmp_path / "own.sif"))
    assert sifkit.ok("exec", str(tmp_path / "own.sif"), "sh", "-c", CHECK) == CHECKED
    with sif.open(tmp_path / "own.sif") as opened:
        told = json.loads(opened.view(opened.objects[0]).read())
    assert "overlays" not in told["base"]


@needs("mke2fs")
def test_changes_that_are_not_in_the_image_yet_are_missed(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    image = str(tmp_path / "changes.img")
    sifkit.ok("overlay", "create", image)
    raw = bytearray(Path(image).read_bytes())
    raw[1024 + 96] |= 4  # needs recovery, in the incompatible features
    (tmp_path / "dirty.img").write_bytes(raw)
    done = sifkit("overlay", "freeze", str(tmp_path / "dirty.img"), "-o", str(tmp_path / "n.sqfs"))
    assert done.returncode == 255
    assert "its journal holds newer writes" in done.stderr
    assert "sifkit overlay check --fix" in done.stderr


def test_refusals(sifkit: Program, rootfs: Path, changed: Path, tmp_path: Path) -> None:
    for words, said in (
        (["-o", f"{rootfs}/inside/"], "it would lie inside"),
        (["-o", f"{tmp_path}/changes/"], "nothing is ever replaced"),
        (["-o", str(tmp_path / "what")], "of what kind?"),
    ):
        done = sifkit("overlay", "commit", str(changed), "--base", str(rootfs), *words)
        assert done.returncode in (2, 255)
        assert said in done.stderr
    done = sifkit("overlay", "commit", str(changed), "--base", str(tmp_path / "none"), "-o", str(tmp_path / "n.sif"))
    assert "cannot open the image" in done.stderr
    assert IS_ROOT or not (tmp_path / "n.sif").exists()


def _arch() -> str:
    names = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "riscv64": "riscv64"}
    return names.get(os.uname().machine, "unknown")
