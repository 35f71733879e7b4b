"""A commit over an earlier one, to be killed, failed and torn: the image, what is to be written, both trees."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

from delta_model import comparable, of_image

from overlay import e2fsprogs
from overlay.commit import carry as commit
from overlay.manage import create
from overlay.section import Section

MIB = 2**20
SIZE = 20 * MIB
BLOCK = 4096
Tree = dict[bytes, tuple[object, ...]]


def tree(section: Section) -> Tree:
    return comparable(of_image(section, b""), nanoseconds=True)


def ignore(_text: str) -> None:
    pass


def first_upper(top: Path) -> str:
    """Much that the second one deletes, replaces or leaves alone."""
    upper = top / "first"
    for number in range(400):
        path = upper / f"d{number % 8}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old" * number)
    (upper / "d1" / "large").write_bytes(random.Random(1).randbytes(2 * MIB))
    (upper / "d1" / "hard").hardlink_to(upper / "d1" / "large")
    return str(upper)


def second_upper(top: Path) -> str:
    upper = top / "second"
    for number in range(400):
        path = upper / f"d{number % 5}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"newer" * number)
    for number in range(50, 80):
        gone = upper / f"d{number % 8}" / f"file {number}"
        gone.parent.mkdir(exist_ok=True)
        gone.unlink(missing_ok=True)
        os.mknod(gone, 0o020000, os.makedev(0, 0))
    for name in ("d7", "d1/hard"):
        shutil.rmtree(upper / name, ignore_errors=True)
        os.mknod(upper / name, 0o020000, os.makedev(0, 0))
    (upper / "d2" / "more").write_bytes(random.Random(2).randbytes(3 * MIB))
    os.setxattr(upper / "d2" / "more", "user.large", b"x" * 2000)
    return str(upper)


class Case:
    """An image with a first commit in it, and the second one's upper directory."""

    def __init__(self, top: Path, offset: int) -> None:
        path = str(top / "image")
        with open(path, "wb") as file:
            file.truncate(offset + SIZE + (BLOCK if offset else 0))
        self.section = Section(path, offset, SIZE)
        create.format_ext3(self.section, sparse=True)
        commit.commit(self.section, first_upper(top), [], str(top / "undo"), ignore)
        commit.discard(str(top / "undo"))
        self.old = tree(self.section)
        self.copy = shutil.copyfile(path, top / "copy")
        self.upper = second_upper(top)
        self.undo = str(top / "undo")
        started = time.monotonic()
        self.commit()
        self.seconds = time.monotonic() - started
        self.new = tree(self.section)
        self.reset()

    def commit(self) -> None:
        commit.commit(self.section, self.upper, [], self.undo, ignore)
        commit.discard(self.undo)

    def reset(self) -> None:
        for name in commit.logs(self.undo):
            os.unlink(name)
        shutil.copyfile(self.copy, self.section.path)

    def roll_back(self) -> None:
        commit.rollback(self.section, self.undo)
        assert not commit.quick_check(self.section)
        checked = e2fsprogs.e2fsck(self.section, "-fn", write=False)
        assert checked.status == 0, checked.said
        assert not [name for name in os.listdir(os.path.dirname(self.undo)) if name.startswith("undo")]


def start(case: Case) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            commit.commit(case.section, case.upper, [], case.undo, ignore)
            status = 0
        finally:
            os._exit(status)
    return child


def kill(case: Case, after: float) -> bool:
    """Commit, and kill that ``after`` seconds; whether we came in time. Then roll back, to exactly the old tree."""
    child = start(case)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    if os.WIFEXITED(status):  # it was done before we came
        assert tree(case.section) == case.new
    case.roll_back()
    assert tree(case.section) == case.old
    return os.WIFSIGNALED(status)
