"""`overlay ls`, `cat` and `diff` as a person uses them."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import images
import pytest
from images import Program
from probes import needs, only_root

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
    for name in (b"with\nnewline", b"not-utf8-\xff\xfe", b"-rf", b" leading", b"with\"double"):
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
