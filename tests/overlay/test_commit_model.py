"""Random upper directories carried into images, one after the other: the image holds what the merge of both says."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

import pytest
from delta_model import comparable, merge, of_directory, of_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probes import IS_ROOT

from overlay import e2fsprogs
from overlay.commit import carry as commit
from overlay.manage import create
from overlay.section import Section

MIB = 2**20
SIZE = 16 * MIB
KINDS = ("ours", "plain 1 KiB", "embedded")
ODD = 512 * 77

NAMES = (b"a", b"b", b"c" * 255, b"new\nline", b'"quote', b"\xff\xfe")
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
SIZES = st.sampled_from((0, 1, 60, 4096, 5000, 70_000, 300_000))
TIMES = st.sampled_from((0, 1_500_000_000_123_456_789, 2**32 * 10**9 + 5, -(10**9)))

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("file"), PATHS, SIZES),
        st.tuples(st.just("sparse"), PATHS, SIZES),
        st.tuples(st.just("directory"), PATHS, st.booleans()),
        st.tuples(st.just("delete"), PATHS, st.none()),
        st.tuples(st.just("symlink"), PATHS, st.sampled_from((1, 59, 60, 900))),
        st.tuples(st.just("fifo"), PATHS, st.none()),
        st.tuples(st.just("socket"), PATHS, st.none()),
        st.tuples(st.just("link"), PATHS, PATHS),
        st.tuples(st.just("chmod"), PATHS, st.sampled_from((0o600, 0o755, 0o4711, 0o1777))),
        st.tuples(st.just("xattr"), PATHS, st.sampled_from((0, 3, 50, 500))),
        st.tuples(st.just("time"), PATHS, TIMES),
        st.tuples(st.just("owner"), PATHS, st.sampled_from((0, 1000, 70_000, 4_000_000_000))),
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Section]:
    top = tmp_path_factory.mktemp("templates")
    made = {"ours": create.create_ext3(str(top / "ours"), SIZE, sparse=True).section}
    plain = Section(str(top / "plain"), 0, SIZE)
    Path(plain.path).touch()
    os.truncate(plain.path, SIZE)
    e2fsprogs.mke2fs(plain, "-O", "none,has_journal,filetype", "-I", "128", "-J", "size=1", block_size=1024)
    made["plain 1 KiB"] = plain
    embedded = Section(str(top / "embedded"), ODD, SIZE)
    Path(embedded.path).write_bytes(b"before" * 100)
    with open(embedded.path, "r+b") as file:
        file.seek(ODD + SIZE)
        file.write(b"behind" * 1000)
    made["embedded"] = create.format_ext3(embedded, sparse=True).section
    return made


@given(st.sampled_from(KINDS), st.lists(OPERATIONS, min_size=1, max_size=3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_model(templates: dict[str, Section], kind: str, rounds: list[list[tuple[str, bytes, object]]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        template = templates[kind]
        shutil.copyfile(template.path, top / "image")
        section = template._replace(path=str(top / "image"))
        lower = make_lower(top / "lower")
        nanoseconds = kind != "plain 1 KiB"
        for number, operations in enumerate(rounds):
            upper = top / f"upper{number}"
            upper.mkdir()
            for operation in operations:
                apply(os.fsencode(upper), *operation)
            delta = clamped(of_directory(os.fsencode(upper)), nanoseconds)
            expected = comparable(merge(of_image_or_nothing(section), delta, lower), nanoseconds=nanoseconds)
            needed, had = commit.needs(section, str(upper)), commit.free(section)
            report = commit.commit(section, str(upper), [str(top / "lower")], str(top / "undo"), ignore)
            commit.discard(str(top / "undo"))
            left = commit.free(section)
            assert had.bytes - left.bytes <= needed.bytes
            assert had.inodes - left.inodes <= needed.inodes
            assert comparable(of_image(section), nanoseconds=nanoseconds) == expected
            checked = e2fsprogs.e2fsck(section, "-fn", write=False)
            assert checked.status == 0, checked.said
            assert len(report.sockets) == sum(stat.S_ISSOCK(each.mode) for each in delta.values())
        if section.offset:
            with open(section.path, "rb") as file, open(template.path, "rb") as before:
                assert file.read(ODD) == before.read(ODD)
                file.seek(ODD + SIZE)
                before.seek(ODD + SIZE)
                assert file.read() == before.read()


def ignore(_text: str) -> None:
    pass


def of_image_or_nothing(section: Section) -> dict:  # type: ignore[type-arg]
    from overlay.extread.reader import ExtReader

    with ExtReader(section) as reader:
        there = reader.lookup(b"/upper") is not None
    return of_image(section) if there else {}


def clamped(model: dict, nanoseconds: bool) -> dict:  # type: ignore[type-arg]
    """An inode of 128 bytes ends in 2038."""
    if nanoseconds:
        return model
    last = (2**31 - 1) * 10**9
    return {path: each._replace(mtime_ns=min(each.mtime_ns, last)) for path, each in model.items()}


def make_lower(top: Path) -> frozenset[bytes]:
    """A layer below the image, of directories: a, b, and each of them in the other."""
    (top / "a/b").mkdir(parents=True)
    (top / "b/a").mkdir(parents=True)
    return frozenset({b"a", b"b", b"a/b", b"b/a"})


def apply(upper: bytes, verb: str, path: bytes, value: object) -> None:
    """One operation, where it makes sense."""
    where = os.path.join(upper, path)
    above = upper
    for part in path.split(b"/")[:-1]:
        above = os.path.join(above, part)
        if not os.path.lexists(above):
            os.mkdir(above)
        elif not os.path.isdir(above) or os.path.islink(above):
            return
    there = os.path.lexists(where)
    if verb in ("file", "sparse", "directory", "delete", "symlink", "fifo", "socket") and there:
        if stat.S_ISDIR(os.lstat(where).st_mode):
            shutil.rmtree(os.fsdecode(where))
        else:
            os.unlink(where)
    if verb in ("chmod", "xattr", "time", "owner") and (not there or os.path.islink(where)):
        return
    if verb in ("chmod", "xattr", "time", "owner") and not os.path.isdir(where) and not os.path.isfile(where):
        return
    make(upper, where, verb, value)


def make(upper: bytes, where: bytes, verb: str, value: object) -> None:
    if verb in ("file", "sparse"):
        assert isinstance(value, int)
        with open(where, "wb") as file:
            if verb == "sparse":
                file.seek(value * 7)
            file.write(b"%d" % value * value if value < 1000 else os.urandom(value))
            if verb == "sparse":
                file.truncate(value * 9)
    elif verb == "directory":
        os.mkdir(where)
        if value:
            os.setxattr(where, "user.overlay.opaque", b"y")
    elif verb == "delete":
        os.mknod(where, stat.S_IFCHR, os.makedev(0, 0))
    elif verb == "symlink":
        assert isinstance(value, int)
        os.symlink(b"x" * value, where)
    elif verb == "fifo":
        os.mkfifo(where)
    elif verb == "socket":
        directory = os.open(os.path.dirname(where), os.O_PATH)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(b"/proc/self/fd/%d/s" % directory)
        os.rename(os.path.dirname(where) + b"/s", where)
        os.close(directory)
    elif verb == "link":
        assert isinstance(value, bytes)
        source = os.path.join(upper, value)
        if not os.path.lexists(where) and os.path.isfile(source) and not os.path.islink(source):
            os.link(source, where)
    elif verb == "chmod":
        assert isinstance(value, int)
        os.chmod(where, value | 0o700 if os.path.isdir(where) else value)
    elif verb == "xattr":
        assert isinstance(value, int)
        os.setxattr(where, f"user.x{value}", b"v" * value)
    elif verb == "time":
        assert isinstance(value, int)
        os.utime(where, ns=(value, value))
    elif verb == "owner" and IS_ROOT:
        assert isinstance(value, int)
        os.chown(where, value, value // 2)
