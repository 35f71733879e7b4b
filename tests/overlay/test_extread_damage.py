"""Our reader and images that are damaged, by chance or on purpose: read, or refused with a named error, quickly."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from ext_variants import MIB, VARIANTS, attributes, make, tree

from overlay import e2fsprogs
from overlay.extread.reader import ExtError, ExtReader
from overlay.manage.create import create_ext3
from overlay.section import Section


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tree(tmp_path_factory.mktemp("source") / "tree")
    attributes(top)
    return top


def exhaust(section: Section) -> None:
    with ExtReader(section) as reader:
        for _, inode in reader.walk():
            reader.xattrs(inode)
            if inode.is_file:
                for extent in reader.extents(inode):
                    assert extent.length > 0
            elif inode.is_symlink:
                reader.readlink(inode)


@pytest.mark.parametrize("variant", ["ext3-4k", "ext2-old", "ext4", "ext4-inline"])
def test_damage_gives_a_named_error(variant: str, source: Path, tmp_path: Path) -> None:
    """Random words of the metadata overwritten: read, or refused, quickly."""
    image = tmp_path / "i"
    section = make(image, source, VARIANTS[variant])
    original = image.read_bytes()[: 2 * MIB]
    used = [at for at in range(0, 2 * MIB, 4096) if any(original[at : at + 4096])]
    chance = random.Random(variant)
    refused = 0
    for _ in range(150):
        with image.open("r+b") as file:
            file.write(original)
            for _ in range(chance.choice((1, 20, 500))):
                file.seek(chance.choice(used) + chance.randrange(1024) * 4)
                file.write(chance.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", chance.randbytes(4), b"\x02\0\0\0")))
        begun = time.monotonic()
        try:
            exhaust(section)
        except ExtError as error:
            assert str(error)
            refused += 1
        assert time.monotonic() - begun < 10
    assert refused > 20


def patched(section: Section, commands: list[list[bytes]]) -> None:
    e2fsprogs.debugfs(section, commands, write=True)


@pytest.mark.parametrize(
    ("story", "commands"),
    [
        ("a directory that contains itself", [[b"link", b"/upper", b"/upper/loop"]]),
        ("a name that leads to an unused inode", [[b"mkdir", b"/upper/x"], [b"clri", b"/upper/x"]]),
        ("a block outside the file system", [[b"sif", b"/upper", b"block[0]", b"99999999"]]),
        (
            "an indirect block that maps itself",
            [
                [b"write", b"/dev/null", b"f"],
                [b"sif", b"f", b"size", b"0x200000000"],
                [b"sif", b"f", b"block[TIND]", b"2000"],
                [b"zap", b"2000"],
            ],
        ),
    ],
)
def test_hostile_images(story: str, commands: list[list[bytes]], tmp_path: Path) -> None:
    image = tmp_path / "i"
    create_ext3(str(image), 16 * MIB, sparse=True)
    section = Section(str(image), 0, 16 * MIB)
    zap = [command for command in commands if command[0] == b"zap"]
    patched(section, [command for command in commands if command[0] != b"zap"])
    for command in zap:
        at = int(command[-1]) * 4096
        with image.open("r+b") as file:
            file.seek(at)
            file.write(int(command[-1]).to_bytes(4, "little") * 1024)
    with pytest.raises(ExtError):
        exhaust(section)
