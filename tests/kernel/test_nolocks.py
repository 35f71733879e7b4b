"""File systems without locks, told apart from held ones (B30): the kernel refuses these processes every lock.

By a seccomp filter that answers fcntl(F_OFD_SETLK), and where the name says so F_OFD_GETLK, with an error number,
as NFS without a lock server and some parallel file systems do.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from images import Program
from probes import needs

FCNTL = {"x86_64": 72, "aarch64": 25}.get(platform.machine())

pytestmark = [
    pytest.mark.kernel,
    needs("userns", "overlayfs"),
    pytest.mark.skipif(FCNTL is None, reason="the number of fcntl on this machine is not known here"),
]

Run = Callable[..., "subprocess.CompletedProcess[str]"]

F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K


def refuse_locks(number: int, asking: bool) -> None:
    """From now on this process and its children get the error ``number`` for locks, and if ``asking`` for questions."""
    also = F_OFD_GETLK if asking else F_OFD_SETLK
    program = [
        (LOAD, 0, 0, 0), (EQUAL, 0, 5, FCNTL or 0),  # struct seccomp_data: nr
        (LOAD, 0, 0, 24), (EQUAL, 2, 0, F_OFD_SETLK), (EQUAL, 1, 0, F_OFD_SETLKW), (EQUAL, 0, 1, also),  # args[1]
        (RETURN, 0, 0, ERRNO | number), (RETURN, 0, 0, ALLOW),
    ]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


@pytest.fixture(params=[(errno.ENOLCK, True), (errno.EACCES, False)], ids=["ENOLCK", "EACCES"])
def without_locks(request: pytest.FixtureRequest, sifkit: Program) -> Run:
    """Runs sifkit where the file system cannot lock."""
    number, asking = request.param

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sifkit.path, *argv], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
            preexec_fn=lambda: refuse_locks(number, asking),
        )  # fmt: skip

    return run


@needs("fuse2fs", "fuse-overlayfs", "mke2fs", "debugfs")
def test_an_image_there_is_used_and_it_is_said(
    without_locks: Run, sifkit: Program, rootfs: Path, tmp_path: Path
) -> None:
    image = f"{tmp_path}/over.img"
    sifkit.ok("overlay", "create", image)
    for spec in (image, f"{image}:ro"):
        done = without_locks("exec", "--overlay", spec, str(rootfs), "echo", "runs")
        assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr
        assert "cannot be locked" in done.stderr
        assert "in use" not in done.stderr


def test_a_directory_there_too(without_locks: Run, rootfs: Path, overlay_dir: Path) -> None:
    done = without_locks("exec", "--overlay", str(overlay_dir), str(rootfs), "sh", "-c", "echo x > /x; cat /x")
    assert (done.returncode, done.stdout) == (0, "x\n"), done.stderr
    assert "cannot be locked" in done.stderr
    assert os.listdir(overlay_dir / "upper") == ["x"]


def test_an_image_there_is_not_edited(without_locks: Run, sifkit: Program, tmp_path: Path) -> None:
    """Two editors would lose each other's objects, which no warning makes good."""
    sifkit.ok("sif", "new", f"{tmp_path}/image.sif")
    before = (tmp_path / "image.sif").read_bytes()
    done = without_locks("sif", "add", f"{tmp_path}/image.sif", "/etc/passwd", "--datatype", "generic")
    assert (done.returncode, "lock" in done.stderr, "in use" in done.stderr) == (255, True, False), done.stderr
    assert (tmp_path / "image.sif").read_bytes() == before
    assert without_locks("sif", "list", f"{tmp_path}/image.sif").returncode == 0
