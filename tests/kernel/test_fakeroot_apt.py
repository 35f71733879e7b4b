"""`apt-get install` of a real package under --fakeroot, over every kind of overlay."""

from __future__ import annotations

import os
from pathlib import Path

import debian
import pytest
from images import Program
from probes import needs, only_user

pytestmark = [
    pytest.mark.kernel,
    only_user,
    needs("userns", "overlayfs", "subids", "apt-get", "dpkg-deb", "mke2fs", "debugfs"),
]

INSTALL = """set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -q update; apt-get -q install -y hello
hello; dpkg-query -W -f '${Status}\\n' hello
touch /var/mail.spool; chown mail:mail /var/mail.spool; stat -c %U:%G /var/mail.spool
setpriv --reuid=nobody --regid=nogroup --clear-groups id -u
"""
SAID = ["Hello, world!", "install ok installed", "mail:mail", "65534"]


@pytest.fixture(scope="session")
def base(minbase: Path) -> Path:
    """The minbase, owned by the caller."""
    debian.add_repository(minbase, "hello")
    return minbase


@pytest.mark.parametrize("kind", ["directory", "memory", "ext3"])
def test_apt_installs(sifkit: Program, base: Path, tmp_path: Path, kind: str) -> None:
    """B43: with the overlay that was asked for."""
    where = {"directory": f"{tmp_path}/changes/", "ext3": f"{tmp_path}/changes.img"}.get(kind)
    if where:
        sifkit.ok("overlay", "create", where)
    overlay = ("--overlay", where) if where else ("--writable-tmpfs",)
    said = sifkit.ok("exec", "--fakeroot", *overlay, str(base), "/bin/sh", "-c", INSTALL)
    assert said.splitlines()[-4:] == SAID
    assert not os.path.lexists(base / "usr/bin/hello")
    if where:  # and there for good, without it too
        assert sifkit.ok("exec", "--overlay", where, str(base), "/usr/bin/hello") == "Hello, world!\n"


def test_without_subordinate_ids_one_line_says_so(sifkit: Program, base: Path) -> None:
    """apt fails there, as in Apptainer's root-mapped namespace: 100."""
    env = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "subids"}
    command = ("exec", "--fakeroot", "--writable-tmpfs", str(base), "apt-get", "update")
    done = sifkit(*command, env=env)
    assert done.returncode == 100 and "set" in done.stderr
    assert done.stderr.count("WARNING: --fakeroot has root alone") == 1
