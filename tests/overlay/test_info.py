"""`overlay info` and `overlay create` as a person uses them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from overlay import e2fsprogs
from overlay.failure import Failure
from overlay.locks import lock
from overlay.manage.create import create_ext3
from overlay.manage.info import inspect
from overlay.section import Section
from sifkit.cli.overlay_cmd import overlay

MIB = 2**20


@pytest.fixture(autouse=True)
def _own_records(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))


def sifkit(*words: str) -> Result:
    return CliRunner().invoke(overlay, words)


def refused(*words: str) -> Failure:
    done = sifkit(*words)
    assert isinstance(done.exception, Failure), done.output
    return done.exception


def test_image(tmp_path: Path) -> None:
    image = str(tmp_path / "a.img")
    assert sifkit("create", "-S", "--create-dir", "opt", "--inodes", "20000", image).output == ""
    found = inspect(image)
    assert (found.kind, found.size, found.state, found.problem) == ("ext3", 64 * MIB, "clean", "")
    assert found.upper_owner == (os.geteuid(), os.getegid())
    assert (found.in_use, found.holders, found.notes) == ("", [], [])
    said = sifkit("info", image).output
    for words in ("ext3 image", "64 MiB", "16384 of 4 KiB", "clean", "in use      no"):
        assert words in said
    data = json.loads(sifkit("info", "--json", image).output)
    assert data["ext"]["inodes"] >= 20000
    assert data["upper_owner"] == [os.geteuid(), os.getegid()]


def test_fakeroot_gives_it_to_root(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B18: Apptainer leaves a temporary directory behind, which its user cannot remove."""
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    image = str(tmp_path / "a.img")
    sifkit("create", "-S", "-f", "--create-dir", "opt/x", image)
    assert inspect(image).upper_owner == (0, 0)
    assert os.listdir(tmp_path) == ["a.img"]
    assert os.listdir(temporary) == []


@pytest.mark.parametrize(
    ("words", "inodes"),
    [
        (["-s", "64M"], 16384),  # no fewer than Apptainer's
        (["-s", "1G"], 65536),
        (["-s", "1G", "--profile", "default"], 65536),
        (["-s", "1G", "--profile", "conda"], 262144),
        (["-s", "64M", "--profile", "conda"], 16384),
        (["-s", "1G", "--profile", "data"], 1024),
        (["-s", "1G", "--inodes", "300000"], 300000),
    ],
)
def test_profiles(tmp_path: Path, words: list[str], inodes: int) -> None:
    image = str(tmp_path / "a.img")
    assert sifkit("create", "-S", *words, image).output == ""
    found = inspect(image).ext
    assert found is not None
    assert inodes <= found.inodes < inodes * 1.05
    assert inspect(image).notes == []


def test_a_label(tmp_path: Path) -> None:
    image = str(tmp_path / "a.img")
    sifkit("create", "-S", "--label", "my changes", image)
    assert "label       my changes\n" in sifkit("info", image).output
    assert "longer than 16 bytes" in str(refused("create", "-S", "--label", "x" * 17, str(tmp_path / "b.img")))
    assert sorted(os.listdir(tmp_path)) == ["a.img"]


def test_a_count_and_a_profile_are_one_too_many(tmp_path: Path) -> None:
    done = sifkit("create", "--inodes", "100", "--profile", "conda", str(tmp_path / "a.img"))
    assert done.exit_code == 2
    assert "give one of them" in done.output


def test_directory(tmp_path: Path) -> None:
    path = str(tmp_path / "d/")
    assert sifkit("create", "--create-dir", "opt", path + "/").exit_code == 0
    assert (tmp_path / "d/upper/opt").is_dir()
    assert "owner" in sifkit("info", path).output
    assert "already" in str(refused("create", path))
    assert "not an overlay" in sifkit("info", str(tmp_path)).output


@pytest.mark.parametrize(
    "words", [["--size", "5"], ["--size", "x"], ["--size", "-1"], ["--inodes", "3"], ["--nonsense"], []]
)
def test_wrong_command_lines(tmp_path: Path, words: list[str]) -> None:
    target = [str(tmp_path / "a.img")] if words else []
    assert sifkit("create", *words, *target).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_image_options_are_refused_for_a_directory(tmp_path: Path) -> None:
    words = ["--sparse", "--size", "1G", "--inodes", "99", "--profile", "data", "--label", "x"]
    done = sifkit("create", *words, str(tmp_path / "d") + "/")
    assert done.exit_code == 2
    assert "--size, --sparse, --inodes, --profile, --label" in done.output
    assert sifkit("create", "--fakeroot", "--create-dir", "opt", str(tmp_path / "d") + "/").exit_code == 0
    assert inspect(str(tmp_path / "d")).upper_owner == (os.geteuid(), os.getegid())


def test_failures_say_what_and_why(tmp_path: Path) -> None:
    (tmp_path / "a.img").write_text("x")
    assert refused("create", str(tmp_path / "a.img")).cause.startswith("it exists already")
    assert refused("create", "--create-dir", "../x", str(tmp_path / "b.img")).exit_code == 2
    for path in ("no/b.img", "no/b/"):
        failure = refused("create", f"{tmp_path}/{path}")
        assert (failure.cause, failure.hint.split()[0]) == ("No such file or directory", str(tmp_path))
    assert "inodes alone take 2.3 TiB" in str(refused("create", "--inodes", "9999999999", str(tmp_path / "b.img")))
    for path in ("a.img/b.img", "a.img/b/"):
        assert refused("create", f"{tmp_path}/{path}").cause == f"{tmp_path}/a.img is a file, not a directory"
    assert "not empty" in str(refused("create", str(tmp_path)))
    assert refused("info", str(tmp_path / "no")).exit_code == 255
    assert [p.name for p in tmp_path.iterdir()] == ["a.img"]


def test_in_use(tmp_path: Path) -> None:
    image = str(tmp_path / "a.img")
    create_ext3(image, 64 * MIB, sparse=True)
    with lock.acquire(Section(image, 0, 64 * MIB), exclusive=True):
        found = inspect(image)
        assert found.in_use == "write"
        assert [holder.pid for holder in found.holders] == [os.getpid()]
        assert f"pid {os.getpid()} on" in sifkit("info", image).output
        assert json.loads(sifkit("info", "--json", image).output)["holders"][0]["alive"] is True


def test_states_and_warnings(tmp_path: Path) -> None:
    image = str(tmp_path / "a.img")
    create_ext3(image, 64 * MIB, sparse=True, owner=(12345, 12345), inodes=16)
    section = Section(image, 0, 64 * MIB)
    counts = (b"free_blocks_count", b"free_inodes_count")
    e2fsprogs.debugfs(section, [[b"ssv", count, b"0"] for count in counts], write=True)
    notes = " ".join(inspect(image).notes)
    assert ("belongs to uid 12345, you are uid" in notes) is (os.geteuid() != 0)
    assert "nearly full: few blocks" in notes
    assert "nearly full: few inodes" in notes
    e2fsprogs.debugfs(section, [[b"feature", b"needs_recovery"]], write=True)
    assert inspect(image).state.startswith("needs recovery")
    e2fsprogs.debugfs(section, [[b"feature", b"-needs_recovery"], [b"ssv", b"state", b"0"]], write=True)
    assert inspect(image).state.startswith("not clean")
    e2fsprogs.debugfs(section, [[b"ssv", b"state", b"2"]], write=True)
    assert inspect(image).state.startswith("damaged")
    e2fsprogs.debugfs(section, [[b"rmdir", b"/upper"], [b"ssv", b"r_blocks_count", b"100"]], write=True)
    notes = " ".join(inspect(image).notes)
    assert "no directory upper/" in notes
    assert "reserved for root" in notes
    os.truncate(image, 10 * MIB)
    assert inspect(image).problem.startswith("truncated")
