"""Which driver is chosen, and why: a table, without a kernel."""

from __future__ import annotations

import pytest

from overlay.failure import Failure
from overlay.features import Features
from overlay.mountinfo import fstype
from overlay.stack.driver import Situation, choose, file_system
from overlay.stack.layer import Directory, Overlay, Stack, Tmpfs

NEW = Features(overlay=True, why_not="", lowerdir_append=True, tmpfs_xattr=True, fuse=True, loop=False)
OLD = NEW._replace(overlay=False, why_not="Operation not permitted")
NO_FUSE = NEW._replace(fuse=False)
BASE = Directory("/base")
WRITABLE = Stack(BASE, upper=Overlay("/over"))
HERE = Situation(privileged=False, upper_fstype="ext4")
NEWEST = NEW._replace(data_layers=True)
FOREIGN = HERE._replace(foreign_base="cvmfs")


@pytest.mark.parametrize(
    ("stack", "features", "situation", "driver", "reason"),
    [
        (Stack(BASE), NEW, HERE, "bind", "needs no overlay"),
        (Stack(BASE), NEW, HERE._replace(points="needed"), "kernel", "lowerdir+"),
        (Stack(BASE, in_place=True), NEW, HERE._replace(points="needed"), "bind", "--writable"),
        (Stack(BASE), OLD, HERE._replace(points="optional"), "fuse-overlayfs", "Operation not permitted"),
        (Stack(BASE), OLD._replace(fuse=False), HERE._replace(points="optional"), "bind", "Operation not permitted"),
        (WRITABLE, NEW, HERE, "kernel", "lowerdir+"),
        (WRITABLE, NEW._replace(lowerdir_append=False), HERE, "kernel", "mount(2)"),
        (WRITABLE, OLD, HERE, "fuse-overlayfs", "Operation not permitted"),
        (WRITABLE, NEW, HERE._replace(upper_fstype="lustre"), "fuse-overlayfs", "lustre"),
        (WRITABLE, NEW, HERE._replace(upper_fstype=""), "fuse-overlayfs", "unknown file system"),
        (WRITABLE, NEW, HERE._replace(upper_xattr=False), "fuse-overlayfs", "xattrs"),
        (Stack(BASE, upper=Tmpfs(1)), NEW, HERE._replace(upper_fstype=""), "kernel", "lowerdir+"),
        (WRITABLE, NEW, HERE._replace(forced="fuse-overlayfs"), "fuse-overlayfs", "asks for it"),
        (WRITABLE, NEW, FOREIGN, "kernel", "its directories in a layer of yours"),
        (WRITABLE, NEWEST, FOREIGN, "kernel", "its metadata in a layer of yours"),
        (WRITABLE, NEWEST, FOREIGN._replace(impossible=("metadata",)), "kernel", "could not be made"),
        (WRITABLE, NEWEST, FOREIGN._replace(impossible=("metadata", "directory")), "fuse-overlayfs", "shown as yours"),
        (WRITABLE, NEWEST, FOREIGN._replace(upper_fstype="lustre"), "fuse-overlayfs", "lustre"),
        (WRITABLE, NEWEST, FOREIGN._replace(foreign="squash"), "fuse-overlayfs", "cvmfs"),
        (WRITABLE, NEWEST, FOREIGN._replace(foreign="plain"), "kernel", "new names only"),
        (WRITABLE, NEWEST, FOREIGN._replace(forced="fuse-overlayfs"), "fuse-overlayfs", "asks for it"),
        (WRITABLE, OLD, FOREIGN, "fuse-overlayfs", "Operation not permitted"),
        (WRITABLE, NEW, HERE._replace(foreign_base="cvmfs", privileged=True), "kernel", "lowerdir+"),
        (WRITABLE, NEW, FOREIGN._replace(forced="kernel", impossible=("directory",)), "kernel", "new names only"),
        (WRITABLE, NO_FUSE, FOREIGN._replace(impossible=("directory",)), "kernel", "fuse-overlayfs or /dev/fuse"),
        (Stack(BASE, (Directory("/x"),)), NEW, HERE._replace(foreign_base="cvmfs"), "kernel", "lowerdir+"),
    ],
)
def test_the_choice(stack: Stack, features: Features, situation: Situation, driver: str, reason: str) -> None:
    decision = choose(stack, features, situation)
    assert (decision.driver, reason in decision.reason) == (driver, True), decision


@pytest.mark.parametrize(
    ("features", "foreign", "layer", "squash", "warning"),
    [
        (NEWEST, "auto", "metadata", False, ""),
        (NEW, "auto", "directory", False, "only replaced"),
        (NEW, "directory", "directory", False, ""),
        (NEW, "squash", "", True, "0700"),
        (NEW, "plain", "", False, ""),
    ],
)
def test_the_ways_over_a_foreign_base(features: Features, foreign: str, layer: str, squash: bool, warning: str) -> None:
    decision = choose(WRITABLE, features, FOREIGN._replace(foreign=foreign))
    assert (decision.layer, decision.squash) == (layer, squash)
    assert warning in decision.warning
    assert bool(warning) == bool(decision.warning)


def test_a_layer_for_speed_is_no_need() -> None:
    wished = HERE._replace(layer="a metadata layer of the base")
    assert choose(Stack(BASE), NEWEST, wished).layer == "metadata"
    assert choose(Stack(BASE), NEW, wished).driver == "bind"
    assert choose(Stack(BASE), NEWEST, wished._replace(impossible=("metadata",))).driver == "bind"
    assert choose(Stack(BASE), NEWEST, wished._replace(forced="fuse-overlayfs")).layer == ""


@pytest.mark.parametrize(
    ("features", "situation", "words"),
    [
        (OLD._replace(fuse=False), HERE, "no overlay"),
        (OLD, HERE._replace(fuse_overlayfs=False), "no overlay"),
        (OLD._replace(fuse=False), HERE._replace(points="optional"), "no overlay"),
        (OLD, HERE._replace(forced="kernel"), "cannot be had"),
        (NEW, HERE._replace(forced="aufs"), "not known"),
        (NO_FUSE, HERE._replace(forced="fuse-overlayfs"), "no overlay"),
    ],
)
def test_what_cannot_be_is_a_sentence(features: Features, situation: Situation, words: str) -> None:
    with pytest.raises(Failure, match=words):
        choose(WRITABLE, features, situation)


def test_more_layers_than_the_kernel_takes() -> None:
    with pytest.raises(Failure, match="too many"):
        choose(Stack(BASE, (Directory("/x"),) * 499), NEW, HERE)
    assert choose(Stack(BASE, (Directory("/x"),) * 498), NEW, HERE).driver == "kernel"


def test_an_older_tmpfs_takes_no_writes_and_no_limit() -> None:
    stack, older = Stack(BASE, upper=Tmpfs(1)), NEW._replace(tmpfs_xattr=False)
    assert "to disk" not in choose(stack, NEW, HERE).reason
    assert "to disk" in choose(stack, older, HERE).reason
    assert choose(stack, older, HERE).warning == ""
    assert "--tmpfs-size is without effect" in choose(Stack(BASE, upper=Tmpfs(1, asked=True)), older, HERE).warning


@pytest.mark.parametrize("path", ["/", "/proc", "/dev/shm", "/tmp"])
def test_the_file_system_of_an_upper_is_what_the_table_of_mounts_says(path: str) -> None:
    assert file_system(path) == fstype(path) != ""
