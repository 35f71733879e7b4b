"""What this host can do, asked of the host itself.

`needs("userns", "fuse2fs")` marks a test, `require` asks within one. A capability that is missing skips the
test with the reason a user would be told; with SIFKIT_MUST_WORK=1 it fails the test.
Names: those in `PROBES`, and any program (`needs("mksquashfs")`).
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

MUST_WORK = os.environ.get("SIFKIT_MUST_WORK", "") not in ("", "0")
PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"

IS_ROOT = os.geteuid() == 0

# These are about who runs, not about what the host lacks: they skip whatever SIFKIT_MUST_WORK says.
only_root = pytest.mark.skipif(not IS_ROOT, reason="a matter of root's run")
only_user = pytest.mark.skipif(IS_ROOT, reason="a matter of an ordinary user's run")


def needs(*capabilities: str) -> pytest.MarkDecorator:
    """A marker for a test or a module (``pytestmark = needs(...)``): run where all of these are there."""
    return pytest.mark.needs(*capabilities)


def require(*capabilities: str) -> None:
    """Skip (or fail) the running test when one of ``capabilities`` is missing."""
    for capability in capabilities:
        reason = missing(capability)
        if reason and MUST_WORK:
            pytest.fail(f"{reason} (SIFKIT_MUST_WORK is set)", pytrace=False)
        if reason:
            pytest.skip(reason)


@functools.cache
def missing(capability: str) -> str:
    """Why ``capability`` is not there, in one sentence; empty when it is."""
    if capability in PROBES:
        return PROBES[capability]()
    if shutil.which(capability, path=PATH) is None:
        return f"the program {capability} is missing"
    if capability in NEED_FUSE:
        return missing("fuse")
    return ""


NEED_FUSE = ("fuse2fs", "fuse-overlayfs", "squashfuse", "squashfuse_ll")


def said(*command: str) -> str:
    """Run ``command``; empty when it succeeds, else its last line on stderr."""
    try:
        environment = {**os.environ, "PATH": PATH}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]


def userns() -> str:
    """User namespaces for this user."""
    why = said("unshare", "--map-current-user", "--mount", "true")
    return f"user namespaces are not available here: {why}" if why else ""


def privileged() -> str:
    """Root with the right to mount in the namespace it is in."""
    why = "" if IS_ROOT else "not root"
    why = why or said("unshare", "--mount", "true")
    return f"this root may not mount (no CAP_SYS_ADMIN): {why}" if why else ""


def overlayfs() -> str:
    """Kernel overlayfs as this user, with its upper directory where the tests have theirs."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("lower", "upper", "work", "merged"):
            Path(scratch, name).mkdir()
        script = (
            "mount -t overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work overlay merged"
            " && touch merged/file && chmod u+rwx work/work"
        )
        inside = f"cd '{scratch}' && {script}"
        why = said("unshare", "--map-root-user", "--mount", "sh", "-c", inside)
        # The kernel leaves work/work with mode 000.
        said("chmod", "-R", "u+rwX", scratch)
    return f"kernel overlayfs does not work for this user in {tempfile.gettempdir()}: {why}" if why else ""


def fuse() -> str:
    """A /dev/fuse that this user can open."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse cannot be used: {error.strerror}"
    return ""


def loop() -> str:
    """Loop devices."""
    why = said("losetup", "--find")
    return f"no loop device can be had: {why}" if why else ""


def subids() -> str:
    """Subordinate ids and the programs that map them."""
    why = said("unshare", "--map-auto", "--map-root-user", "true")
    return f"subordinate ids cannot be mapped (/etc/subuid, package uidmap): {why}" if why else ""


def outlook() -> str:
    """What `images.CvmfsHost` needs: a mount namespace with more than one user in it."""
    return missing("privileged") if IS_ROOT else missing("subids")


def user_xattrs() -> str:
    """Extended attributes ``user.*`` where the tests have their files."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.setxattr(file.name, "user.sifkit", b"1")
        except OSError as error:
            return f"no user.* attributes in {tempfile.gettempdir()}: {error.strerror}"
    return ""


PROBES: dict[str, Callable[[], str]] = {
    "userns": userns,
    "privileged": privileged,
    "overlayfs": overlayfs,
    "fuse": fuse,
    "loop": loop,
    "subids": subids,
    "cvmfs-host": outlook,
    "xattr": user_xattrs,
}
