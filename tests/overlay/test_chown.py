"""Owners of upper/ and work/, in images and directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from probes import only_root, only_user

from overlay.e2fsprogs import debugfs
from overlay.extread.reader import ExtReader
from overlay.failure import Failure
from overlay.manage.check import Outcome, check
from overlay.manage.chown import chown_directory, chown_image, parse_owner
from overlay.manage.create import create_ext3, format_ext3
from overlay.section import Section

MIB = 2**20
NAMES = (b"with space", b'quo"te', b"back\\slash", b"\xff\xfe", b"<12>")


def test_owners_as_they_are_written() -> None:
    assert parse_owner("me") == (os.geteuid(), os.getegid())
    assert parse_owner("fakeroot") == (0, 0)
    assert parse_owner("70000:4294967294") == (70000, 2**32 - 2)
    assert parse_owner("7") == (7, 7)
    for text in ("", ":", "1:", "-1:0", "alice", "1:2:3", "4294967295:0", "٣:1"):
        with pytest.raises(ValueError, match="no owner"):
            parse_owner(text)


@pytest.fixture(params=[0, 40960])
def section(request: pytest.FixtureRequest, tmp_path: Path) -> Section:
    path = str(tmp_path / "i m g")
    if request.param == 0:
        made = create_ext3(path, 64 * MIB, sparse=True, dirs=["a/b"]).section
    else:
        Path(path).write_bytes(b"x" * request.param)
        os.truncate(path, 64 * MIB + request.param)
        made = format_ext3(Section(path, request.param, 64 * MIB), sparse=True, dirs=["a/b"]).section
    (tmp_path / "content").write_bytes(b"content")
    source = os.fsencode(tmp_path / "content")
    debugfs(made, [[b"cd", b"/upper/a/b"], *([b"write", source, name] for name in NAMES)], write=True)
    debugfs(made, [[b"set_inode_field", b"/upper/a", b"mode", b"042750"]], write=True)
    return made


def owners(section: Section) -> dict[bytes, tuple[int, int, int]]:
    with ExtReader(section) as reader:
        return {path: (inode.uid, inode.gid, inode.mode) for path, inode in reader.walk()}


@pytest.mark.parametrize("owner", [(0, 0), (70000, 4_000_000_000), (1, 65536)])
def test_image(section: Section, owner: tuple[int, int]) -> None:
    before = owners(section)
    assert chown_image(section, *owner) >= 4 or owner == (os.geteuid(), os.getegid())
    after = owners(section)
    assert {path: found[2] for path, found in after.items()} == {path: found[2] for path, found in before.items()}
    for path, found in after.items():
        ours = path.split(b"/")[0] in (b"upper", b"work")
        assert found[:2] == (owner if ours else before[path][:2]), path
    assert after[b"upper/a"][2] == 0o42750
    assert check(section, mend=False).outcome is Outcome.CLEAN
    assert chown_image(section, *owner) == 0


def test_a_damaged_image(section: Section) -> None:
    debugfs(
        section,
        [[b"ssv", b"state", b"0"], *([b"sif", b"/upper/a/b/" + n, b"block[0]", b"5000"] for n in NAMES[:3])],
        write=True,
    )
    with pytest.raises(Failure, match="damaged"):
        chown_image(section, 0, 0)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    (tmp_path / "o/upper/d").mkdir(parents=True)
    (tmp_path / "o" / "work" / "work").mkdir(parents=True)
    (tmp_path / "o/upper/d/suid").write_text("x")
    os.chmod(tmp_path / "o/upper/d/suid", 0o4755)
    os.symlink("/etc/passwd", tmp_path / "o/upper/link")
    os.chmod(tmp_path / "o" / "work" / "work", 0)
    return str(tmp_path / "o")


@only_root
def test_directory(directory: str) -> None:
    assert chown_directory(directory, 70000, 70001) == 6
    for path, _, names in os.walk(f"{directory}/upper"):
        for name in [".", *names]:
            found = os.lstat(f"{path}/{name}")
            assert (found.st_uid, found.st_gid) == (70000, 70001)
    assert os.stat(f"{directory}/upper/d/suid").st_mode & 0o7777 == 0o4755
    assert os.stat("/etc/passwd").st_uid == 0
    assert chown_directory(directory, 70000, 70001) == 0


@only_user
def test_directory_of_ones_own(directory: str) -> None:
    assert chown_directory(directory, os.geteuid(), os.getegid()) == 0
    assert os.stat(os.path.join(directory, "work", "work")).st_mode & 0o777 == 0
    with pytest.raises(Failure, match="only root"):
        chown_directory(directory, 0, 0)
    os.chmod(os.path.join(directory, "work", "work"), 0o700)
