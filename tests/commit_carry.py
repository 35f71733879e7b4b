"""One commit of an upper directory into an image, and what makes up such a directory."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from delta_model import of_image

from overlay import e2fsprogs
from overlay.commit import carry as commit
from overlay.section import Section


def carry(section: Section, upper: Path, *below: Path, known: bool = True) -> commit.Report:
    """Commit and start again with an empty upper."""
    undo = f"{section.path}.undo"
    assert commit.has_changes(str(upper))
    report = commit.commit(section, str(upper), [str(path) for path in below] if known else None, undo, print)
    commit.discard(undo)
    checked = e2fsprogs.e2fsck(section, "-fn", write=False)
    assert checked.status == 0, checked.said
    shutil.rmtree(upper)
    upper.mkdir()
    assert not commit.has_changes(str(upper))
    return report


def delete(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def opaque(path: Path) -> None:
    path.mkdir(parents=True)
    os.setxattr(path, "user.overlay.opaque", b"y")


def names(section: Section) -> set[bytes]:
    return set(of_image(section)) - {b""}
