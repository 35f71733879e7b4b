"""ext3 overlays: what is in them, and what creating one never does to anything else."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from overlay import e2fsprogs
from overlay.manage.create import create_ext3, format_ext3
from overlay.probe import Kind, classify
from overlay.section import Section
from overlay.superblock import Superblock

MIB = 2**20


def facts(path: Path | str, offset: int = 0) -> Superblock:
    found = classify(str(path), offset)
    assert found.kind is Kind.EXT3, found
    assert found.problem == ""
    assert found.ext is not None
    return found.ext


def stat_of(section: Section, name: str) -> str:
    return e2fsprogs.debugfs(section, [[b"stat", os.fsencode(name)]], write=False)


def fsck(section: Section) -> None:
    verdict = e2fsprogs.e2fsck(section, "-fn", write=False)
    assert verdict.status == 0, verdict.said


def whole(path: Path) -> Section:
    return Section(str(path), 0, path.stat().st_size)


def test_features_blocks_and_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B20: blocks of 4 KiB, one reserved, Apptainer's features, whatever the host's mke2fs.conf says."""
    config = tmp_path / "mke2fs.conf"
    config.write_text("[defaults]\nblocksize=1024\nbase_features=extent,metadata_csum,64bit\nreserved_ratio=20\n")
    monkeypatch.setenv("MKE2FS_CONFIG", str(config))
    image = tmp_path / "a.img"
    made = create_ext3(str(image), 64 * MIB, label="changes")
    assert made.section == Section(str(image), 0, 64 * MIB)
    sb = facts(image)
    assert set(sb.features) == {
        "has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "sparse_super", "large_file"
    }  # fmt: skip
    assert sb.refused_by_apptainer == ()
    assert (sb.block_size, sb.inode_size, sb.reserved_blocks, sb.label) == (4096, 256, 1, b"changes")
    assert sb.size == image.stat().st_size == 64 * MIB
    assert sb.inodes == 16384
    assert sb.clean
    fsck(whole(image))


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_mode_is_0600_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        create_ext3(str(tmp_path / "a.img"), 16 * MIB, sparse=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.img").stat().st_mode) == 0o600


def test_space_is_reserved_unless_sparse(tmp_path: Path) -> None:
    if create_ext3(str(tmp_path / "full.img"), 64 * MIB).reserved:
        assert (tmp_path / "full.img").stat().st_blocks * 512 >= 64 * MIB
    assert not create_ext3(str(tmp_path / "thin.img"), 64 * MIB, sparse=True).reserved
    assert (tmp_path / "thin.img").stat().st_blocks * 512 < 16 * MIB


def test_upper_and_work_belong_to_the_caller(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    create_ext3(str(image), 16 * MIB)
    for name in ("/upper", "/work"):
        said = stat_of(whole(image), name)
        assert "Mode:  0755" in said
        assert f"User: {os.geteuid():5d}" in said


@pytest.mark.parametrize("owner", [(0, 0), (70000, 65537), (4711, 3000000000)])
def test_any_owner(tmp_path: Path, owner: tuple[int, int]) -> None:
    image = tmp_path / "a.img"
    create_ext3(str(image), 16 * MIB, owner=owner, dirs=["opt/x"])
    for name in ("/upper", "/work", "/upper/opt", "/upper/opt/x"):
        words = stat_of(whole(image), name).split()
        uid, gid = int(words[words.index("User:") + 1]), int(words[words.index("Group:") + 1])
        assert (uid % 2**32, gid % 2**32) == owner
    fsck(whole(image))


def test_odd_directory_names(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    names = [
        "a b",
        'say "x"',
        "<12>",
        "back\\slash",
        os.fsdecode(b"\xff\xfe"),
        "ünï",
        "-w",
        "#x",
        "tab\there",
    ]
    create_ext3(str(image), 16 * MIB, dirs=[*names, "deep/er//./one", "/absolute"])
    for name in [*names, "deep/er/one", "absolute"]:
        assert "Type: directory" in stat_of(whole(image), f"/upper/{name}")
    fsck(whole(image))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a\nb", ".wh.x", "x" * 256, "nul\0"])
def test_refused_directory_names_leave_nothing(tmp_path: Path, name: str) -> None:
    """B17: among them those that lead out of upper/."""
    with pytest.raises(ValueError, match=r"director|debugfs"):
        create_ext3(str(tmp_path / "a.img"), 16 * MIB, dirs=[name])
    assert list(tmp_path.iterdir()) == []


def test_inodes(tmp_path: Path) -> None:
    create_ext3(str(tmp_path / "a.img"), 64 * MIB, inodes=50000)
    assert facts(tmp_path / "a.img").inodes >= 50000
    create_ext3(str(tmp_path / "b.img"), 64 * MIB, bytes_per_inode=65536)
    assert facts(tmp_path / "b.img").inodes == 1024
    create_ext3(str(tmp_path / "c.img"), 512 * MIB, sparse=True)
    assert facts(tmp_path / "c.img").inodes == 512 * 64
    with pytest.raises(ValueError, match=r"2147483648 inodes alone take 512 GiB, and the size is 16 MiB"):
        create_ext3(str(tmp_path / "d.img"), 16 * MIB, inodes=2**31)
    with pytest.raises(e2fsprogs.ToolError) as caught:
        create_ext3(str(tmp_path / "d.img"), 16 * MIB, inodes=16 * MIB // 256)
    assert caught.value.path == str(tmp_path / "d.img")
    assert "/proc/" not in caught.value.said
    assert not (tmp_path / "d.img").exists()


def test_bad_sizes_and_labels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too few"):
        create_ext3(str(tmp_path / "a.img"), MIB)
    with pytest.raises(ValueError, match="label"):
        create_ext3(str(tmp_path / "a.img"), 16 * MIB, label="x" * 17)
    create_ext3(str(tmp_path / "a.img"), 16 * MIB + 1000)
    assert (tmp_path / "a.img").stat().st_size == 16 * MIB


def test_odd_image_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a?offset=5", "-q", "a b", "x:y,z", os.fsdecode(b"\xff"), "n\nl"):
        create_ext3(name, 16 * MIB, sparse=True)
        fsck(Section(name, 0, 16 * MIB))
        assert "Type: directory" in stat_of(Section(name, 0, 16 * MIB), "/upper")


def test_at_an_offset_touches_nothing_else(tmp_path: Path) -> None:
    outer = tmp_path / "o"
    junk = os.urandom(MIB)
    outer.write_bytes(junk * 20)
    section = Section(str(outer), 2 * MIB - 4096, 17 * MIB)
    made = format_ext3(section, dirs=["x"], owner=(70000, 5))
    assert made.section == section
    data = outer.read_bytes()
    assert len(data) == 20 * MIB
    assert data[: section.offset] == (junk * 2)[: section.offset]
    assert data[section.offset + section.size :] == (junk * 20)[section.offset + section.size :]
    assert junk[4096:8192] not in data[section.offset : section.offset + section.size]
    assert facts(outer, section.offset).size == 17 * MIB
    fsck(section)
    assert "User: 70000" in stat_of(section, "/upper/x")


def test_at_an_offset_sparse_makes_holes(tmp_path: Path) -> None:
    outer = tmp_path / "o"
    outer.write_bytes(b"\1" * (64 * MIB))
    format_ext3(Section(str(outer), 4096, 63 * MIB), sparse=True)
    assert outer.stat().st_blocks * 512 < 16 * MIB
    fsck(Section(str(outer), 4096, 63 * MIB))


def test_section_behind_the_end_is_refused(tmp_path: Path) -> None:
    outer = tmp_path / "o"
    outer.write_bytes(bytes(17 * MIB))
    with pytest.raises(OSError, match="ends inside"):
        format_ext3(Section(str(outer), 4096, 17 * MIB))
    assert outer.read_bytes() == bytes(17 * MIB)


def test_no_space_leaves_nothing(tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        pytest.skip("/dev/shm is not writable")
    room = os.statvfs(shm)
    if room.f_blocks == 0:
        pytest.skip("/dev/shm has no limit")
    before = sorted(os.listdir(shm))
    with pytest.raises(OSError, match="No space left") as caught:
        create_ext3(str(shm / "sifkit-test.img"), room.f_blocks * room.f_frsize + 64 * MIB)
    assert caught.value.filename == str(shm / "sifkit-test.img")
    assert sorted(os.listdir(shm)) == before


def test_tool_failure_is_worded_and_leaves_nothing(tmp_path: Path) -> None:
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20));"
        "from overlay.manage.create import create_ext3\n"
        f"try: create_ext3({str(tmp_path / 'a.img')!r}, 16*2**20)\n"
        "except OSError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=True, env=HERE)
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


HERE = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
