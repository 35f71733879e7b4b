"""Damaged and malicious files: each a named error or a safe reading; little memory, little time, never a traceback."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from overlay.failure import Failure
from sifkit import sif
from sifkit.cli.sif_cmd import sif as command

ROOT = str(Path(__file__).resolve().parents[2])
EXTREMES = (-(2**63), -1, 0, 127, 2**31 - 1, 2**62, 2**63 - 1)
TABLE = 4096

# Runs everything that reads or changes an image, on every file of a directory, in a process of its own.
EVERYTHING = """
import os, shutil, sys, time
from sifkit import sif

def verbs(path):
    yield lambda: [image.read(d) for image in [sif.open(path)] for d in image.objects]
    yield lambda: sif.check(path)
    yield lambda: sif.add(path, sif.NewObject(0x4007, b"new"), force=True)
    yield lambda: sif.change(path, 1, name="x", force=True)
    yield lambda: sif.set_primary(path, 4, force=True)
    yield lambda: sif.grow(path, 200)
    yield lambda: sif.delete(path, 4, zero=True, compact=True, force=True)
    yield lambda: sif.compact(path)

worst = 0
for name in sorted(os.listdir(sys.argv[1])):
    for number in range(8):
        path = sys.argv[2]
        # Sparse files are not copied but used up.
        source = os.path.join(sys.argv[1], name)
        if os.stat(source).st_size > 1 << 26:
            path = source
        else:
            shutil.copyfile(source, path)
        started = time.monotonic()
        try:
            list(verbs(path))[number]()
        except (sif.SifError, OSError):
            pass
        except BaseException:
            print("in", name, number)
            raise
        took = time.monotonic() - started
        assert took < 1, (name, number, took)
        assert os.stat(path).st_size < 1 << 33, (name, number)
# Not ru_maxrss: that counts the parent before exec.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def _variants(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every 8-byte and 4-byte field of header and descriptor 4 at its extremes, and cuts of the file."""
    fields = [(f"header-{at}", at, "<q") for at in range(64, 128, 8)]
    slot = TABLE + 3 * 585
    fields += [(f"descriptor-{at}", slot + at, "<q") for at in range(17, 73, 8)]
    fields += [(f"descriptor-{at}", slot + at, "<i") for at in (0, 5, 9, 13, 201, 205)]
    for name, at, form in fields:
        for number, value in enumerate(EXTREMES):
            if form == "<i" and not -(2**31) <= value < 2**31:
                continue
            yield f"{name}-{number}", data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]
    for size in (0, 1, 31, 42, 127, 128, 4095, 4096, 4681, 32175, 32176, 33000):
        yield f"cut-{size}", data[:size]


def _with_header(data: bytes, **fields: int) -> bytes:
    names = ("free", "total", "table_offset", "table_size", "data_offset", "data_size")
    header = bytearray(data[:128])
    for name, value in fields.items():
        struct.pack_into("<q", header, 80 + 8 * names.index(name), value)
    return bytes(header)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory where fsync costs nothing."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        yield Path(directory)


def test_every_field_at_its_extremes(memory: Path, generate: ModuleType) -> None:
    hostile = memory / "hostile"
    hostile.mkdir()
    data = generate.image("every-type")
    for name, variant in _variants(data):
        (hostile / name).write_bytes(variant)
    total = 1 << 18
    sparse = {"sparse-table": (total, 1 << 30), "too-many": (total + 1, 1 << 30), "sparse-data": (48, 1 << 32)}
    for name, (slots, size) in sparse.items():
        with open(hostile / name, "wb") as file:
            file.write(data if slots == 48 else _with_header(data, total=slots, table_size=slots * 585))
            file.truncate(size)
    used = b"\x07\x40\0\0\x01".ljust(585, b"\xff")
    many = _with_header(data, total=20000, table_size=20000 * 585, data_offset=TABLE + 20000 * 585)
    (hostile / "used-slots").write_bytes(many.ljust(TABLE, b"\0") + used * 20000)
    arguments = [sys.executable, "-c", EVERYTHING, str(hostile), str(memory / "work.sif")]
    done = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) < 64 << 10  # KiB


NAMED = {
    "c01": sif.Truncated, "c03": sif.Truncated, "c05": sif.Truncated, "c07": sif.NotSif, "c09": sif.BadVersion,
    "c13": sif.Corrupt, "c15": sif.Corrupt, "c17": sif.Corrupt, "c47": sif.NotSif,
}  # fmt: skip


def test_golden_hostile_images(golden: Path) -> None:
    """B42."""
    seen = 0
    for path in (golden / "hostile").iterdir():
        seen += 1
        assert sif.check(path), path.name
        error = NAMED.get(path.name[:3])
        if error is None:
            with sif.open(path) as image:
                assert image.objects
            continue
        with pytest.raises(error) as caught:
            sif.open(path)
        assert caught.value.offset is not None and caught.value.path == str(path)
        result = CliRunner().invoke(command, ["list", str(path)])
        assert isinstance(result.exception, Failure) and result.exception.exit_code == 255
    assert seen > 20


@pytest.mark.parametrize(("offset", "data", "words"), [
    (0, b"x" * 32, "launch script has no end"), (45, b"99\0", "architecture b'99"),
    (45, b"01\0", "the header says 386"),
    (64, struct.pack("<q", 2**62), "outside of the years"), (80, struct.pack("<q", 35), "are said to be free"),
    (104, struct.pack("<q", 28081), "the table has 28081 bytes"), (112, struct.pack("<q", 128), "inside of header"),
    (112, struct.pack("<q", 2**40), "the data start"), (120, struct.pack("<q", -1), "the data have -1"),
    (120, struct.pack("<q", 2**40), "the data end"), (120, struct.pack("<q", 100), "the last object ends"),
    (TABLE, struct.pack("<i", 0x5000), "type 0x5000 is unknown"), (TABLE + 4, b"\x02", "used byte is 2"),
    (TABLE + 5, struct.pack("<I", 0), "has ID 0"), (TABLE + 5, struct.pack("<I", 2), "same ID"),
    (TABLE + 9, struct.pack("<I", 1), "not marked as a group"), (TABLE + 13, struct.pack("<I", 99), "does not exist"),
    (TABLE + 13, struct.pack("<I", 0xF0000063), "group 99, which is empty"),
    (TABLE + 17, struct.pack("<q", -5), "are impossible"), (TABLE + 25, struct.pack("<q", 2**40), "ends at byte"),
    (TABLE + 17, struct.pack("<q", 32208), "overlaps"),
    (TABLE + 17, struct.pack("<q", 4096), "the table overlaps object 1"),
    (TABLE + 33, struct.pack("<q", 1), "with padding 1"),
    (TABLE + 73, b"a\0b", "follow the end of its name"), (TABLE + 73, b"\x1b[1m", "control characters"),
    (TABLE + 73, b"../x", "path out of"), (TABLE + 73, b"/etc", "path out of"),
    (TABLE + 3 * 585 + 201, struct.pack("<i", 2), "said to be Ext3, and is Squashfs"),
    (TABLE + 3 * 585 + 201, struct.pack("<i", 9), "file system type 9"),
    (TABLE + 3 * 585 + 205, struct.pack("<i", 9), "partition type 9"),
    (TABLE + 11 * 585 + 205, struct.pack("<i", 2), "more than one primary"),
    (TABLE + 3 * 585 + 209, b"77\0", "architecture b'77"), (TABLE + 4 * 585 + 201, bytes(4), "hash type 0"),
    (TABLE + 8 * 585 + 201, bytes(4), "format 0"), (36864 + 40, struct.pack("<Q", 4097), "squashfs has 4097 bytes"),
    (45056 + 1028, struct.pack("<I", 65), "ext3 has 66560 bytes"), (45056 + 1120, b"\x42", "has not (extents)"),
    (45056 + 1116, bytes(4), "no journal"), (36864, b"LUKS\xba\xbe", "is Encrypted squashfs"),
    (36864, b"nothing", "no file system that is known"),
])  # fmt: skip
def test_check_says_what_is_wrong(tmp_path: Path, generate: ModuleType, offset: int, data: bytes, words: str) -> None:
    image = generate.image("every-type")
    path = tmp_path / "bad.sif"
    path.write_bytes(image[:offset] + data + image[offset + len(data) :])
    result = CliRunner().invoke(command, ["check", str(path)])
    assert result.exit_code == 1
    assert words in result.stdout
    assert "\x1b" not in result.stdout


def test_random_mutations(tmp_path: Path, generate: ModuleType) -> None:
    """A short run of what the bench does 100 000 times."""
    draw = random.Random(4)
    data = generate.image("every-type")
    path = tmp_path / "mutant.sif"
    path.write_bytes(data)
    with open(path, "r+b", buffering=0) as file:
        for _ in range(1000):
            at = draw.choice([draw.randrange(128), TABLE + draw.randrange(12 * 585)])
            new = draw.choice([draw.randbytes(8), struct.pack("<q", draw.choice(EXTREMES))])
            os.pwrite(file.fileno(), new, at)
            assert isinstance(sif.check(path), list)
            os.pwrite(file.fileno(), data[at : at + len(new)], at)
    assert sif.check(path) == []


def test_other_things_than_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, "/dev/null"):
        with pytest.raises((sif.NotSif, OSError)):
            sif.open(path)
    with pytest.raises(FileNotFoundError):
        sif.open(tmp_path / "missing")
