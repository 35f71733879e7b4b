"""Commits that are killed, that fail, and that reach the disk in part: after a rollback the tree is the old one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from delta_model import comparable, of_image

from overlay import commit, create, e2fsprogs, ext_volume
from overlay.ext_volume import NoSpace
from overlay.failure import Failure
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"), 512 * 41)


@pytest.fixture
def case(shared: Case) -> Case:
    shared.reset()
    return shared


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


def test_killed_at_any_moment(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # In small batches, so that several logs are there and moments between them, too.
    monkeypatch.setattr(ext_volume, "_BATCH", 8 * BLOCK)
    seen = set()
    chance = random.Random(6)
    for _ in range(20):
        child = start(case)
        time.sleep(chance.uniform(0, case.seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        if os.WIFEXITED(status):  # it was done before we came
            assert tree(case.section) == case.new
        case.roll_back()
        seen.add(os.WIFSIGNALED(status))
        assert tree(case.section) == case.old
    assert True in seen
    case.commit()
    assert tree(case.section) == case.new


def test_any_part_of_it_on_disk(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a loss of power: of the blocks that changed, any may have been written."""
    monkeypatch.setattr(ext_volume, "_BATCH", 16 * BLOCK)
    child = start(case)
    assert os.waitpid(child, 0)[1] == 0
    logs = [shutil.copyfile(name, name.replace("undo", "kept")) for name in commit.logs(case.undo)]
    assert len(logs) > 1
    before, after = Path(case.copy).read_bytes(), Path(case.section.path).read_bytes()
    chance = random.Random(7)
    for share in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        mixed = bytearray(before)
        for at in range(0, len(before), 512):
            if before[at : at + 512] != after[at : at + 512] and chance.random() < share:
                mixed[at : at + 512] = after[at : at + 512]
        Path(case.section.path).write_bytes(mixed)
        for name in logs:
            shutil.copyfile(name, name.replace("kept", "undo"))
        case.roll_back()
        assert tree(case.section) == case.old
        case.roll_back()  # again: nothing to do


def test_no_room(case: Case, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "a").write_bytes(b"a" * MIB)
    (full / "too large").write_bytes(b"b" * SIZE)
    assert commit.needs(case.section, str(full)).bytes > commit.free(case.section).bytes
    with pytest.raises(NoSpace, match="no free blocks") as caught:
        commit.commit(case.section, str(full), [], case.undo, ignore)
    assert caught.value.filename == "too large"
    case.roll_back()
    assert tree(case.section) == case.old


def test_no_inodes(tmp_path: Path) -> None:
    section = create.create_ext3(str(tmp_path / "image"), SIZE, sparse=True, inodes=32).section
    old = tree(section)
    upper = tmp_path / "upper"
    upper.mkdir()
    for number in range(commit.free(section).inodes + 1):
        (upper / str(number)).touch()
    with pytest.raises(NoSpace, match="no free inodes"):
        commit.commit(section, str(upper), [], str(tmp_path / "undo"), ignore)
    commit.rollback(section, str(tmp_path / "undo"))
    assert tree(section) == old


def test_rollback_without_a_log(case: Case) -> None:
    before = Path(case.section.path).read_bytes()
    commit.rollback(case.section, case.undo)
    Path(case.undo).touch()
    with pytest.raises(FileExistsError):
        commit.commit(case.section, case.upper, [], case.undo, ignore)
    commit.rollback(case.section, case.undo)
    Path(case.undo + ".part").write_bytes(b"cut")
    commit.rollback(case.section, case.undo)
    assert not os.path.exists(case.undo + ".part")
    assert Path(case.section.path).read_bytes() == before


def test_a_damaged_log(case: Case) -> None:
    commit.commit(case.section, case.upper, [], case.undo, ignore)
    os.truncate(case.undo, os.path.getsize(case.undo) // 2)
    kept = shutil.copyfile(case.undo, case.undo.replace("undo", "kept"))
    commit.rollback(case.section, case.undo)  # the image is sound: it holds the whole commit
    assert tree(case.section) == case.new
    e2fsprogs.debugfs(case.section, [[b"sif", b"/upper", b"links_count", b"77"]], write=True)
    shutil.copyfile(kept, case.undo)
    with pytest.raises(Failure, match="undo log is damaged"):
        commit.rollback(case.section, case.undo)
