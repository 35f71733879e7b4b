"""Each verb: what it writes, and what it refuses."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sifkit import sif
from sifkit.sif.records import ZERO_TIME

Contents = Callable[[str], dict[int, bytes]]
TEXT = sif.NewObject(sif.DataType.GENERIC, b"text")


def _raw(part: int, arch: str = "amd64", data: bytes = b"p" * 5000) -> sif.NewObject:
    return sif.partition(data, sif.FsType.RAW, part, arch)


def test_deterministic_stays_so(tmp_path: Path) -> None:
    path = str(tmp_path / "d.sif")
    sif.create(path, [TEXT], deterministic=True)
    sif.add(path, _raw(1))
    sif.set_primary(path, 2)
    sif.delete(path, 1)
    with sif.open(path) as image:
        assert image.header.deterministic
        assert {t for d in image.objects for t in (d.created, d.modified)} == {ZERO_TIME}


def test_times(image: str) -> None:
    sif.add(image, TEXT._replace(created=5), time=7)
    with sif.open(image) as opened:
        added = opened.one(sif.by_id(4))
        assert (added.created, added.modified, opened.header.modified) == (5, 5, 7)


def test_alignment(image: str) -> None:
    for alignment, wanted in ((None, 1), (0, 1), (1, 1), (512, 512), (65536, 65536)):
        number = sif.add(image, TEXT._replace(alignment=alignment)).ids[0]
        with sif.open(image) as opened:
            d = opened.one(sif.by_id(number))
            assert d.offset % wanted == 0
    number = sif.add(image, _raw(3)).ids[0]
    with sif.open(image) as opened:
        assert opened.one(sif.by_id(number)).offset % 4096 == 0
    with pytest.raises(sif.BadValue):
        sif.add(image, TEXT._replace(alignment=1 << 40))


def test_one_primary_only(image: str) -> None:
    before = Path(image).read_bytes()
    with pytest.raises(sif.PrimaryExists):
        sif.add(image, _raw(2))
    assert Path(image).read_bytes() == before


def test_several_objects_or_none(image: str, contents: Contents) -> None:
    before = Path(image).read_bytes()
    with pytest.raises(sif.PrimaryExists):
        sif.add(image, TEXT, TEXT, _raw(2))
    assert Path(image).read_bytes() == before
    assert sif.add(image, TEXT, TEXT).ids == (4, 5)
    assert contents(image)[5] == b"text"


def test_oci_objects_get_their_digest(image: str) -> None:
    sif.add(image, sif.NewObject(sif.DataType.OCI_BLOB, b"blob"))
    with sif.open(image) as opened:
        found = opened.one(sif.with_digest("sha256:" + hashlib.sha256(b"blob").hexdigest()))
        assert found.id == 4


@pytest.mark.parametrize(("field", "value"), [
    ("name", "x" * 129), ("name", b"a\0b"), ("group", -1), ("group", 1 << 28), ("link", -1), ("link", 1 << 28),
    ("extra", b"x" * 385), ("data_type", 1 << 31), ("created", 1 << 63), ("data_type", 0x4004),
])  # fmt: skip
def test_values_that_do_not_fit(image: str, field: str, value: object) -> None:
    before = Path(image).read_bytes()
    with pytest.raises(sif.BadValue):
        sif.add(image, TEXT._replace(**{field: value}))
    assert Path(image).read_bytes() == before


def test_names_fill_their_field(image: str) -> None:
    sif.add(image, TEXT._replace(name="x" * 128), TEXT._replace(name=b"\xff\xfe"))
    with sif.open(image) as opened:
        assert opened.one(sif.by_id(4)).name_text == "x" * 128
        assert opened.one(sif.by_id(5)).name_text == "\udcff\udcfe"


def test_links(image: str) -> None:
    sif.add(image, TEXT._replace(link=2), TEXT._replace(link_group=1))
    with sif.open(image) as opened:
        assert opened.one(sif.linked_to(2)).id == 4
        assert opened.one(sif.linked_to_group(1)).id == 5
    with pytest.raises(sif.BadValue):
        sif.add(image, TEXT._replace(link=2, link_group=1))


def test_sources(image: str, tmp_path: Path, contents: Contents) -> None:
    file = tmp_path / "object"
    file.write_bytes(b"0123456789" * 1000)
    reader, writer = os.pipe()
    os.write(writer, b"from a pipe")
    os.close(writer)
    with open(file, "rb", buffering=0) as opened:
        opened.seek(9990)
        sources = (b"bytes", file, str(file), reader, opened.fileno())
        sif.add(image, *(TEXT._replace(source=source) for source in sources))
    os.close(reader)
    found = contents(image)
    assert [found[n] for n in range(4, 9)] == [
        b"bytes", file.read_bytes(), file.read_bytes(), b"from a pipe", b"0123456789"
    ]  # fmt: skip


def test_sources_that_are_refused(image: str, tmp_path: Path) -> None:
    before = Path(image).read_bytes()
    for source in (image, str(tmp_path)):
        with pytest.raises((sif.BadObject, OSError)):
            sif.add(image, TEXT._replace(source=source))
    with pytest.raises(FileNotFoundError):
        sif.add(image, TEXT._replace(source=str(tmp_path / "missing")))
    assert Path(image).read_bytes() == before


def test_made_in_place(image: str, contents: Contents) -> None:
    sif.add(image, TEXT._replace(source=b"old" * 9999))
    sif.delete(image, 4)  # its bytes stay where the next object comes: they must not show through

    def write(path: str, offset: int) -> None:
        with open(path, "r+b") as file:
            file.seek(offset + 100)
            file.write(b"made")

    sif.add(image, sif.partition(sif.Fill(1 << 20, write), sif.FsType.RAW, sif.PartType.OVERLAY, "amd64"))
    assert contents(image)[4] == (bytes(100) + b"made").ljust(1 << 20, b"\0")
    before = Path(image).read_bytes()

    def fail(path: str, offset: int) -> None:
        write(path, offset)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        sif.add(image, TEXT._replace(source=sif.Fill(1 << 20, fail)))
    assert Path(image).read_bytes() == before


def test_delete_leaves_zeroes_or_cuts(image: str) -> None:
    with sif.open(image) as opened:
        offset, end, length = opened.objects[1].offset, opened.objects[1].end, opened.length
    done = sif.delete(image, 2)
    assert (done.left, Path(image).stat().st_size) == (end - offset, length)
    assert Path(image).read_bytes()[offset : offset + 4] == b"hsqs"
    with sif.open(image) as opened:
        assert opened.header.arch == b"00\0"
    sif.delete(image, 1, zero=True)
    assert Path(image).read_bytes()[32176 : 32176 + 19] == bytes(19)
    assert sif.delete(image, 3, compact=True).left == 0
    assert Path(image).stat().st_size == 32176


def test_zeroing_spares_what_is_shared(siftool_image: Callable[[str], str]) -> None:
    path = siftool_image("every-type")
    data = bytearray(Path(path).read_bytes())
    data[4096 + 17 : 4096 + 25] = data[4096 + 585 * 3 + 17 : 4096 + 585 * 3 + 25]  # object 1 where object 4 is
    Path(path).write_bytes(data)
    with pytest.raises(sif.Corrupt):
        sif.delete(path, 1, zero=True, force=True)
    assert Path(path).read_bytes() == data


def test_set_primary(image: str) -> None:
    sif.add(image, _raw(1, "arm64"), _raw(3))
    sif.set_primary(image, 4)
    with sif.open(image) as opened:
        assert opened.header.arch == b"04\0"
        assert [d.partition.part for d in opened.objects if d.partition] == [1, 2, 3]
    for number, error in ((1, sif.WrongObject), (5, sif.WrongObject), (9, sif.ObjectNotFound), (0, sif.ObjectNotFound)):
        with pytest.raises(error):
            sif.set_primary(image, number)


def test_change(image: str) -> None:
    sif.change(image, 3, name="new", group=0, link=2, time=9)
    sif.change(image, 2, part=sif.PartType.DATA, fs=sif.FsType.RAW, arch="s390x")
    with sif.open(image) as opened:
        changed, part = opened.one(sif.by_id(3)), opened.one(sif.by_id(2)).partition
        assert (changed.name_text, changed.group_id, changed.link_id, changed.modified) == ("new", 0, 2, 9)
        assert opened.header.arch == b"00\0" and part is not None
        assert (part.fs, part.part, part.arch) == (4, 3, b"11\0")
    sif.change(image, 2, part=sif.PartType.PRIMARY)
    sif.change(image, 3, link=0, link_group=1)
    with sif.open(image) as opened:
        assert opened.header.arch == b"11\0"
        assert opened.one(sif.by_id(3)).link_group == 1
    with pytest.raises(sif.WrongObject):
        sif.change(image, 1, part=1)
    with pytest.raises(sif.BadValue):
        sif.change(image, 1, name="x" * 129)


def test_full_table_grows_and_compact_brings_it_back(tmp_path: Path, contents: Contents) -> None:
    path = str(tmp_path / "full.sif")
    sif.create(path, [TEXT._replace(source=b"%d" % n) for n in range(48)])
    first = 32176
    assert sif.add(path, TEXT).ids == (49,)
    with sif.open(path) as image:
        assert (image.header.total, image.header.free, image.objects[0].offset) == (96, 47, first)
        assert image.header.table_offset > first
    assert sif.check(path) == []
    before = contents(path)
    assert sif.compact(path) > 0
    with sif.open(path) as image:
        assert (image.header.total, image.header.table_offset, image.objects[0].offset) == (96, 4096, 4096 + 96 * 585)
    assert contents(path) == before
    with pytest.raises(sif.BadValue):
        sif.grow(path, 95)


def test_compact_keeps_the_file_what_it_is(image: str, tmp_path: Path) -> None:
    os.chmod(image, 0o640)
    os.setxattr(image, "user.note", b"mine")
    link = tmp_path / "link.sif"
    link.symlink_to(image)
    sif.delete(image, 1)
    assert sif.compact(link) == 0 or Path(image).stat().st_size
    assert link.is_symlink()
    assert stat.S_IMODE(os.stat(image).st_mode) == 0o640
    assert os.getxattr(image, "user.note") == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["image.sif", "link.sif", "rootfs.squashfs"]


def test_compact_refuses_hard_links(image: str, tmp_path: Path) -> None:
    sif.delete(image, 1)
    sif.delete(image, 2)
    os.link(image, tmp_path / "other")
    with pytest.raises(sif.HardLinked):
        sif.compact(image)
    os.unlink(tmp_path / "other")
    assert sif.compact(image) > 0


def test_read_only_image_is_an_oserror(image: str) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write to any file")
    os.chmod(image, 0o444)
    with pytest.raises(PermissionError):
        sif.add(image, TEXT)
