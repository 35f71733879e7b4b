"""The tests' own images are what they say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import images
import pytest
from probes import needs, only_root


def test_the_awkward_tree_has_every_name(awkward: Path) -> None:
    assert sorted(os.listdir(os.fsencode(awkward / "names"))) == sorted(images.AWKWARD_NAMES)


def test_the_awkward_tree_becomes_every_image(same_tree: Path) -> None:
    assert same_tree.exists()


@needs("cvmfs-host", "squashfuse")
@pytest.mark.parametrize("whose", ["own", "foreign"])
def test_a_repository_is_served(cvmfs_host: images.CvmfsHosts, whose: str) -> None:
    host = getattr(cvmfs_host, whose)()
    done = host.run("sh", "-c", 'id -u; stat -c "%u" "$1"; exit 7', "sh", f"{host.mountpoint}/bin/busybox")
    assert (done.stdout.split(), done.returncode) == ([str(host.uid), str(host.owner)], 7), done.stderr


@needs("cvmfs-host", "squashfuse")
def test_the_server_ends_with_the_command(cvmfs_host: images.CvmfsHosts) -> None:
    host = cvmfs_host.foreign()
    host.run("true")
    served = [
        stat.parent.name
        for stat in Path("/proc").glob("[0-9]*/cmdline")
        if os.fsencode(host.image) in _content(stat) and int(stat.parent.name) != os.getpid()
    ]
    assert served == []


@only_root
def test_what_is_mounted_in_a_directory_is_not_removed_with_it(tmp_path: Path) -> None:
    point = tmp_path / "dev ice"
    point.mkdir()
    images.run("mount", "-t", "tmpfs", "escaped", str(point))
    (point / "null").touch()
    try:
        with pytest.raises(RuntimeError, match="mounted in it"):
            shutil.rmtree(tmp_path)
        assert (point / "null").exists()
    finally:
        images.run("umount", str(point))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process ended since it was listed
        return b""
