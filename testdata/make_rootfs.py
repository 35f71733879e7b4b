"""Build a small real root file system from busybox-static: ``make_rootfs.py OUTDIR``.

OUTDIR must not exist, or be a tree made by this program, which is then replaced. The result belongs to
the caller and has every applet as a link, the usual directories, a passwd file, and Apptainer's
environment scripts and runscript.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

DIRECTORIES = (
    *("bin", "dev", "etc", "home", "proc", "root", "run", "sbin", "sys", "tmp"),
    *("usr/bin", "usr/lib", "usr/share/demo", "var/log", "var/tmp", ".singularity.d/env"),
)

FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/resolv.conf": "",
    "etc/os-release": 'NAME="busybox"\nID=busybox\nPRETTY_NAME="busybox test tree"\n',
    "etc/profile": "export PS1='busybox$ '\n",
    "usr/share/demo/greeting": "hello from the base\n",
    "usr/share/demo/untouched": "nobody writes here\n",
    ".singularity.d/env/10-base.sh": "export IMAGE_ORDER=${IMAGE_ORDER:-}10\n",
    ".singularity.d/env/90-environment.sh": "export IMAGE_ORDER=${IMAGE_ORDER:-}90 IMAGE_GREETING=hello\n",
    ".singularity.d/runscript": '#!/bin/sh\necho "runscript: $*"\nexit 0\n',
}

EXECUTABLE = (".singularity.d/runscript",)
MARK = ".singularity.d/busybox-test-tree"


def busybox() -> Path:
    """The static busybox of this host (Debian: package busybox-static)."""
    found = shutil.which("busybox", path="/bin:/usr/bin:" + os.environ.get("PATH", os.defpath))
    if found is None:
        sys.exit("busybox is missing: install the package busybox-static")
    return Path(found)


def make(out: Path) -> None:
    """Make the tree ``out``. Raises FileExistsError when it is something else already."""
    clear(out)
    for name in DIRECTORIES:
        (out / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (out / name).chmod(0o1777)
    (out / "root").chmod(0o700)
    for name, text in FILES.items():
        write(out / name, text, 0o755 if name in EXECUTABLE else 0o644)
    install_busybox(busybox(), out / "bin")
    write(out / MARK, "", 0o644)


def clear(out: Path) -> None:
    """Remove an earlier tree of ours."""
    if out.exists():
        if not (out / MARK).exists():
            raise FileExistsError(f"{out} exists and was not made by this program")
        shutil.rmtree(out)


def write(path: Path, text: str, mode: int) -> None:
    """A file with exactly this content and mode, whatever the umask."""
    path.write_text(text)
    path.chmod(mode)


def install_busybox(program: Path, bindir: Path) -> None:
    """Copy busybox and link its applets to it by relative names, so that the tree works anywhere."""
    shutil.copy(program, bindir / "busybox")
    (bindir / "busybox").chmod(0o755)
    applets = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (bindir / applet).symlink_to("busybox")
    # A static program is needed: the tree has no libraries.
    with (bindir / "busybox").open("rb") as file:
        if b"ld-linux" in file.read(4096):
            sys.exit(f"{program} is not static: install the package busybox-static")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_rootfs.py OUTDIR")
    os.umask(0o022)
    make(Path(sys.argv[1]))
