"""Each tool on a bare image and on one inside a file, and how their complaints reach us."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from overlay import e2fsprogs, tools
from overlay.e2fsprogs import ToolError
from overlay.failure import Failure
from overlay.manage.create import create_ext3, format_ext3
from overlay.probe import classify
from overlay.section import Section

MIB = 2**20


@pytest.fixture(params=[0, 53248])
def section(request: pytest.FixtureRequest, tmp_path: Path) -> Section:
    if request.param == 0:
        return create_ext3(str(tmp_path / "i"), 64 * MIB, sparse=True).section
    (tmp_path / "o").write_bytes(b"x" * request.param)
    os.truncate(tmp_path / "o", 64 * MIB + request.param)
    return format_ext3(Section(str(tmp_path / "o"), request.param, 64 * MIB), sparse=True).section


def sound(section: Section) -> None:
    verdict = e2fsprogs.e2fsck(section, "-fn", write=False)
    assert verdict.status == 0, verdict.said


def size(section: Section) -> int:
    found = classify(section.path, section.offset, section.size).ext
    assert found is not None
    return found.size


def test_resize(tmp_path: Path) -> None:
    section = create_ext3(str(tmp_path / "i"), 64 * MIB, sparse=True).section
    for wanted in (32 * MIB, 48 * MIB, 64 * MIB):
        e2fsprogs.e2fsck(section, "-fp", write=True)
        e2fsprogs.resize2fs(section, wanted)
        section = section._replace(size=wanted)
        assert size(section) == wanted == os.stat(section.path).st_size
        sound(section)


def test_resize_would_cut_off_a_file_around_the_section(tmp_path: Path) -> None:
    (tmp_path / "o").write_bytes(bytes(65 * MIB))
    for section in (Section(str(tmp_path / "o"), MIB, 64 * MIB), Section(str(tmp_path / "o"), 0, 64 * MIB)):
        format_ext3(section, sparse=True)
        with pytest.raises(ValueError, match="cut off"):
            e2fsprogs.resize2fs(section, 32 * MIB)
        assert (tmp_path / "o").stat().st_size == 65 * MIB


def test_least_size_is_only_asked_for(section: Section) -> None:
    before = Path(section.path).read_bytes()
    assert 4 * MIB < e2fsprogs.minimum_size(section, 4096) < 32 * MIB
    assert Path(section.path).read_bytes() == before


def test_tune_and_dump(section: Section) -> None:
    e2fsprogs.tune2fs(section, "-L", "label", "-m", "1")
    said = e2fsprogs.dumpe2fs(section)
    assert said["Filesystem volume name"] == "label"
    assert int(said["Block count"]) * 4096 == 64 * MIB
    with pytest.raises(ToolError, match="tune2fs"):
        e2fsprogs.tune2fs(section, "-m", "99")


def test_undo(section: Section, tmp_path: Path) -> None:
    before = Path(section.path).read_bytes()
    undo = tmp_path / "undo file"
    debugfs = tools.need("debugfs", "to test")
    subprocess.run(
        [debugfs, "-w", "-z", str(undo), "-R", "mkdir /upper/new", section.spec], check=True, capture_output=True
    )
    assert Path(section.path).read_bytes() != before
    e2fsprogs.e2undo(str(undo), section)
    assert "new" not in e2fsprogs.debugfs(section, [[b"ls", b"-p", b"/upper"]], write=False)
    e2fsprogs.e2fsck(section, "-fp", write=True)
    sound(section)


def test_debugfs_tells_errors(section: Section) -> None:
    with pytest.raises(ToolError, match="File not found") as caught:
        e2fsprogs.debugfs(section, [[b"stat", b"/nowhere"]], write=False)
    assert caught.value.status == 0
    with pytest.raises(ToolError, match="already exists"):
        e2fsprogs.debugfs(section, [[b"mkdir", b"/upper"]], write=True)
    with pytest.raises(ToolError, match="read/only"):
        e2fsprogs.debugfs(section, [[b"mkdir", b"/x"]], write=False)


@pytest.mark.parametrize("name", [b"a\nb", b"", b"nul\0", b"x" * 9000])
def test_debugfs_refuses_what_it_cannot_say(section: Section, name: bytes) -> None:
    with pytest.raises(ValueError, match="debugfs"):
        e2fsprogs.debugfs(section, [[b"mkdir", name]], write=True)


def test_quotes() -> None:
    assert e2fsprogs.quote(b'say "x"') == b'"say ""x"""'


def test_a_question_mark_in_the_name_of_an_image(tmp_path: Path) -> None:
    section = create_ext3(str(tmp_path / "a?offset=512"), 16 * MIB, sparse=True).section
    sound(section)
    with pytest.raises(ToolError) as caught:
        e2fsprogs.debugfs(section, [[b"stat", b"/nowhere"]], write=False)
    assert "/proc/self/fd" not in str(caught.value)


def test_a_missing_program_is_named(section: Section, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_paths", {"debugfs": "/nonexistent/debugfs"})
    with pytest.raises(Failure, match="debugfs") as caught:
        e2fsprogs.debugfs(section, [[b"ls"]], write=False)
    assert "e2fsprogs" in caught.value.hint


def test_not_a_file_system(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(MIB))
    section = Section(str(tmp_path / "x"), 0, MIB)
    for call in (lambda: e2fsprogs.dumpe2fs(section), lambda: e2fsprogs.debugfs(section, [[b"ls"]], write=False)):
        with pytest.raises(ToolError, match=r"uper-?block"):
            call()
