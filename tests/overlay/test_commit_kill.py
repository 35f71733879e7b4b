"""Commits that are killed, that fail, and that reach the disk in part: after a rollback the tree is the old one."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from commit_case import BLOCK, MIB, SIZE, Case, ignore, kill, start, tree

from overlay import e2fsprogs
from overlay.commit import carry as commit
from overlay.extwrite import volume as ext_volume
from overlay.extwrite.volume import NoSpace
from overlay.failure import Failure
from overlay.manage import create


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"), 512 * 41)


@pytest.fixture
def case(shared: Case) -> Case:
    shared.reset()
    return shared


def test_killed_at_any_moment(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # In small batches, so that several logs are there and moments between them, too.
    monkeypatch.setattr(ext_volume, "_BATCH", 8 * BLOCK)
    chance = random.Random(6)
    in_time = [kill(case, chance.uniform(0, case.seconds)) for _ in range(20)]
    assert any(in_time)
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
