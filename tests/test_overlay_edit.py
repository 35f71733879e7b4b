"""`sifkit overlay cp` and `rm`: what goes in comes out, whatever holds it, and what is forgotten shows again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import images
import pytest
from images import Program
from probes import needs, only_user
from trees import facts

from overlay import e2fsprogs
from overlay.locks import lock
from overlay.tree.view import DirectoryTree
from sifkit import sif
from sifkit.image.target import resolve

KINDS = ("directory", "ext3", "sif")


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, sifkit: Program, tmp_path: Path) -> str:
    """An empty overlay of each kind that can be written."""
    if request.param == "directory":
        sifkit.ok("overlay", "create", f"{tmp_path}/changes/")
        return f"{tmp_path}/changes"
    path = f"{tmp_path}/changes.{request.param}"
    if request.param == "sif":
        sif.create(path, [sif.partition(b"root", sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64")])
    sifkit.ok("overlay", "create", "--sparse", path)
    return path


def raw(sifkit: Program, target: str, path: str = "/") -> set[str]:
    """The names in a directory of the overlay, marks for deleted ones as (deleted)."""
    said = sifkit.ok("overlay", "ls", "-l", target, path)
    return {" ".join(line.split()[i] for i in (0, -1)) if "(deleted)" in line else line.split()[-1]
            for line in said.splitlines()}  # fmt: skip


def expected(tree: Path) -> dict[bytes, object]:
    with DirectoryTree(str(tree)) as found:
        return facts(found)


# -- out -------------------------------------------------------------------------------------------------


def test_out_of_every_kind(sifkit: Program, same_tree: Path, awkward: Path, tmp_path: Path) -> None:
    overlay = str(same_tree)
    if same_tree.is_dir():
        (tmp_path / "o").mkdir()
        (tmp_path / "o/upper").symlink_to(same_tree)
        overlay = str(tmp_path / "o")
    sifkit.ok("overlay", "cp", f"{overlay}:/", str(tmp_path / "all"))
    found = expected(tmp_path / "all")
    found = {path: said for path, said in found.items() if not path.startswith(b"lost+found")}
    assert found == expected(awkward)
    assert (tmp_path / "all/kinds/holes").stat().st_blocks * 512 < 2**20
    (tmp_path / "into").mkdir()
    for name in (b"with\nnewline", b"not-utf8-\xff\xfe", b'with"double', b"--help", b"~"):
        sifkit.ok("overlay", "cp", f"{overlay}:/names/{os.fsdecode(name)}", str(tmp_path / "into"))
        assert (tmp_path / "into" / os.fsdecode(name)).read_bytes() == b"content of " + name
    assert sorted(os.listdir(tmp_path)) == sorted({"all", "into", *(["o"] if same_tree.is_dir() else [])})


def test_out_of_a_sif_image(sifkit: Program, awkward: Path, awkward_squash: Path, tmp_path: Path) -> None:
    path = tmp_path / "i.sif"
    sif.create(path, [sif.partition(awkward_squash, sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64")])
    sifkit.ok("overlay", "cp", f"{path}#1:/kinds", str(tmp_path / "out"))
    assert expected(tmp_path / "out") == expected(awkward / "kinds")


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A directory overlay with marks of several spellings."""
    upper = tmp_path / "marked/upper"
    (upper / "full").mkdir(parents=True)
    (upper / "full/new").write_text("new\n")
    os.setxattr(upper / "full", "user.overlay.opaque", b"y")
    os.setxattr(upper / "full", "user.note", b"mine")
    os.mknod(upper / "full/gone", stat.S_IFCHR)
    (upper / "full/.wh.too").touch()
    return tmp_path / "marked"


@needs("xattr")
def test_marks_do_not_come_out(sifkit: Program, marked: Path, tmp_path: Path) -> None:
    done = sifkit("overlay", "cp", f"{marked}:/full", str(tmp_path / "out"))
    assert (done.returncode, "3 deleted names and replaced directories are not copied" in done.stderr) == (0, True)
    assert os.listdir(tmp_path / "out") == ["new"]
    assert os.listxattr(tmp_path / "out") == ["user.note"]
    for name in ("gone", "too"):
        done = sifkit("overlay", "cp", f"{marked}:/full/{name}", str(tmp_path / "out"))
        assert (done.returncode, "this overlay deletes it" in done.stderr) == (1, True)


def test_existing_files_are_replaced_and_directories_merged(sifkit: Program, marked: Path, tmp_path: Path) -> None:
    (tmp_path / "out/full").mkdir(parents=True, mode=0o751)
    (tmp_path / "out/full/new").write_text("old\n")
    (tmp_path / "out/full/other").write_text("other\n")
    sifkit.ok("overlay", "cp", f"{marked}:/full", str(tmp_path / "out"))
    assert (tmp_path / "out/full/new").read_text() == "new\n"
    assert sorted(os.listdir(tmp_path / "out/full")) == ["new", "other"]
    assert stat.S_IMODE((tmp_path / "out/full").stat().st_mode) == 0o751
    (tmp_path / "out/full/new").unlink()
    (tmp_path / "out/full/new").mkdir()
    done = sifkit("overlay", "cp", f"{marked}:/full/new", str(tmp_path / "out/full/new/"))
    assert done.returncode == 0
    done = sifkit("overlay", "cp", f"{marked}:/full", str(tmp_path / "out"))
    assert (done.returncode, "Is a directory" in done.stderr) == (255, True)
    assert sorted(os.listdir(tmp_path / "out")) == ["full"]


def test_a_link_in_the_way_leads_nowhere(sifkit: Program, marked: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/full").symlink_to(tmp_path / "elsewhere")
    done = sifkit("overlay", "cp", f"{marked}:/full", str(tmp_path / "out"))
    assert done.returncode == 255
    assert os.listdir(tmp_path / "elsewhere") == []


@only_user
def test_what_only_root_can_make_is_said(sifkit: Program, tmp_path: Path) -> None:
    images.make_overlay_image(tmp_path / "e.img")
    node = [[b"cd", b"/upper"], [b"mknod", b"tty", b"c", b"5", b"0"]]
    e2fsprogs.debugfs(resolve(str(tmp_path / "e.img")).section, node, write=True)
    done = sifkit("overlay", "cp", f"{tmp_path}/e.img:/", str(tmp_path / "out"))
    assert (done.returncode, "not kept: char-devices, which only root may make: " in done.stderr) == (1, True)
    assert os.listdir(tmp_path / "out") == []


# -- in --------------------------------------------------------------------------------------------------


@needs("xattr")
def test_in_and_out_again(sifkit: Program, target: str, awkward: Path, tmp_path: Path) -> None:
    done = sifkit("overlay", "cp", str(awkward), f"{target}:/opt/")
    assert done.returncode == 0, done.stderr
    sifkit.ok("overlay", "cp", f"{target}:/opt/awkward", str(tmp_path / "out"))
    assert expected(tmp_path / "out") == expected(awkward)
    assert (tmp_path / "out/kinds/holes").stat().st_blocks * 512 < 2**20
    (tmp_path / "file").write_text("mine\n")
    sifkit.ok("overlay", "cp", str(tmp_path / "file"), f"{target}:/opt/awkward/names/--help")
    assert sifkit.ok("overlay", "cat", target, "opt/awkward/names/--help") == "mine\n"
    sifkit.ok("overlay", "check", target)


def test_from_one_overlay_into_another(sifkit: Program, target: str, awkward_ext3: Path) -> None:
    sifkit.ok("overlay", "cp", f"{awkward_ext3}:/kinds", f"{target}:/")
    assert "kinds" in raw(sifkit, target)


def test_what_is_deleted_and_made_again_hides_the_base(sifkit: Program, target: str, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/file").write_text("x")
    (tmp_path / "base/d/e").mkdir(parents=True)
    (tmp_path / "base/d/e/old").write_text("x")
    (tmp_path / "base/d/file").write_text("x")
    if os.path.isdir(target):
        os.mknod(f"{target}/upper/d", stat.S_IFCHR)
    else:
        node = [[b"cd", b"/upper"], [b"mknod", b"d", b"c", b"0", b"0"]]
        e2fsprogs.debugfs(resolve(target).section, node, write=True)
    sifkit.ok("overlay", "cp", str(tmp_path / "new/file"), f"{target}:/d/e/again", "--base", str(tmp_path / "base"))
    said = sifkit.ok("overlay", "diff", "--base", str(tmp_path / "base"), target).splitlines()
    assert [line for line in said if line[0] != "m"] == [
        "A file                     1 /d/e/again",
        "D file                     1 /d/e/old",
        "D file                     1 /d/file",
    ]


def test_directories_on_the_way_look_as_in_the_base(sifkit: Program, target: str, tmp_path: Path) -> None:
    (tmp_path / "base/tmp").mkdir(parents=True)
    (tmp_path / "base/tmp").chmod(0o1777)
    (tmp_path / "base/lib").symlink_to("usr/lib")
    (tmp_path / "file").write_text("x")
    done = sifkit("overlay", "cp", str(tmp_path / "file"), f"{target}:/etc/file")
    assert (done.returncode, "/etc was not in the overlay and was made with mode 0755" in done.stderr) == (0, True)
    base = ("--base", str(tmp_path / "base"))
    done = sifkit("overlay", "cp", *base, str(tmp_path / "file"), f"{target}:/tmp/new/file")
    assert (done.returncode, done.stderr) == (0, "")
    assert "drwxrwxrwt " in sifkit.ok("overlay", "ls", "-l", target, "/")
    done = sifkit("overlay", "cp", *base, str(tmp_path / "file"), f"{target}:/lib/file")
    assert (done.returncode, "/lib is a symbolic link to usr/lib in the image" in done.stderr) == (255, True)
    assert raw(sifkit, target) == {"etc", "tmp"}


@pytest.mark.parametrize("name", [".wh.x", "sub/.wh.x", "sub/.wh..wh..opq"])
def test_what_would_delete_is_refused(sifkit: Program, target: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "src/sub").mkdir(parents=True)
    (tmp_path / "src" / name).touch()
    (tmp_path / "src/a").touch()
    source = tmp_path / "src" if "/" in name else tmp_path / "src" / name
    done = sifkit("overlay", "cp", str(source), f"{target}:/")
    assert (done.returncode, "means in an overlay that something is deleted" in done.stderr) == (255, True)
    assert raw(sifkit, target) == set()


def test_refusals(sifkit: Program, awkward_squash: Path, target: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    for words, status, said in (
        ((tmp_path / "f", tmp_path / "g"), 2, "neither SRC nor DST is in an overlay"),
        ((tmp_path / "f", f"{awkward_squash}:/"), 255, "squashfs, which is read-only by nature"),
        ((tmp_path / "none", f"{target}:/"), 255, "No such file"),
        ((f"{tmp_path}/no.img:/x", tmp_path), 255, f"there is no {tmp_path}/no.img"),
        ((f"{target}:/none", tmp_path), 1, "says nothing about it"),
        ((tmp_path, f"{target}:/"), 255, "inside the directory that is to be copied"),
        ((f"{awkward_squash}:/names/~", f"{tmp_path}/none/"), 255, "there is no directory"),
    ):  # fmt: skip
        done = sifkit("overlay", "cp", *map(str, words))
        assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    done = sifkit("overlay", "rm", str(awkward_squash), "names")
    assert (done.returncode, "read-only by nature" in done.stderr) == (255, True)


def test_in_use(sifkit: Program, target: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    found = resolve(target)
    with lock.acquire(target if found.is_directory else found.section, exclusive=False):
        for words in (("cp", str(tmp_path / "f"), f"{target}:/"), ("rm", target, "f")):
            done = sifkit("overlay", *words)
            assert (done.returncode, f"by pid {os.getpid()} on" in done.stderr) == (255, True), done.stderr


# -- rm --------------------------------------------------------------------------------------------------


@needs("xattr")
def test_rm_forgets(sifkit: Program, marked: Path) -> None:
    target = str(marked)
    assert raw(sifkit, target, "full") == {"new", "(deleted) gone", "(deleted) too"}
    done = sifkit("overlay", "rm", target, "full/gone", "/full/too")
    assert (done.returncode, "does not show again, for /full in this overlay hides" in done.stderr) == (0, True)
    assert raw(sifkit, target, "full") == {"new"}
    done = sifkit("overlay", "rm", target, "full")
    assert (done.returncode, "-r forgets it" in done.stderr) == (1, True)
    for path, said in (("none", "says nothing about /none"), ("full/new/x", "/full/new is no directory")):
        done = sifkit("overlay", "rm", target, path)
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert sifkit("overlay", "rm", "-r", target, "/").returncode == 2
    sifkit.ok("overlay", "rm", "-r", target, "full")
    assert raw(sifkit, target) == set()
    assert os.listdir(marked / "work") == []


def test_rm_of_awkward_names(sifkit: Program, target: str, awkward: Path) -> None:
    sifkit.ok("overlay", "cp", str(awkward / "names"), f"{target}:/")
    sifkit.ok("overlay", "rm", target, *(f"names/{os.fsdecode(name)}" for name in images.AWKWARD_NAMES))
    assert raw(sifkit, target, "names") == set()
    sifkit.ok("overlay", "check", target)


def test_rm_of_a_directory_made_again(sifkit: Program, tmp_path: Path) -> None:
    """fuse-overlayfs says that by a file beside it, which must go with it."""
    (tmp_path / "o/upper/d").mkdir(parents=True)
    (tmp_path / "o/upper/.wh.d").touch()
    sifkit.ok("overlay", "rm", "-r", str(tmp_path / "o"), "d")
    assert os.listdir(tmp_path / "o/upper") == []


@needs("userns", "overlayfs")
@pytest.mark.parametrize("target", ["directory", "sif"], indirect=True)
def test_the_base_shows_again(sifkit: Program, target: str, rootfs: Path, tmp_path: Path) -> None:
    def run(script: str) -> str:
        return sifkit.ok("exec", "--overlay", target, str(rootfs), "sh", "-c", script)

    before = run("cat /etc/os-release /etc/profile; ls -lR /usr/share")
    run("rm -r /usr /etc/os-release; mkdir /usr; echo changed > /etc/profile; ln -s x /etc/os-release")
    for path in ("etc/os-release", "etc/profile"):
        sifkit.ok("overlay", "rm", target, path)
    sifkit.ok("overlay", "rm", "-r", target, "usr")
    assert run("cat /etc/os-release /etc/profile; ls -lR /usr/share") == before
    (tmp_path / "script").write_text("#!/bin/sh\necho from outside\n")
    (tmp_path / "script").chmod(0o755)
    done = sifkit("overlay", "cp", str(tmp_path / "script"), f"{target}:/usr/bin/hello")
    assert (done.returncode, done.stderr) == (0, "")  # the base is recorded
    assert run("/usr/bin/hello") == "from outside\n"
