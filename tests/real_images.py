"""Three real images of Debian packages, each as a directory of the caller's and as a SIF image.

busybox         one static program under many names
minbase         debootstrap's minbase with python3-minimal
no-shell        coreutils, the C library and its static ldconfig, no shell
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import debian
import pytest
from images import make_rootfs, make_squash

from sifkit import sif
from sifkit.sif import infer

NAMES: Final = ("busybox", "minbase", "no-shell")
LABELS: Final = '{"maintainer": "Debian"}\n'
RUNSCRIPT: Final = '#!/bin/sh\necho "runscript: $*"\n'
SCRIPTS: Final = {
    "90-environment.sh": "export OF_IMAGE='a script of it'\n",
    # What Apptainer adds to all.
    "99-base.sh": """if [ -z "$LD_LIBRARY_PATH" ]; then
    LD_LIBRARY_PATH="/.singularity.d/libs"
else
    LD_LIBRARY_PATH="$LD_LIBRARY_PATH:/.singularity.d/libs"
fi
PS1="Singularity> "
export LD_LIBRARY_PATH PS1
""",
}


class Real(NamedTuple):
    """One of the images in one of its forms."""

    name: str
    path: str

    @property
    def shell(self) -> bool:
        """Whether it has one."""
        return self.name != "no-shell"


@pytest.fixture(scope="session")
def minbase(built: Path) -> Path:
    """The minbase. Its repository is filled by who installs from it (tests/kernel/test_fakeroot_apt.py)."""
    root = debian.make(built / "minbase", "python3-minimal")
    _finish(root)
    return root


@pytest.fixture(scope="session")
def no_shell(built: Path) -> Path:
    """The image without a shell."""
    root = debian.make_without_shell(built / "no-shell")
    _finish(root)
    return root


@pytest.fixture(scope="session")
def busybox(built: Path) -> Path:
    """The image of busybox."""
    root = make_rootfs(built / "busybox")
    _finish(root)
    return root


def _finish(root: Path) -> None:
    """What Apptainer puts into every image that it builds."""
    about = root / ".singularity.d"
    (about / "env").mkdir(parents=True, exist_ok=True)
    for name, text in SCRIPTS.items():
        (about / "env" / name).write_text(text)
    (about / "labels.json").write_text(LABELS)
    (about / "runscript").write_text(RUNSCRIPT)
    (about / "runscript").chmod(0o755)


@pytest.fixture(scope="session", params=[(name, form) for name in NAMES for form in ("directory", "SIF")], ids="-".join)
def real(request: pytest.FixtureRequest) -> Real:
    """Each of the three in each form, one after the other."""
    name, form = request.param
    root: Path = request.getfixturevalue(name.replace("-", "_"))
    path = root if form == "directory" else _sif(root)
    return Real(name, str(path))


def _sif(root: Path) -> Path:
    squash = make_squash(root, root.with_suffix(".sqfs"), "-all-root", "-comp", "zstd", "-Xcompression-level", "1")
    path = root.with_suffix(".sif")
    sif.create(path, [sif.partition(squash, sif.FsType.SQUASHFS, sif.PartType.PRIMARY, infer.host_architecture())])
    squash.unlink()
    return path
