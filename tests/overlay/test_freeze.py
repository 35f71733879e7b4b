"""Freezing: the same bytes every time, into a SIF image, and nothing half done whenever it is killed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import Program
from probes import needs, only_user
from trees import layer_facts, make_layer

from overlay.section import Section
from overlay.tree.image import SquashTree
from overlay.tree.view import DirectoryTree
from sifkit import sif
from sifkit.image.zstd import unzstd
from sifkit.sif.infer import host_architecture

pytestmark = needs("xattr")

ACL = b"system.posix_acl"
KILLS = 60


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield make_layer(tmp_path_factory.mktemp("freeze") / "changes")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_bytes_every_time(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    said = sifkit.ok("overlay", "freeze", "--reproducible", str(changes), "-o", str(tmp_path / "1.sqfs"))
    assert "of squashfs" in said
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(changes), str(copy)], check=True)  # other inodes, another order of names
    one = ["taskset", "-c", "0"] if shutil.which("taskset") else []  # and one thread
    command = [*one, sifkit.path, "overlay", "freeze", "--reproducible", str(copy), "-o", str(tmp_path / "2.sqfs")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert digest(tmp_path / "1.sqfs") == digest(tmp_path / "2.sqfs")
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1000000000"}
    sifkit.ok("overlay", "freeze", "--reproducible", str(changes), "-o", str(tmp_path / "3.sqfs"), env=env)
    with SquashTree(Section(str(tmp_path / "3.sqfs"), 0, (tmp_path / "3.sqfs").stat().st_size), unzstd) as tree:
        times = {entry.mtime_ns for _, entry in tree.walk()}
    assert max(times) == 10**18
    assert 10**9 in times  # "old", which was older than that
    env["SOURCE_DATE_EPOCH"] = "yesterday"
    done = sifkit("overlay", "freeze", "--reproducible", str(changes), "-o", str(tmp_path / "4.sqfs"), env=env)
    assert (done.returncode, "no number of seconds" in done.stderr) == (255, True)


def test_the_one_mark_that_every_driver_reads(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    sifkit.ok("overlay", "freeze", str(changes), "-o", str(tmp_path / "f.sqfs"))
    with SquashTree(Section(str(tmp_path / "f.sqfs"), 0, (tmp_path / "f.sqfs").stat().st_size), unzstd) as tree:
        for path, entry in tree.walk():
            names = tree.xattrs(entry)
            marks = {b"user.overlay.opaque"}  # decision 37
            opaque = path in (b"marks/opaque", b"marks/fuse", b"marks/named", b"marks/again")
            assert names.keys() & marks == (marks if opaque else set()), path
            assert not any(b"overlay." in name for name in names.keys() - marks), path
            assert not entry.name.startswith(b".wh."), path
        for name in (b"gone", b"gone-directory", b"spelled", b"with\nnewline", b"not-\xff\xfe"):
            found = tree.lookup(b"marks/" + name)
            assert found is not None
            assert (found.kind, found.device) == ("char-device", 0)


@only_user
def test_what_its_owner_closed_to_himself(sifkit: Program, tmp_path: Path) -> None:
    upper = tmp_path / "o/upper"
    (upper / "closed/below").mkdir(parents=True)
    for name in ("shadow", "closed/below/file"):
        (upper / name).write_text(name)
        os.setxattr(upper / name, "user.note", b"kept")
        (upper / name).chmod(0)
    (upper / "closed/below").chmod(0o200)
    (upper / "closed").chmod(0)
    for new in ("1.sqfs", "2.img", "3.tar"):
        sifkit.ok("overlay", "convert", str(tmp_path / "o"), str(tmp_path / new))
    said = sifkit.ok("overlay", "ls", "-lR", str(tmp_path / "1.sqfs"))
    assert [line.split()[0] for line in said.splitlines()] == ["d---------", "d-w-------", "----------", "----------"]
    assert sifkit.ok("overlay", "cat", str(tmp_path / "1.sqfs"), "closed/below/file") == "closed/below/file"
    assert [stat.S_IMODE((upper / name).stat().st_mode) for name in ("shadow", "closed")] == [0, 0]
    sifkit.ok("overlay", "convert", str(tmp_path / "2.img"), f"{tmp_path}/back/")
    for top in (upper, tmp_path / "back/upper"):
        assert stat.S_IMODE((top / "closed").stat().st_mode) == 0
        (top / "closed").chmod(0o700)
        assert stat.S_IMODE((top / "closed/below").stat().st_mode) == 0o200
        (top / "closed/below").chmod(0o700)


@needs("userns", "overlayfs")
def test_with_a_base_nothing_depends_on_marks(sifkit: Program, tmp_path: Path) -> None:
    """As Apptainer mounts it for ordinary users: kernel overlayfs without userxattr."""
    base, upper = tmp_path / "base", tmp_path / "o/upper"
    for name in ("d/kept/old", "d/gone", "d/sub/deep/old", "other/old"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("base")
    (upper / "d/sub/deep").mkdir(parents=True)
    (upper / "d/sub/deep/new").write_text("new")
    (upper / "d/kept").write_text("a file now")
    (upper / "only/here").mkdir(parents=True)
    for name in ("d", "only"):
        os.setxattr(upper / name, "user.overlay.opaque", b"y")
    (tmp_path / "o/sifkit.json").write_text(json.dumps({"base": str(base)}))
    expected = ["d", "d/kept", "d/sub", "d/sub/deep", "d/sub/deep/new", "only", "only/here", "other", "other/old"]
    for option in ([], ["--base", str(base)], ["--base", "none"]):
        shutil.rmtree(tmp_path / "back", ignore_errors=True)
        (tmp_path / "f.sqfs").unlink(missing_ok=True)
        done = sifkit("overlay", "freeze", *option, str(tmp_path / "o"), "-o", str(tmp_path / "f.sqfs"))
        assert (done.returncode, done.stderr) == (0, "")
        sifkit.ok("overlay", "convert", str(tmp_path / "f.sqfs"), f"{tmp_path}/back/")
        (tmp_path / "m").mkdir(exist_ok=True)
        script = "mount -t overlay -o lowerdir=back/upper:base overlay m && cd m && find . -mindepth 1 | sort"
        for how in ("", "userxattr,"):
            said = subprocess.run(
                ["unshare", "--map-root-user", "--mount", "sh", "-c", script.replace("lowerdir", how + "lowerdir")],
                cwd=tmp_path, capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            found = [line.removeprefix("./") for line in said.splitlines()]
            # What the option "none" leaves to the mark is seen where marks are.
            assert found == expected if option != ["--base", "none"] or how else found != expected, (option, how)
    (tmp_path / "o/sifkit.json").unlink()
    done = sifkit("overlay", "freeze", str(tmp_path / "o"), "-o", str(tmp_path / "g.sqfs"))
    assert "2 directories hide those of the image by a mark" in done.stderr


def test_into_a_sif_image(sifkit: Program, changes: Path, rootfs_squash: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.sif"
    sif.create(image, [sif.partition(str(rootfs_squash), sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64", group=3)])
    sifkit.ok("overlay", "freeze", str(changes), "-o", str(image))
    with sif.open(image) as opened:
        made = opened.objects[1]
        assert (made.partition, made.group_id) == (sif.PartitionExtra(1, 4, sif.architecture("amd64")), 3)
    with DirectoryTree(str(changes / "upper")) as real:
        expected = layer_facts(real, drop=(ACL,))
    section = Section(str(image), made.offset, made.size)
    with SquashTree(section, unzstd) as tree:
        assert layer_facts(tree, drop=(ACL,)) == expected
    # From the image into the image; and it can be the source of everything else.
    sifkit.ok("overlay", "freeze", f"{image}#2", "-o", str(image))
    sifkit.ok("overlay", "convert", f"{image}#3", str(tmp_path / "back.sqfs"))
    with SquashTree(Section(str(tmp_path / "back.sqfs"), 0, (tmp_path / "back.sqfs").stat().st_size), unzstd) as tree:
        assert layer_facts(tree, drop=(ACL,)) == expected
    sif.add(image, sif.signature(b"signed", sif.HashType.SHA256, link_group=3))
    done = sifkit("overlay", "freeze", str(changes), "-o", str(image))
    assert (done.returncode, "it is signed" in done.stderr) == (255, True)
    done = sifkit("overlay", "freeze", str(changes), "-o", str(tmp_path / "none.sif"))
    assert (done.returncode, "there is no such SIF image" in done.stderr) == (255, True)


def test_into_an_image_without_a_root(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.sif"
    sif.create(image, [])
    sifkit.ok("overlay", "freeze", str(changes), "-o", str(image))
    with sif.open(image) as opened:
        (made,) = opened.objects
        assert made.partition == sif.PartitionExtra(1, 4, sif.architecture(host_architecture()))
    assert sif.check(image) == []


@pytest.mark.limit(400)
@pytest.mark.parametrize("embedded", [False, True], ids=["file", "sif"])
def test_killed_at_any_moment(sifkit: Program, tmp_path: Path, embedded: bool) -> None:
    """The overlay is as it was; what is made is there whole, or not at all."""
    upper = tmp_path / "changes/upper"
    upper.mkdir(parents=True)
    for number in range(300):
        (upper / f"file {number}").write_bytes(os.urandom(500) * (number % 40))
    out = tmp_path / "out"
    out.mkdir()
    new, before, objects = out / "new", b"", 0
    if embedded:
        sif.create(new, [sif.NewObject(sif.DataType.GENERIC, b"untouched")])
        before, objects = new.read_bytes(), 1
    reference = tmp_path / "reference.sqfs"
    how = ["--reproducible", "--compress", "gzip"]
    command = [sifkit.path, "overlay", "freeze", *how, str(tmp_path / "changes"), "-o"]
    started = time.monotonic()
    subprocess.run([*command, str(reference)], check=True, stdout=subprocess.DEVNULL)
    whole = time.monotonic() - started
    killed = 0
    for number in range(10 * KILLS):
        process = subprocess.Popen([*command, str(new)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * 1.1 * (number % KILLS) / KILLS)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        assert os.listdir(out) == (["new"] if new.exists() else [])
        if embedded:
            assert sif.check(new) == []
            with sif.open(new) as opened:
                assert len(opened.objects) in (objects, 2)
                assert opened.view(opened.objects[0]).read() == b"untouched"
                if len(opened.objects) == 2:
                    assert opened.view(opened.objects[1]).read() == reference.read_bytes()
            new.write_bytes(before)
        elif new.exists():
            assert new.read_bytes() == reference.read_bytes()
            new.unlink()
        if killed >= KILLS // (2 if embedded else 1):
            break
    assert killed >= KILLS // (2 if embedded else 1)
    subprocess.run([*command, str(tmp_path / "after.sqfs")], check=True, stdout=subprocess.DEVNULL)
    assert digest(tmp_path / "after.sqfs") == digest(reference)
