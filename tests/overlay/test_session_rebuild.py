"""Room for a commit by rebuilding the image: when, under which lock, and killed at each of its steps."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import images
import killing
import pytest
from images import MIB
from probes import needs

from overlay.locks import lock
from overlay.manage.create import create_ext3
from overlay.section import Section
from overlay.session import marker as session_marker
from overlay.session import pending as session_pending
from overlay.session import room as session_room
from overlay.session import state as session

pytestmark = needs("mke2fs", "debugfs", "xattr")

KEPT = Path(__file__)


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Section:
    """An image with 64 inodes, and a file in it."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made = create_ext3(f"{tmp_path}/over.img", 64 * MIB, inodes=64, sparse=True).section
    commands = f"cd /upper\nwrite {KEPT} kept\n"
    subprocess.run(["/usr/sbin/debugfs", "-w", "-f", "-", made.path], input=commands, text=True, check=True)
    return made


def room(section: Section, inodes: int = 5_000, most: int = 0) -> Section:
    return session_room.make(section, MIB, inodes, session_room.Limit(most=most), session_room.enlarge_file)


def refuse_to_grow(section: Section, size: int, inodes: int) -> Section:
    raise AssertionError(f"asked to grow {section} to {size} and {inodes}")


def whole(image: Section) -> bool:
    read = images.run("/usr/sbin/debugfs", "-R", "cat /upper/kept", image.path)
    return read.stdout == KEPT.read_text() and images.run("/usr/sbin/e2fsck", "-fn", image.path).returncode == 0


def test_many_inodes_come_by_rebuilding(image: Section) -> None:
    """Locked from the first moment: whoever waits for the old file finds the new one locked when it opens that."""
    with lock.acquire(image, exclusive=True):
        rebuilt = room(image)
        with pytest.raises(lock.InUse):
            lock.acquire(rebuilt, exclusive=True)
    assert lock.in_use(rebuilt) == "write"  # until this process ends
    assert rebuilt.size == os.path.getsize(image.path) < 80 * MIB
    assert session_room.make(rebuilt, MIB, 5_000, session_room.Limit(), refuse_to_grow) == rebuilt
    assert whole(image)


def test_the_lock_ends_with_the_process(image: Section) -> None:
    assert killing.outcome(lambda: room(image), 0, killing.die) == 0
    assert os.path.getsize(image.path) > image.size
    assert lock.in_use(Section(image.path, 0, os.path.getsize(image.path))) == ""


def test_where_it_cannot_be_rebuilt_it_grows(image: Section) -> None:
    os.link(image.path, f"{image.path}.other")
    before = os.stat(image.path).st_ino
    grown = room(image, 200)
    assert (os.stat(image.path).st_ino, grown.size > 300 * MIB) == (before, True)
    with pytest.raises(session_room.NoRoom, match="cannot be rebuilt with more: the file has other hard links"):
        room(grown, 5_000, grown.size + 100 * MIB)
    assert whole(image)


@pytest.mark.parametrize("limit", [session_room.Limit(grow=False), session_room.Limit(most=64 * MIB + 1)])
def test_the_limit_holds_for_rebuilding_too(image: Section, limit: session_room.Limit) -> None:
    before = Path(image.path).read_bytes()
    with pytest.raises(session_room.NoRoom) as caught:
        session_room.make(image, MIB, 5_000, limit, session_room.enlarge_file)
    assert Path(image.path).read_bytes() == before
    assert room(image, most=caught.value.size).size <= caught.value.size  # what it says is enough


def test_killed_at_any_step_one_of_them_is_there(image: Section) -> None:
    """The old or the new image, whole, with its session still waiting; and nobody is kept out."""
    one = session.create(os.path.dirname(image.path), image, "/base", "", os.getpid())
    session_marker.put(image.path, one.record, one.path)
    before = os.stat(image.path).st_ino
    for last in range(1, 1000):
        status = killing.outcome(lambda: room(image), last, killing.die)
        now = Section(image.path, 0, os.path.getsize(image.path))
        assert (os.stat(image.path).st_ino == before) == (now.size == image.size)
        assert ([found.state for found in session_pending.find(now)], lock.in_use(now)) == (["waiting"], "")
        assert whole(image)
        if now.size != image.size:
            break
    assert last > 10
    assert os.WIFSIGNALED(status) or status == 0


def test_a_full_disk_at_any_step(image: Section) -> None:
    """It is a matter of room, or the rebuilt image is there already; nothing is left beside it."""
    before = os.stat(image.path).st_ino

    def work() -> None:
        with contextlib.suppress(session_room.NoRoom):
            room(image)

    for last in range(1, 1000):
        assert killing.outcome(work, last, killing.disk_full) == 0
        assert sorted(os.listdir(os.path.dirname(image.path))) == ["home", "over.img"]
        assert whole(image)
        if os.stat(image.path).st_ino != before:
            break
    assert last > 10
