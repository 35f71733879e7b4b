"""Sessions without containers: records, markers, places, what is pending, room, conflicts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import images
import pytest
from images import MIB
from probes import needs
from trees import dig

from overlay.failure import Failure
from overlay.manage.create import create_ext3
from overlay.section import Section
from overlay.session import conflict as session_conflict
from overlay.session import index as session_index
from overlay.session import marker as session_marker
from overlay.session import pending as session_pending
from overlay.session import place as session_place
from overlay.session import room as session_room
from overlay.session import state as session
from overlay.session.state import Session
from sifkit.image import convert

pytestmark = needs("mke2fs", "debugfs", "xattr")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("SIFKIT_SESSION_DIR", raising=False)


@pytest.fixture
def image(tmp_path: Path) -> Section:
    """A new ext3 overlay image in a directory of its own."""
    (tmp_path / "here").mkdir()
    return create_ext3(f"{tmp_path}/here/over.img", 64 * MIB, sparse=True).section


def opened(image: Section, root: str = "") -> Session:
    made = session.create(root or os.path.dirname(image.path), image, "/base", "", os.getpid())
    session_marker.put(image.path, made.record, made.path)
    session_index.note(made.path)
    return made


# -- records ---------------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(image: Section) -> None:
    made = opened(image)
    assert session.read(made.path) == made
    changed = made.put(state=session.INTENT, base='with "quotes"\n\udcff', undo="/x")
    assert session.read(made.path) == changed
    assert made.record.holder.alive


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"name": 1}', "x" * 100_000])
def test_a_record_that_makes_no_sense_is_none(image: Section, text: str) -> None:
    made = opened(image)
    Path(made.path, "record").write_text(text)
    assert session.read(made.path) is None


def test_a_record_that_points_elsewhere_is_none(image: Section, tmp_path: Path) -> None:
    """Whoever may write beside an image could name any directory; what is not one of ours is not believed."""
    made = opened(image)
    shutil.rmtree(made.upper)
    (tmp_path / "secret").mkdir()
    os.symlink(tmp_path / "secret", made.upper)
    assert session.read(made.path) is None


def test_a_session_deeper_than_paths_may_be_can_be_removed(image: Section) -> None:
    made = opened(image)
    here = dig(made.upper, "dd", 2500)
    os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    session.remove(made.path)
    assert not os.path.exists(made.path)


def test_a_session_with_closed_directories_can_be_removed(image: Section) -> None:
    made = opened(image)
    Path(made.upper, "closed/inner").mkdir(parents=True)
    os.chmod(f"{made.upper}/closed", 0)
    os.chmod(made.work, 0)
    session.remove(made.path)
    assert not os.path.exists(made.path)


# -- markers ---------------------------------------------------------------------------------------------


def pending(path: str) -> list[str]:
    return [one.state for one in session_pending.find(Section(path, 0, os.path.getsize(path)))]


def test_an_image_names_its_session(image: Section) -> None:
    made = opened(image)
    (found,) = session_pending.find(image)
    assert (found.state, found.path, found.session) == ("waiting", made.path, made)


def test_what_is_made_of_it_would_lack_the_changes(image: Section) -> None:
    opened(image)
    with pytest.raises(Failure, match="not in it yet"), convert.layer(image.path, "."):
        pytest.fail("it was read")


def test_a_renamed_image_does_too(image: Section) -> None:
    opened(image)
    os.rename(image.path, f"{image.path}.renamed")
    assert pending(f"{image.path}.renamed") == ["waiting"]


def test_a_copy_has_no_session(image: Section, tmp_path: Path) -> None:
    opened(image)
    copy = f"{tmp_path}/copy.img"
    assert images.run("cp", "-a", image.path, copy).returncode == 0
    assert os.listxattr(copy)
    assert pending(copy) == []
    assert pending(image.path) == ["waiting"]


def test_one_that_moved_to_another_file_system_has(image: Section, tmp_path: Path) -> None:
    opened(image)
    assert images.run("cp", "-a", image.path, f"{tmp_path}/moved.img").returncode == 0
    os.unlink(image.path)
    assert pending(f"{tmp_path}/moved.img") == ["waiting"]


def test_without_attributes_a_file_beside_it_is_the_marker(
    image: Section, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patched:
        patched.setattr(os, "setxattr", refuse)
        made = opened(image, str(tmp_path / "temporary"))
    assert [name for name in os.listdir(tmp_path / "here") if name.startswith(".over.img.sifkit-session-")]
    assert pending(image.path) == ["waiting"]
    session_pending.clear_away(image.path, made)
    assert os.listdir(tmp_path / "here") == ["over.img"]


def test_a_lost_marker_is_made_up_for_by_looking_where_sessions_lie(image: Section) -> None:
    made = opened(image)
    session_marker.take_off(image.path, made.record.name)
    assert pending(image.path) == ["waiting"]


def test_links_of_other_runs_come_and_go_while_it_looks(image: Section, tmp_path: Path) -> None:
    link = f"{session_place.state_directory()}/{session.PREFIX}other"
    os.makedirs(os.path.dirname(link))
    child = os.fork()
    if child == 0:
        while True:
            with contextlib.suppress(OSError):  # what leads nowhere when it is looked at is taken away
                os.symlink(tmp_path, link)
                os.unlink(link)
    try:
        for _ in range(500):
            assert session_pending.find(image) == []
            assert session_index.sessions() == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_another_file_system_under_the_same_name(image: Section, tmp_path: Path) -> None:
    opened(image)
    os.unlink(image.path)
    create_ext3(image.path, 64 * MIB, sparse=True)
    assert pending(image.path) == ["replaced"]


def test_a_session_on_another_host(image: Section, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as there:
        there.setenv("SIFKIT_DEBUG_HOST", "node7")
        made = opened(image, str(tmp_path / "temporary"))
        os.rename(made.path, f"{tmp_path}/away")
    (found,) = session_pending.find(image)
    assert (found.state, found.host) == ("elsewhere", "node7")
    assert "node7" in found.describe()


def test_a_session_whose_directory_was_deleted(image: Section) -> None:
    made = opened(image)
    session.remove(made.path)
    (found,) = session_pending.find(image)
    assert (found.state, "lost" in found.describe()) == ("lost", True)
    session_pending.forget(image, found)
    assert pending(image.path) == []


def test_who_would_write_in_between_is_refused(image: Section) -> None:
    made = opened(image)
    with pytest.raises(Failure, match=r"(?s)cannot grow it.*sifkit session commit " + made.record.name):
        session_pending.make_current(image, "cannot grow it")
    session_pending.clear_away(image.path, made)
    assert session_pending.make_current(image, "cannot grow it") == []


# -- places ----------------------------------------------------------------------------------------------


def test_beside_the_image_comes_before_the_state_directory(image: Section, tmp_path: Path) -> None:
    assert session_place.choose(image).root == str(tmp_path / "here")
    os.chmod(tmp_path / "here", 0o555)
    if os.geteuid():
        assert session_place.choose(image).root == f"{tmp_path}/home/.local/state/sifkit/sessions"


def test_the_variable_comes_first(image: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIFKIT_SESSION_DIR", str(tmp_path / "temporary"))
    assert session_place.choose(image).root == str(tmp_path / "temporary")
    monkeypatch.setenv("SIFKIT_SESSION_DIR", str(tmp_path / "nowhere"))
    assert session_place.choose(image).root == str(tmp_path / "here")


def test_what_is_asked_for_has_to_serve(image: Section) -> None:
    place = session_place.choose(image, "/proc")
    assert (place.root, "proc is not known to be safe" in place.why_not or "may not write" in place.why_not) == (
        "",
        True,
    )


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no tmpfs at hand")
def test_memory_is_volatile(image: Section) -> None:
    assert session_place.choose(image, "/dev/shm").volatile == "in memory"


# -- room ------------------------------------------------------------------------------------------------


def test_what_fits_needs_no_room(image: Section) -> None:
    assert session_room.make(image, MIB, 10, session_room.Limit(), refuse_to_grow) == image


def refuse_to_grow(section: Section, size: int, inodes: int) -> Section:
    raise AssertionError(f"asked to grow {section} to {size}")


@pytest.mark.parametrize(("size", "inodes"), [(100 * MIB, 1), (1, 30_000), (300 * MIB, 100_000)])
def test_it_grows_by_what_is_missing(image: Section, size: int, inodes: int) -> None:
    grown = session_room.make(image, size, inodes, session_room.Limit(), session_room.enlarge_file)
    assert session_room.make(grown, size, inodes, session_room.Limit(), refuse_to_grow) == grown
    assert os.path.getsize(image.path) == grown.size
    assert images.run("/usr/sbin/e2fsck", "-fn", image.path).returncode == 0


def test_it_does_not_grow_beyond_the_limit(image: Section) -> None:
    for limit, words in (
        (session_room.Limit(grow=False), "--no-grow"),
        (session_room.Limit(most=70 * MIB), "--max-size allows 70 MiB"),
    ):
        with pytest.raises(session_room.NoRoom, match=words):
            session_room.make(image, 100 * MIB, 1, limit, session_room.enlarge_file)
    assert os.path.getsize(image.path) == 64 * MIB


# -- conflicts -------------------------------------------------------------------------------------------


def test_conflicts_are_what_both_have_changed(image: Section, tmp_path: Path) -> None:
    (tmp_path / "tree/both").mkdir(parents=True)
    for name in ("both/file", "theirs", "ours", "gone"):
        (tmp_path / "tree" / name).write_text("x")
    made = images.make_overlay_image(tmp_path / "full.img", tmp_path / "tree")
    section = Section(str(made), 0, made.stat().st_size)
    began = time.time() + 3600  # mke2fs -d writes the time of now
    upper = tmp_path / "upper"
    (upper / "both").mkdir(parents=True)
    for name in ("both/file", "ours", "new"):
        (upper / name).write_text("y")
    assert list(session_conflict.conflicts(section, str(upper), began)) == []
    assert list(session_conflict.conflicts(section, str(upper), 0)) == [b"both/file", b"ours"]
