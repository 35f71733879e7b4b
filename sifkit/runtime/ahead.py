"""Reading ahead what every start reads of an image that FUSE unpacks: the container's shell, loader and C library.

A program is read as its pages are touched, here and there, and squashfuse, which keeps few blocks, unpacks each of
them several times for that. Asked for from front to back it unpacks each once, and does so while we build the
container. Once the kernel has a file's pages it keeps them, whoever opens the file next.
"""

from __future__ import annotations

import contextlib
import os
import stat

from overlay.features import without
from overlay.records import TYPE_CHECKING
from sifkit.runtime import inroot

if TYPE_CHECKING:
    from typing import Final

_SHELL: Final = "/bin/sh"
_LIBRARIES: Final = {
    "x86_64": ("/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"),
    "aarch64": ("/lib/ld-linux-aarch64.so.1", "/lib/aarch64-linux-gnu/libc.so.6", "/lib64/libc.so.6"),
}
_MOST: Final = 2 << 20  # bytes of each
_WINDOW: Final = 128 << 10  # as much as the kernel reads at once over FUSE; of a longer range it drops the rest


def read(base: str) -> None:
    """Ask the kernel for them from the root file system at ``base``. Returns when FUSE has taken the last request, of
    which it takes a dozen without waiting. What fails is read later.
    """
    if without("read-ahead"):
        return
    root = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in (_SHELL, *_LIBRARIES.get(os.uname().machine, ())):
            with contextlib.suppress(OSError):
                _advise(root, name)
    finally:
        os.close(root)


def _advise(root: int, name: str) -> None:
    found = inroot.locate(root, name)
    try:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            return
        file = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)
    try:
        for offset in range(0, min(status.st_size, _MOST), _WINDOW):
            os.posix_fadvise(file, offset, _WINDOW, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(file)
