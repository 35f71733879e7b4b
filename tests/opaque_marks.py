"""What lies in a directory overlay, with the marks of replaced directories."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def tree(top: Path) -> dict[str, str]:
    """path -> what it is, with its opaque marks (the ordinary ones)."""
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        kind = stat.filemode(status.st_mode)[0]
        if kind == "c":
            assert status.st_rdev == 0
        elif kind == "d":
            for mark in ("user.overlay.opaque", "user.fuseoverlayfs.opaque"):
                if mark in os.listxattr(path) and os.getxattr(path, mark) == b"y":
                    kind += " " + mark.split(".")[1]
        found[str(path.relative_to(top))] = kind
    return found
