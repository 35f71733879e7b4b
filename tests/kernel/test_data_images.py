"""Images shown as directories: squashfs, ext3, objects of SIF images. 7.5: a checklist of Apptainer's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from images import MIB, Program, make_ext3, make_squash
from probes import needs
from running import Start

pytestmark = [pytest.mark.kernel, needs("userns", "fuse", "squashfuse")]


@pytest.fixture(scope="module")
def content(built: Path) -> Path:
    """What is in the images."""
    tree = built / "data-content"
    (tree / "sub").mkdir(parents=True)
    (tree / "file").write_text("in the image\n")
    (tree / "sub/below").write_text("below\n")
    (tree / "out").symlink_to("/etc")
    return tree


@pytest.fixture(scope="module")
def squash(content: Path, built: Path) -> Path:
    return make_squash(content, built / "data.sqfs")


@pytest.fixture
def ext3(content: Path, tmp_path: Path) -> Path:
    return make_ext3(tmp_path / "data.img", content, 16 * MIB)


@pytest.fixture(scope="module")
def sif(squash: Path, rootfs_squash: Path, content: Path, built: Path, sifkit: Program) -> Path:
    """Root, a data partition of squashfs, and one of ext3."""
    path = built / "data.sif"
    ext = make_ext3(built / "data-of-sif.img", content, 16 * MIB)
    sifkit.ok("sif", "new", str(path))
    for file, kind, fs in ((rootfs_squash, "2", "1"), (squash, "3", "1"), (ext, "3", "2")):
        words = ["--datatype", "4", "--parttype", kind, "--partfs", fs, "--partarch", "2", "--groupid", "1"]
        sifkit.ok("sif", "add", *words, str(path), str(file))
    return path


def test_a_squashfs(sifkit: Program, rootfs: Path, squash: Path) -> None:
    """7.5 squashfs, twice, --mount equivalent; a plain bind shows the file."""
    words = ["-B", f"{squash}:/a:image-src=/", "--mount", f"type=bind,src={squash},dst=/b/c,image-src=/sub"]
    assert sifkit.ok("exec", *words, str(rootfs), "cat", "/a/file", "/b/c/below") == "in the image\nbelow\n"
    assert not sifkit.ok("exec", "-B", f"{squash}:/a", str(rootfs), "sh", "-c", "! test -d /a && test -s /a")


def test_one_file_of_an_image(sifkit: Program, rootfs: Path, squash: Path) -> None:
    assert sifkit.ok("exec", "-B", f"{squash}:/f:image-src=/file", str(rootfs), "cat", "/f") == "in the image\n"


def test_links_of_an_image_stay_in_it(sifkit: Program, rootfs: Path, squash: Path) -> None:
    done = sifkit("exec", "-B", f"{squash}:/x:image-src=/out", str(rootfs), "true")
    assert done.returncode == 255 and "Traceback" not in done.stderr


@needs("fuse2fs")
def test_an_ext3_image_takes_writes(sifkit: Program, rootfs: Path, ext3: Path) -> None:
    """7.5 ext3 write 0, ro write 1. Whose its directories are decides where."""
    sifkit.ok("exec", "-B", f"{ext3}:/d:image-src=/", str(rootfs), "sh", "-c", "cat /d/file && echo new > /d/sub/new")
    script = "cat /d/sub/new && ! touch /d/sub/other"
    assert sifkit.ok("exec", "-B", f"{ext3}:/d:image-src=/,ro", str(rootfs), "sh", "-c", script) == "new\n"


@needs("fuse2fs")
def test_an_ext3_image_has_one_writer(sifkit: Program, rootfs: Path, ext3: Path, start: Start) -> None:
    """7.5 ext3 twice 255."""
    image = f"{ext3}:/d:image-src=/"
    done = sifkit("exec", "-B", image, "-B", f"{ext3}:/e:image-src=/", str(rootfs), "true")
    assert done.returncode == 255 and str(ext3) in done.stderr
    first = start("exec", "-B", image, str(rootfs), "sh", "-c", "echo ready; read x", stdin=-1)
    first.expect("ready")
    assert sifkit("exec", "-B", image, str(rootfs), "true").returncode == 255
    first.process.stdin.close()
    assert first.end() == 1
    assert sifkit("exec", "-B", image, str(rootfs), "true").returncode == 0


@needs("fuse2fs")
def test_objects_of_a_sif(sifkit: Program, sif: Path) -> None:
    """7.5 SIF data squash, ext3, both; the object with the ID of the root."""
    words = ["-B", f"{sif}:/first:image-src=/", "-B", f"{sif}:/ext:id=3,ro", "-B", f"{sif}:/root-of-it:id=1"]
    script = "cat /first/file /ext/sub/below && test -x /root-of-it/bin/busybox"
    assert sifkit.ok("exec", *words, str(sif), "sh", "-c", script) == "in the image\nbelow\n"


@needs("fuse2fs")
def test_an_ext3_object_has_one_writer(sifkit: Program, rootfs: Path, sif: Path) -> None:
    """7.5 SIF ext3 twice 255."""
    twice = ["-B", f"{sif}:/a:id=3", "-B", f"{sif}:/b:id=3"]
    done = sifkit("exec", *twice, str(rootfs), "true")
    assert done.returncode == 255 and str(sif) in done.stderr and "Traceback" not in done.stderr


def test_before_and_after_scratch(sifkit: Program, rootfs: Path, squash: Path) -> None:
    """7.5 order squashfs before and after scratch."""
    words = ["-S", "/s", "-B", f"{squash}:/s/in:image-src=/", "-B", f"{squash}:/i:image-src=/", "-S", "/i/sub"]
    script = "cat /s/in/file && touch /s/x && ls /i/sub"
    assert sifkit.ok("exec", *words, str(rootfs), "sh", "-c", script).splitlines()[0] == "in the image"


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("DIRECTORY", "image-src=/", "directory"),
        ("SQUASH", "id=0", "id=0"),
        ("SQUASH", "id=2", "SIF"),
        ("SIF", "id=9", "9"),
        ("SQUASH", "image-src=sub", "absolute"),
        ("SQUASH", "image-src=/none", "/none"),
        ("TEXT", "image-src=/", "image"),
    ],
)
def test_mistakes(
    sifkit: Program, rootfs: Path, squash: Path, sif: Path, content: Path, source: str, options: str, says: str
) -> None:
    """7.5 id=0 255, unknown option 255, image-src on a directory 255."""
    path = {"DIRECTORY": content, "SQUASH": squash, "SIF": sif, "TEXT": content / "file"}[source]
    done = sifkit("exec", "-B", f"{path}:/x:{options}", str(rootfs), "true")
    assert done.returncode in (2, 255) and says in done.stderr and "Traceback" not in done.stderr


def test_a_plan_says_so(sifkit: Program, rootfs: Path, squash: Path) -> None:
    said = sifkit.ok("exec", "--dry-run", "-B", f"{squash}:/x:image-src=/sub", str(rootfs), "true")
    assert f"/sub of squashfs {squash} -> /x" in said
