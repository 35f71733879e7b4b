"""Container paths never mean something outside the root."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay import linux
from sifkit.runtime import inroot


@pytest.fixture(params=["openat2", "walk"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A root open as a descriptor, beside things that must not be reached; by both ways to walk."""
    if request.param == "walk":
        monkeypatch.setenv("SIFKIT_DEBUG_WITHOUT", "openat2")
    top = tmp_path / "root"
    (top / "etc").mkdir(parents=True)
    (top / "etc/file").write_text("inside\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/file").write_text("outside\n")
    for name, target in {
        "absolute": "/etc", "relative": "etc", "up": "../etc", "far": "../../../../etc", "loop": "loop",
        "nowhere": "/no/where", "out": str(tmp_path / "etc"), "twice": "/absolute/../relative",
    }.items():  # fmt: skip
        (top / name).symlink_to(target)
    descriptor = os.open(top, os.O_PATH)
    yield descriptor
    os.close(descriptor)


def read(root: int, path: str) -> str:
    descriptor = inroot.locate(root, path)
    try:
        return Path(f"/proc/self/fd/{descriptor}").read_text()
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", ["etc", "absolute", "relative", "up", "far", "twice", "../etc", "etc/../../etc"])
def test_links_are_the_containers_own(root: int, name: str) -> None:
    assert read(root, f"/{name}/file") == "inside\n"


@pytest.mark.parametrize("name", ["nowhere", "out", "missing"])
def test_what_is_not_inside_is_not_there(root: int, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        inroot.locate(root, f"/{name}/file")


def test_a_loop_is_an_error(root: int) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        inroot.locate(root, "/loop/x")


def test_what_is_made_is_made_inside(root: int, tmp_path: Path) -> None:
    os.close(inroot.create(root, "/out/new/dir", directory=True))
    os.close(inroot.create(root, "/far/new", directory=False))
    inside = tmp_path / "root"
    assert (inside / str(tmp_path).lstrip("/") / "etc/new/dir").is_dir()
    assert (inside / "etc/new").is_file()
    assert os.listdir(tmp_path / "etc") == ["file"]


def test_nothing_is_made_on_other_devices(root: int, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inroot.create(root, "/new", directory=True, only_on=[])
    os.close(inroot.create(root, "/etc/file", directory=False, only_on=[]))


def test_missing_says_what_exists_and_what_does_not(root: int) -> None:
    assert inroot.missing(root, "/absolute/a/b") == ("/etc", ["a", "b"])
    assert inroot.missing(root, "/etc/file") == ("/etc/file", [])


def test_within_joins_text_and_refuses_to_leave() -> None:
    assert inroot.within("/r", "/etc/x") == "/r/etc/x"
    assert inroot.within("/r/", "etc//./x") == "/r/etc/x"
    assert inroot.within("/r", "/") == "/r"
    with pytest.raises(ValueError, match="leaves"):
        inroot.within("/r", "/a/../../x")


@pytest.fixture
def renaming(tmp_path: Path) -> Iterator[None]:
    """Somewhere else on the host a file is renamed all the time."""
    there = [tmp_path / "one", tmp_path / "other"]
    there[0].write_text("")
    child = os.fork()
    if child == 0:
        try:
            while True:
                os.rename(*there)
                there.reverse()
        finally:
            os._exit(1)
    yield
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def refused(root: int, path: str) -> bool:
    """Whether the kernel could not be sure of ``path``, this time."""
    try:
        os.close(linux.openat2(root, path, os.O_PATH, linux.RESOLVE_IN_ROOT))
    except BlockingIOError:
        return True
    return False


def test_what_others_rename_meanwhile_is_no_error(root: int, renaming: None) -> None:
    path, met = "/etc/../../etc/../etc/file", 0
    while met < 100:
        met += refused(root, path)
        assert read(root, path) == "inside\n"
