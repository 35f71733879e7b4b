"""Root uses an ordinary user's overlay once; afterwards its owner still can, by every driver."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import images
import pytest
from images import Program
from probes import needs, only_root

from overlay.extread.reader import ExtReader
from overlay.section import Section
from overlay.stack import workdir

pytestmark = [pytest.mark.kernel, only_root, needs("userns", "overlayfs", "setpriv")]

UID = 12345
CHANGES = "rm /bin/ls; rm -r /usr/share; mkdir /usr/share; echo root > /etc/root"
CHECK = "test ! -e /bin/ls && echo mine > /etc/mine && rm /bin/cp && cat /etc/root && echo /usr/share/*"


@pytest.fixture
def place(sifkit: Program, tmp_path: Path) -> Path:
    """A directory of the user's, where everybody may go."""
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    os.chown(tmp_path, UID, UID)
    if as_owner(sifkit, tmp_path, "--version").returncode:
        pytest.skip("the program lies where other users cannot run it")
    return tmp_path


def as_owner(sifkit: Program, place: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    words = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--inh-caps=-all", sifkit.path]
    return subprocess.run(
        [*words, *argv], capture_output=True, text=True, check=False, timeout=60, cwd=place,
        env={"PATH": os.environ["PATH"], "HOME": str(place)},
    )  # fmt: skip


@pytest.fixture
def base(place: Path, rootfs: Path) -> str:
    """The test root file system, the user's."""
    images.run("cp", "-a", str(rootfs), str(place / "base"), check=True)
    images.run("chown", "-R", f"{UID}:{UID}", str(place / "base"), check=True)
    return str(place / "base")


@needs("fuse2fs", "fuse-overlayfs", "mke2fs", "debugfs")
def test_an_image(sifkit: Program, place: Path, base: str) -> None:
    image = str(place / "over.img")
    assert as_owner(sifkit, place, "overlay", "create", image).returncode == 0
    sifkit.ok("exec", "--overlay", image, base, "sh", "-c", CHANGES)
    with ExtReader(Section(image, 0, os.stat(image).st_size)) as reader:
        # The kernel's work/work, root's and not empty, would make Apptainer's mount read-only.
        assert reader.lookup(b"/work") is not None and reader.lookup(workdir.PLACE) is None
    assert images.run("/usr/sbin/e2fsck", "-fn", image).returncode == 0
    done = as_owner(sifkit, place, "exec", "--overlay", image, base, "sh", "-c", CHECK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "root\n/usr/share/*\n", "")


def test_a_directory(sifkit: Program, place: Path, base: str) -> None:
    changes = str(place / "changes")
    assert as_owner(sifkit, place, "overlay", "create", f"{changes}/").returncode == 0
    sifkit.ok("exec", "--overlay", changes, base, "sh", "-c", CHANGES)
    assert not os.path.exists(os.path.join(changes, "work", "work"))
    done = as_owner(sifkit, place, "exec", "--overlay", changes, base, "sh", "-c", CHECK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "root\n/usr/share/*\n", "")
    assert {os.stat(f"{changes}/{name}").st_uid for name in (".sifkit.lock", "sifkit.json")} == {UID}
