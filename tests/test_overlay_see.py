"""`overlay ls`, `cat` and `diff` as a person uses them."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import images
import pytest
from images import Program
from probes import needs, only_root, only_user

GOLDEN = Path(__file__).parents[1].parent / "shared" / "golden"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no golden images beside this checkout")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, awkward: Path) -> Path:
    """A directory with one overlay of the awkward tree in each kind."""
    top = tmp_path_factory.mktemp("kinds")
    (top / "changes").mkdir()
    (top / "changes/upper").symlink_to(awkward)
    images.make_squash(awkward, top / "s.sqfs")
    images.make_ext3(top / "bare.img", awkward)
    return top


KINDS = ("changes", "s.sqfs", "bare.img")


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_safe_and_raw_with_null(sifkit: Program, kinds: Path, kind: str) -> None:
    said = sifkit.ok("overlay", "ls", str(kinds / kind), "names")
    assert len(said.splitlines()) == len(images.AWKWARD_NAMES)
    for shown in ("with\\nnewline", "esc\\x1b[31m", "not-utf8-\\xff\\xfe", "ümläut-日本", "back\\\\\\\\slashes\\\\"):
        assert shown in said.splitlines()
    raw = os.fsencode(sifkit.ok("overlay", "ls", "--null", str(kinds / kind), "names"))
    assert set(raw.split(b"\0")) == {*images.AWKWARD_NAMES, b""}
    for name in (b"with\nnewline", b"not-utf8-\xff\xfe", b"-rf", b" leading", b'with"double'):
        path = b"names/" + name
        assert os.fsencode(sifkit.ok("overlay", "cat", str(kinds / kind), os.fsdecode(path))) == b"content of " + name


@pytest.mark.parametrize("kind", KINDS)
def test_ls_long_and_below(sifkit: Program, kinds: Path, kind: str) -> None:
    said = sifkit.ok("overlay", "ls", "-lR", str(kinds / kind))
    lines = {line.split(None, 7)[-1]: line for line in said.splitlines()}
    assert lines["kinds/setuid"].startswith("-rwsr-xr-x ")
    assert lines["links/relative -> target"].startswith("l")
    assert " 5242883 1970-01-01" not in said and " 5242883 " in lines["kinds/holes"]
    assert "1970-01-0" in lines["kinds/old"]
    assert "deep/" + "/".join(["level"] * 40) + "/bottom" in lines
    assert sifkit.ok("overlay", "ls", f"{kinds / kind}:/kinds/private") == "inside\n"
    assert sifkit.ok("overlay", "ls", str(kinds / kind), "/kinds/old") == "old\n"


def test_refusals(sifkit: Program, kinds: Path) -> None:
    image = str(kinds / "s.sqfs")
    for words, said in (
        (("ls", image, "none"), "says nothing about it"), (("cat", image, "links/loop"), "symbolic link to loop"),
        (("cat", image, "kinds"), "is a directory"), (("ls", image, "kinds/old/x"), "old is no directory"),
    ):  # fmt: skip
        done = sifkit("overlay", *words)
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert sifkit("overlay", "ls", str(kinds / "none")).returncode == 255


@only_root
@golden
def test_what_fuse_overlayfs_left(sifkit: Program, tmp_path: Path) -> None:
    with tarfile.open(GOLDEN / "10-dir-overlay-user.tar") as archive:
        archive.extractall(tmp_path)
    said = sifkit.ok("overlay", "ls", "-lR", str(tmp_path / "od-alice"))
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("(deleted)")] == [
        "etc/issue", *(f"opt/{name}" for name in ("d/f1", "d/f2", "d/f3", "e/g1", "e/g2", "e/g3")),
    ]  # fmt: skip
    assert sifkit.ok("overlay", "cat", str(tmp_path / "od-alice"), "opt/d/new") == "new\n"


@golden
@needs("zstd")
def test_images_of_apptainer(sifkit: Program, tmp_path: Path) -> None:
    assert "data/f" in sifkit.ok("overlay", "ls", "-R", str(GOLDEN / "04-embedded-overlay-2M.sif"))
    for name in ("09-overlay-create-dir-user.img", "04-embedded-overlay-64M.sif"):
        subprocess.run(["zstd", "-qd", GOLDEN / (name + ".zst"), "-o", tmp_path / name], check=True)
        sifkit.ok("overlay", "ls", "-lR", str(tmp_path / name))
    assert sifkit.ok("overlay", "ls", str(tmp_path / "09-overlay-create-dir-user.img"))
    assert "bin" in sifkit.ok("overlay", "ls", str(GOLDEN / "04-embedded-overlay-2M.sif#3"))


def make_base(top: Path) -> Path:
    top.mkdir()
    for name in ("same", "changed", "touched", "moded", "gone"):
        (top / name).write_text(name)
    for name in ("full", "plain", "swapped", "killed"):
        (top / name / "sub").mkdir(parents=True)
        (top / name / "one").write_text("1")
        (top / name / "sub" / "two").write_text("22")
    (top / "link").symlink_to("old")
    return top


def make_changes(base: Path, top: Path) -> Path:
    upper = top / "upper"
    upper.mkdir(parents=True)
    for name in ("same", "changed", "touched", "moded"):
        subprocess.run(["cp", "-p", base / name, upper / name], check=True)
    (upper / "changed").write_text("CHANGED")
    os.utime(upper / "touched", (1, 1))
    (upper / "moded").chmod(0o777)
    (upper / "link").symlink_to("new")
    for name in ("gone", "killed", "never"):
        (upper / f".wh.{name}").touch()
    (upper / "full").mkdir()
    (upper / "full/.wh..wh..opq").touch()
    (upper / "full/new").write_text("new")
    (upper / "full/one").write_text("other")
    (upper / "plain/sub").mkdir(parents=True)
    (upper / "plain/sub/three").write_text("333")
    (upper / "swapped").write_text("now a file")
    (upper / "made/deep").mkdir(parents=True)
    (upper / "made/deep/file").write_text("x" * 1000)
    (upper / "made/hard").hardlink_to(upper / "made/deep/file")
    (upper / "new\nline").touch()
    return top


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base = make_base(tmp_path / "base")
    return base, make_changes(base, tmp_path / "changes")


def table(said: str) -> list[str]:
    """Letter and path of each line."""
    return [f"{line.split()[0]} {line.split('/', 1)[1]}" for line in said.splitlines()]


@pytest.mark.parametrize("kind", ["directory", "squashfs", "ext3", "sif"])
def test_diff_says_the_same_of_every_kind(sifkit: Program, pair: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    from sifkit import sif

    base, changes = pair
    target = changes
    if kind != "directory":
        target = images.make_squash(changes / "upper", tmp_path / "s.sqfs")
        squashed = images.make_squash(base, tmp_path / "b.sqfs")
        base = squashed
    if kind in ("ext3", "sif"):
        target = images.make_overlay_image(tmp_path / "e.img", changes / "upper")
    if kind == "sif":
        base = tmp_path / "i.sif"
        sif.create(base, [sif.partition(squashed, sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64")])
        sif.add(base, sif.partition(target, sif.FsType.EXT3, sif.PartType.OVERLAY, "amd64", group=1))
        target = base
    alone = table(sifkit.ok("overlay", "diff", str(target)))
    assert alone == [
        "A changed", "O full", "A full/new", "A full/one", "D gone", "D killed", "A link", "A made", "A made/deep",
        "A made/deep/file", "A made/hard", "A moded", "D never", "A new\\nline", "A plain", "A plain/sub",
        "A plain/sub/three", "A same", "A swapped", "A touched",
    ]  # fmt: skip
    based = table(sifkit.ok("overlay", "diff", "--base", str(base), str(target)))
    assert based == [
        "M changed", "A full/new", "M full/one", "D full/sub", "D gone", "D killed", "M link", "A made", "A made/deep",
        "A made/deep/file", "A made/hard", "m moded", "A new\\nline", "A plain/sub/three", "M swapped", "m touched",
    ]  # fmt: skip
    told = json.loads(sifkit.ok("overlay", "diff", "--json", "--base", str(base), str(target)))
    assert [f"{entry['change']} {entry['path']}".replace("\n", "\\n").replace(" /", " ") for entry in told] == based
    assert next(entry for entry in told if entry["path"] == "/moded")["differs"] == ["mode"]
    raw = sifkit.ok("overlay", "diff", "-0", str(target)).split("\0")
    assert any(line.endswith("/new\nline") for line in raw)
    stat = json.loads(sifkit.ok("overlay", "diff", "--stat", "--json", str(target)))
    assert stat["changes"] == {"A": 16, "M": 0, "m": 0, "D": 3, "O": 1}
    twice = 1000 if kind in ("ext3", "sif") else 0  # make_overlay_image copies hard links apart
    assert stat["largest_by_bytes"][:2] == [
        {"path": "/made", "bytes": 1000 + twice}, {"path": "/made/deep", "bytes": 1000},
    ]  # fmt: skip
    assert "largest directories by inodes" in sifkit.ok("overlay", "diff", "--stat", str(target))


def test_diff_into_a_closed_pipe(sifkit: Program, tmp_path: Path) -> None:
    upper = tmp_path / "changes" / "upper"
    upper.mkdir(parents=True)
    for number in range(3000):
        (upper / f"{number} {'n' * 100}").touch()
    said = images.run("sh", "-c", f"'{sifkit.path}' overlay diff '{tmp_path}/changes' | head -n 1")
    assert (said.returncode, said.stdout.count("\n"), said.stderr) == (0, 1, "")


@only_user
def test_what_may_not_be_read_is_said(sifkit: Program, tmp_path: Path) -> None:
    upper = tmp_path / "changes" / "upper"
    (upper / "closed").mkdir(parents=True)
    (upper / "closed").chmod(0)
    (upper / "later").touch()
    done = sifkit("overlay", "diff", str(tmp_path / "changes"))
    assert (done.returncode, table(done.stdout)) == (1, ["A closed", "A later"])
    assert "cannot list closed: Permission denied" in done.stderr
