"""e2fsck's verdicts in plain words, on images damaged on purpose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay import e2fsprogs
from overlay.manage.check import Outcome, check, needs_check
from overlay.manage.create import create_ext3, format_ext3
from overlay.section import Section

MIB = 2**20


@pytest.fixture(params=[0, 40960])
def section(request: pytest.FixtureRequest, tmp_path: Path) -> Section:
    if request.param == 0:
        return create_ext3(str(tmp_path / "i m g"), 64 * MIB, sparse=True).section
    (tmp_path / "o").write_bytes(b"x" * request.param)
    os.truncate(tmp_path / "o", 64 * MIB + request.param)
    return format_ext3(Section(str(tmp_path / "o"), request.param, 64 * MIB), sparse=True).section


def spoil(section: Section, *commands: str) -> None:
    e2fsprogs.debugfs(section, [[w.encode() for w in line.split()] for line in commands], write=True)


def test_clean(section: Section) -> None:
    assert not needs_check(section)
    assert check(section, mend=True)[:2] == (Outcome.CLEAN, "left properly")
    assert check(section, mend=False)[:3] == (Outcome.CLEAN, "no errors found", ())
    assert check(section, mend=True, force=True)[:2] == (Outcome.CLEAN, "no errors found")


def test_a_killed_writer(section: Section) -> None:
    spoil(section, "ssv state 0", "write /etc/passwd upper/f", "freei upper/f", "ssv free_blocks_count 7")
    assert needs_check(section)
    verdict = check(section, mend=True)
    assert verdict.outcome is Outcome.MENDED
    assert verdict.usable
    assert "killed" in verdict.summary
    assert not needs_check(section)
    assert check(section, mend=False).outcome is Outcome.CLEAN


def test_the_journal_is_replayed(section: Section, tmp_path: Path) -> None:
    (tmp_path / "block").write_bytes(b"journal!" * 512)
    spoil(section, "jo", f"jw -b 9000 {tmp_path / 'block'}", "jc")
    assert needs_check(section)
    unmended = check(section, mend=False)
    assert "journal holds writes to replay" in unmended.summary
    verdict = check(section, mend=True)
    assert verdict[:2] == (Outcome.MENDED, "its last writer was killed; the journal was replayed")
    with open(section.path, "rb") as image:
        image.seek(section.offset + 9000 * 4096)
        assert image.read(8) == b"journal!"


def test_what_needs_a_person(section: Section) -> None:
    spoil(
        section, "ssv state 0", "write /etc/passwd f", "write /etc/group g",
        "sif f block[0] 5000", "sif g block[0] 5000",
    )  # fmt: skip
    verdict = check(section, mend=True)
    assert verdict.outcome is Outcome.DAMAGED
    assert not verdict.usable
    assert verdict.command.startswith("e2fsck -f ")
    assert (f"?offset={section.offset}" in verdict.command) == bool(section.offset)
    assert any("RUN fsck" in line or "claimed" in line for line in verdict.details)
    assert check(section, mend=False).outcome is Outcome.DAMAGED


def test_nothing_is_written_without_mend(section: Section) -> None:
    spoil(section, "ssv state 0", "ssv free_blocks_count 7")
    before = Path(section.path).read_bytes()
    check(section, mend=False)
    assert Path(section.path).read_bytes() == before


def test_not_a_file_system(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(MIB))
    verdict = check(Section(str(tmp_path / "x"), 0, MIB), mend=True)
    assert verdict.outcome is Outcome.FAILED
    assert "superblock" in " ".join(verdict.details).lower()


def test_an_image_one_may_not_write(section: Section) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    spoil(section, "ssv state 0")
    os.chmod(section.path, 0o444)
    verdict = check(section, mend=True)
    assert verdict.outcome is Outcome.FAILED
    assert "ermission denied" in " ".join(verdict.details)
