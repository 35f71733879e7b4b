"""What our FUSE server answers, asked as the kernel asks, on every variant of ext2/3/4."""

from __future__ import annotations

import errno
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from ext_variants import VARIANTS, attributes, make, tree

from overlay.extread.reader import ExtReader, Inode
from overlay.section import Section
from overlay.stack import fuse_wire
from overlay.stack.ext_server import Answers

OPEN, WRITE = 14, 16
ENTRY = struct.Struct("=QQQQII6Q10I")
DIRENT = struct.Struct("=QQII")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tree(tmp_path_factory.mktemp("source") / "tree")
    attributes(top)
    return top


@pytest.fixture(scope="module", params=VARIANTS)
def section(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Section:
    return make(tmp_path_factory.mktemp("image") / "i", source, VARIANTS[request.param])


@pytest.fixture
def reader(section: Section) -> Iterator[ExtReader]:
    with ExtReader(section) as opened:
        yield opened


@pytest.fixture
def answers(reader: ExtReader) -> Answers:
    return Answers(reader, bare=False)


def ask(answers: Answers, opcode: int, node: int, body: bytes = b"") -> bytes:
    number, data = answers.give(opcode, node, memoryview(body))
    assert number == 0, os.strerror(number)
    return data


def lookup(answers: Answers, node: int, name: bytes) -> tuple[int, ...]:
    found: tuple[int, ...] = ENTRY.unpack(ask(answers, fuse_wire.LOOKUP, node, name + b"\0"))
    return found


def node_of(answers: Answers, *names: bytes) -> int:
    node = fuse_wire.ROOT
    for name in names:
        node = lookup(answers, node, name)[0]
    return node


def listing(answers: Answers, node: int, room: int) -> dict[bytes, tuple[tuple[int, ...], int]]:
    """Name -> what LOOKUP would say, and d_type; read in pieces of ``room`` bytes."""
    found: dict[bytes, tuple[tuple[int, ...], int]] = {}
    offset = 0
    while data := ask(answers, fuse_wire.READDIRPLUS, node, struct.pack("=QQI", 0, offset, room)):
        assert len(data) <= room
        at = 0
        while at < len(data):
            entry = ENTRY.unpack_from(data, at)
            _, offset, length, kind = DIRENT.unpack_from(data, at + ENTRY.size)
            at += ENTRY.size + DIRENT.size
            assert data[at : at + length] not in found
            found[data[at : at + length]] = (entry, kind)
            at += length + -length % 8
    return found


def facts(entry: tuple[int, ...]) -> tuple[int, ...]:
    """Inode, size, sectors, mode, links, uid, gid, the time of change of the contents."""
    _, _, _, _, _, _, number, size, sectors, _, mtime, _, _, mtime_ns, _, mode, links, uid, gid, *_ = entry
    return number, size, sectors, mode, links, uid, gid, mtime * 10**9 + mtime_ns


def expected(inode: Inode) -> tuple[int, ...]:
    return inode.number, inode.size, inode.sectors, inode.mode, inode.links, inode.uid, inode.gid, inode.mtime_ns


@pytest.mark.parametrize("room", [512, 4096, 1 << 20])
def test_a_listing_says_what_a_look_up_would(reader: ExtReader, answers: Answers, room: int) -> None:
    waiting = [(fuse_wire.ROOT, b"")]
    seen = {b"": reader.inode(2)}
    while waiting:
        node, path = waiting.pop()
        found = listing(answers, node, room)
        assert list(found)[:2] == [b".", b".."]
        for name, (entry, kind) in list(found.items())[2:]:
            inode = reader.inode(entry[0])
            assert facts(entry) == expected(inode)
            assert entry == lookup(answers, node, name)
            assert kind == inode.mode >> 12
            seen[path + b"/" + name if path else name] = inode
            if inode.is_directory:
                waiting.append((entry[0], path + b"/" + name if path else name))
    assert seen == dict(reader.walk())


def test_contents_and_links(reader: ExtReader, answers: Answers, source: Path) -> None:
    chance = random.Random(4)
    for name in (b"plain", b"sparse", b"empty", b"small"):
        node = node_of(answers, name)
        real = (source / os.fsdecode(name)).read_bytes()
        for _ in range(40):
            at, length = chance.randrange(len(real) + 5000), chance.choice((1, 4096, 131072))
            body = struct.pack("=QQI", 0, at, length)
            assert ask(answers, fuse_wire.READ, node, body) == real[at : at + length]
    for name in (b"short", b"l59", b"l60", b"long"):
        assert ask(answers, fuse_wire.READLINK, node_of(answers, name)) == os.readlink(
            os.fsencode(source) + b"/" + name
        )


def test_more_files_and_directories_than_are_kept(reader: ExtReader, answers: Answers) -> None:
    many = node_of(answers, b"many")
    for number in [*range(0, 700, 50), 0, 50]:
        node = lookup(answers, many, b"a rather long file name, number %d" % number)[0]
        assert ask(answers, fuse_wire.READ, node, struct.pack("=QQI", 0, 0, 100)) == b"%d" % number


def test_what_is_not_there_is_said_so_that_it_can_be_kept(answers: Answers) -> None:
    node, _, seconds, *_ = lookup(answers, fuse_wire.ROOT, b"nowhere")
    assert (node, seconds > 0) == (0, True)


def test_attributes(reader: ExtReader, answers: Answers) -> None:
    for name in (b"small", b"plain", b"a", b"empty"):
        inode = reader.lookup(name)
        assert inode is not None
        node = node_of(answers, name)
        listed = ask(answers, fuse_wire.LISTXATTR, node, struct.pack("=II", 65536, 0))
        assert set(listed.split(b"\0")[:-1]) == set(reader.xattrs(inode))
        (length,) = struct.unpack("=I4x", ask(answers, fuse_wire.LISTXATTR, node, bytes(8)))
        assert length == len(listed)
        for key, value in reader.xattrs(inode).items():
            asked = key + b"\0"
            assert ask(answers, fuse_wire.GETXATTR, node, struct.pack("=II", 65536, 0) + asked) == value
            if len(value) > 1:
                small = memoryview(struct.pack("=II", 1, 0) + asked)
                assert answers.give(fuse_wire.GETXATTR, node, small) == (errno.ERANGE, b"")
        absent = memoryview(struct.pack("=II", 100, 0) + b"user.absent\0")
        assert answers.give(fuse_wire.GETXATTR, node, absent) == (errno.ENODATA, b"")


def test_what_need_not_be_answered_is_not_asked_again(reader: ExtReader, answers: Answers) -> None:
    for opcode in (OPEN, WRITE):
        assert answers.give(opcode, fuse_wire.ROOT, memoryview(bytes(64))) == (errno.ENOSYS, b"")
    asked = memoryview(struct.pack("=II", 100, 0) + b"user.overlay.metacopy\0")
    assert Answers(reader, bare=True).give(fuse_wire.GETXATTR, fuse_wire.ROOT, asked) == (errno.ENOSYS, b"")


def test_damage_is_an_error_of_the_one_file(tmp_path: Path, source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    section = make(tmp_path / "i", source, VARIANTS["ext3-4k"])
    with ExtReader(section) as reader:
        inode = reader.lookup(b"many")
        assert inode is not None
        place = next(reader.extents(inode)).place
    with open(section.path, "r+b") as file:
        file.seek(place + 4)
        file.write(b"\0\0")  # the length of the first record
    with ExtReader(section) as reader:
        answers = Answers(reader, bare=False)
        node = node_of(answers, b"many")
        body = memoryview(struct.pack("=QQI", 0, 0, 4096))
        assert answers.give(fuse_wire.READDIRPLUS, node, body) == (errno.EIO, b"")
        assert "damaged directory" in capfd.readouterr().err
        assert answers.give(fuse_wire.GETATTR, 10**9, memoryview(b"")) == (errno.EIO, b"")
        assert ask(answers, fuse_wire.READ, node_of(answers, b"small"), struct.pack("=QQI", 0, 0, 10)) == b"tiny"
