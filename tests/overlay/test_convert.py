"""One awkward layer taken through every kind and compared entry by entry; what each kind cannot hold."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from images import Program
from probes import IS_ROOT, PATH, needs, only_root, only_user
from trees import layer_facts, make_layer

from overlay.section import Section
from overlay.tree.image import ExtTree, SquashTree
from overlay.tree.tar import TarTree
from overlay.tree.view import DirectoryTree, Tree
from sifkit.image.zstd import unzstd, unzstd_stream

pytestmark = needs("xattr")

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
GOLDEN_IMAGE = "09-overlay-create-dir-user.img.zst"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no golden images beside this checkout")

ACL = b"system.posix_acl"
SOCKET = b"kinds/socket"


def opened(path: Path) -> Tree:
    """The layer in ``path``, of whatever kind."""
    if path.is_dir():
        return DirectoryTree(str(path / "upper"))
    if path.suffix == ".tar":
        return TarTree(path.open("rb"), unzstd_stream)
    section = Section(str(path), 0, path.stat().st_size)
    return SquashTree(section, unzstd) if path.suffix == ".sqfs" else ExtTree(section, b"/upper")


def facts(path: Path, *drop: bytes) -> dict[bytes, object]:
    with opened(path) as tree:
        return layer_facts(tree, drop=drop)


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield make_layer(tmp_path_factory.mktemp("convert") / "changes")


def test_a_cycle_through_every_kind(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    expected = facts(changes, ACL)
    assert expected[b"marks/again"]["what"] == expected[b"marks/fuse"]["what"] == "opaque"  # type: ignore[index]
    assert expected[b"marks/spelled"] == expected[b"marks/not-\xff\xfe"] == "deleted"
    here, told = changes, ""
    for name in ("1.img", "2.sqfs", "3.img", "4.tar", "5.img", "6", "7.tar", "8.sqfs", "9"):
        to = ["--to", "directory"] if "." not in name else []
        done = sifkit("overlay", "convert", *to, str(here), str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        told += done.stderr
        here = tmp_path / name
        expected = {p: f for p, f in expected.items() if p != SOCKET} if here.suffix == ".tar" else expected
        found = facts(here, ACL)
        assert found.keys() == expected.keys()
        for path, said in expected.items():
            assert found[path] == said, (name, path)
    assert "not kept: attributes system.posix_acl_access, which a squashfs cannot have: kinds/old" in told
    assert "not kept: sockets, which tar cannot hold: kinds/socket" in told
    assert told.count("not kept") == 2


def test_a_tar_keeps_access_lists_and_fractions(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    sifkit.ok("overlay", "convert", str(changes), str(tmp_path / "c.tar"))
    expected = {p: f for p, f in facts(changes).items() if p != SOCKET}
    assert facts(tmp_path / "c.tar") == expected
    with opened(tmp_path / "c.tar") as tree, opened(changes) as real:
        for path in (b"large", b"kinds/old", b"deep"):
            one, other = tree.lookup(path), real.lookup(path)
            assert one is not None
            assert other is not None
            assert one.mtime_ns == other.mtime_ns


@needs("e2fsck")
def test_an_image_is_sound_and_keeps_access_lists(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    from images import run

    sifkit.ok("overlay", "convert", str(changes), str(tmp_path / "c.img"))
    assert run("e2fsck", "-fn", str(tmp_path / "c.img"), env={**os.environ, "PATH": PATH}).returncode == 0
    assert facts(tmp_path / "c.img") == facts(changes)
    assert (tmp_path / "c.img").stat().st_mode & 0o7777 == 0o600
    done = sifkit("overlay", "convert", "--size", "100M", str(changes), str(tmp_path / "d.img"))
    assert (done.returncode, (tmp_path / "d.img").stat().st_size) == (0, 100 << 20)
    (tmp_path / "big/upper").mkdir(parents=True)
    (tmp_path / "big/upper/file").write_bytes(b"x" * (80 << 20))
    done = sifkit("overlay", "convert", "--size", "64M", str(tmp_path / "big"), str(tmp_path / "e.img"))
    assert done.returncode == 255
    assert "64 MiB are too few: no free blocks left" in done.stderr
    hint = done.stderr.split("try: ")[1].split()
    sifkit.ok("overlay", "convert", *hint[:2], str(tmp_path / "big"), str(tmp_path / "e.img"))


@pytest.mark.parametrize("compress", ["zstd", "gzip", "lz4"])
@needs("unsquashfs")
def test_compressions(sifkit: Program, changes: Path, tmp_path: Path, compress: str) -> None:
    from images import run

    new = tmp_path / "new.sqfs"
    sifkit.ok("overlay", "convert", "--compress", compress, str(changes), str(new))
    assert f"Compression {compress}" in run("unsquashfs", "-s", str(new)).stdout
    assert facts(new, ACL) == facts(changes, ACL)
    # Another reader than ours agrees.
    listed = run("unsquashfs", "-lls", str(new), env={**os.environ, "TZ": "UTC"})
    assert listed.returncode == 0
    assert "deep/" + "/".join(["level"] * 40) + "/bottom" in listed.stdout


@needs("tar")
def test_gnu_tar_reads_what_is_exported(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    with (tmp_path / "c.tar").open("wb") as file:
        assert sifkit("overlay", "export", str(changes), stdout=file).returncode == 0
    from images import run

    (tmp_path / "x").mkdir()
    done = run("tar", "-xpf", str(tmp_path / "c.tar"), "-C", str(tmp_path / "x"), "--xattrs",
               "--xattrs-include=user.*", "--exclude=./roots", "--exclude=roots")  # fmt: skip
    assert done.returncode == 0, done.stderr
    there = tmp_path / "x/kinds/holes"
    assert there.read_bytes() == (changes / "upper/kinds/holes").read_bytes()
    assert there.stat().st_blocks * 512 < there.stat().st_size
    assert os.getxattr(tmp_path / "x/large", "user.binary") == bytes(range(256))
    assert (tmp_path / "x/marks/.wh.gone").read_bytes() == b""
    assert (tmp_path / "x/marks/opaque/.wh..wh..opq").is_file()
    with tarfile.open(tmp_path / "c.tar") as archive:
        names = archive.getnames()
    marks = [name for name in names if os.path.dirname(name) == "marks"]
    whiteouts = [name for name in marks if os.path.basename(name).startswith(".wh.")]
    assert marks[: len(whiteouts)] == whiteouts  # before what else is there, as the OCI specification asks


@pytest.mark.parametrize("compressed", ["", "gzip", "xz", "zstd"])
def test_import_from_a_pipe(sifkit: Program, changes: Path, tmp_path: Path, compressed: str) -> None:
    import gzip
    import lzma

    packed = {"": bytes, "gzip": gzip.compress, "xz": lzma.compress, "zstd": zstandard.compress}[compressed]
    done = sifkit("overlay", "export", str(changes), text=False, errors=None)
    assert done.returncode == 0
    data = done.stdout
    assert isinstance(data, bytes)
    done = sifkit("overlay", "import", str(tmp_path / "new.sqfs"), input=packed(data), text=False, errors=None)
    assert done.returncode == 0, done.stderr
    assert facts(tmp_path / "new.sqfs", ACL) == {p: f for p, f in facts(changes, ACL).items() if p != SOCKET}
    assert sorted(os.listdir(tmp_path)) == ["new.sqfs"]


@only_user
def test_what_an_ordinary_user_cannot_keep_in_a_directory(sifkit: Program, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "layer.tar", "w") as archive:
        for name, kind in (("null", tarfile.CHRTYPE), ("file", tarfile.REGTYPE), (".wh.gone", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.devmajor, member.devminor, member.mode = kind, 1, 3, 0o4755
            if name == "file":
                member.pax_headers = {"SCHILY.xattr.trusted.note": "x", "SCHILY.xattr.user.kept": "y"}
            archive.addfile(member)
    done = sifkit("overlay", "convert", "--to", "directory", str(tmp_path / "layer.tar"), str(tmp_path / "new"))
    assert done.returncode == 0
    assert "not kept: char-devices, which only root may make: null" in done.stderr
    assert "not kept: owners, which only root may give away: file" in done.stderr
    assert "not kept: attributes trusted.note, which only root may set: file" in done.stderr
    assert os.getxattr(tmp_path / "new/upper/file", "user.kept") == b"y"
    assert os.lstat(tmp_path / "new/upper/file").st_mode & 0o7777 == 0o4755
    assert os.lstat(tmp_path / "new/upper/gone").st_rdev == 0
    # The other kinds keep it all.
    sifkit.ok("overlay", "convert", str(tmp_path / "layer.tar"), str(tmp_path / "new.sqfs"))
    with opened(tmp_path / "new.sqfs") as tree:
        assert [(e.name, e.kind, e.uid) for e in tree.listdir(tree.top)] == [
            (b"file", "file", 0), (b"gone", "char-device", 0), (b"null", "char-device", 0),
        ]  # fmt: skip


def test_nothing_is_replaced_and_nothing_left(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    for name in ("there.sqfs", "there.tar"):
        (tmp_path / name).write_text("mine")
        done = sifkit("overlay", "convert", str(changes), str(tmp_path / name))
        assert (done.returncode, "nothing is ever replaced" in done.stderr) == (255, True)
        assert (tmp_path / name).read_text() == "mine"
    (tmp_path / "cut.tar").write_bytes(_archive(changes, sifkit)[:100_352])
    for new in ("new.sqfs", "new.tar", "new/"):
        done = sifkit("overlay", "convert", str(tmp_path / "cut.tar"), f"{tmp_path}/{new}")
        assert (done.returncode, "Traceback" in done.stderr) == (255, False), done.stderr
    assert sorted(os.listdir(tmp_path)) == ["cut.tar", "there.sqfs", "there.tar"]


def _archive(changes: Path, sifkit: Program) -> bytes:
    data = sifkit("overlay", "export", str(changes), text=False, errors=None).stdout
    assert isinstance(data, bytes)
    return data


def test_refusals(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    assert sifkit("overlay", "convert", str(changes), str(tmp_path / "what")).returncode == 2
    (tmp_path / "o/upper").mkdir(parents=True)
    (tmp_path / "o/upper/part").touch()
    os.setxattr(tmp_path / "o/upper/part", "user.overlay.metacopy", b"")
    done = sifkit("overlay", "convert", str(tmp_path / "o"), str(tmp_path / "o.sqfs"))
    assert done.returncode == 255
    assert "cannot take part out of its overlay" in done.stderr
    assert not (tmp_path / "o.sqfs").exists()


def test_a_new_name_in_a_directory_that_is_not_there(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    new, source = f"{tmp_path}/no/new.sqfs", str(changes)
    commands = {
        "convert": [source, new], "import": [new], "freeze": [source, "-o", new],
        "commit": ["--base", str(tmp_path), source, "-o", new],
    }  # fmt: skip
    for verb, words in commands.items():
        done = sifkit("overlay", verb, *words)
        assert done.returncode == 255
        assert f"try: {tmp_path} is the last directory of that path that exists" in done.stderr, done.stderr


def test_one_in_use_for_writing_is_refused(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    from overlay.locks import lock

    with lock.acquire(str(changes), exclusive=True):
        done = sifkit("overlay", "convert", str(changes), str(tmp_path / "new.sqfs"))
        assert done.returncode == 255
        assert f"pid {os.getpid()} on " in done.stderr
    assert not (tmp_path / "new.sqfs").exists()
    os.truncate(changes / lock.LOCK_FILE, 0)


@golden
@pytest.mark.parametrize("kind", ["1.sqfs", "1.tar", "1.img", "1"])
def test_what_apptainer_and_fuse_overlayfs_left(sifkit: Program, tmp_path: Path, kind: str) -> None:
    """A directory overlay left by fuse-overlayfs (as a layer in an archive), and an image of Apptainer's."""
    with tarfile.open(GOLDEN / "10-dir-overlay-user.tar") as archive, tarfile.open(tmp_path / "l.tar", "w") as layer:
        for member in archive:
            if not member.name.startswith("od-alice/upper"):
                continue
            data = archive.extractfile(member) if member.isreg() else None
            member.name = member.name.removeprefix("od-alice/upper") or "."
            layer.addfile(member, data)
    expected = facts(tmp_path / "l.tar")
    assert [path for path, said in expected.items() if said == "deleted"][:1] == [b"etc/issue"]
    to = ["--to", "directory"] if kind == "1" else []
    done = sifkit("overlay", "convert", *to, str(tmp_path / "l.tar"), str(tmp_path / kind))
    assert done.returncode == 0
    found = facts(tmp_path / kind)
    assert found.keys() == expected.keys()
    for path, said in expected.items():
        if isinstance(said, dict) and not IS_ROOT and kind == "1":
            assert "owners, which only root may give away" in done.stderr
            said = {**said, "owner": (os.geteuid(), os.getegid())}
        assert found[path] == said, path
    image = tmp_path / "g.img"
    image.write_bytes(zstandard.ZstdDecompressor().stream_reader((GOLDEN / GOLDEN_IMAGE).open("rb")).read())
    expected = facts(image)
    assert len(expected) > 1
    sifkit.ok("overlay", "convert", *to, str(image), str(tmp_path / f"g{kind}"))
    found = facts(tmp_path / f"g{kind}")
    assert found.keys() == expected.keys()


@only_root
@needs("loop")
def test_the_kernel_reads_what_is_written(sifkit: Program, changes: Path, tmp_path: Path) -> None:
    from images import run

    (tmp_path / "m").mkdir()
    sifkit.ok("overlay", "convert", str(changes), str(tmp_path / "new.sqfs"))
    assert run("mount", "-o", "loop,ro", str(tmp_path / "new.sqfs"), str(tmp_path / "m")).returncode == 0
    try:
        with DirectoryTree(str(tmp_path / "m")) as mounted, opened(tmp_path / "new.sqfs") as read:
            expected = layer_facts(read)
            found = layer_facts(mounted)
        assert found.keys() == expected.keys()
        for path, said in expected.items():
            assert {**found[path], "holes": 0} == {**said, "holes": 0} if isinstance(said, dict) else said, path  # type: ignore[dict-item]
    finally:
        run("umount", str(tmp_path / "m"))
    assert IS_ROOT
