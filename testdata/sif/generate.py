"""Small images made by siftool, with what it prints for them, and the same recipes for our library.

    python testdata/sif/generate.py "siftool"          (or a command that runs it; needs siftool 2.24)

writes NAME.sif.gz and NAME.siftool.txt beside this file. The tests replay each recipe with the library and compare
every byte, and compare our text with the committed one; they need no siftool.
"""

from __future__ import annotations

import gzip
import os
import shlex
import struct
import subprocess
import sys
import tempfile
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
FINGERPRINT = "433FE984155206BD962725E20E8713472A879943"


def squashfs_head(size: int = 4096) -> bytes:
    """``size`` bytes that start like an empty squashfs: superblock of format 4.0, gzip."""
    superblock = struct.pack("<4sIIIIHHHHHHQQ", b"hsqs", 1, 0, 131072, 0, 1, 17, 0xC0, 1, 4, 0, 0, size)
    return superblock.ljust(size, b"\0")


def ext3_head(size: int = 65536) -> bytes:
    """``size`` bytes that start like an ext3 of 1 KiB blocks with a journal and the features of mke2fs -t ext3."""
    superblock = bytearray(1024)
    struct.pack_into("<II", superblock, 0, 16, size // 1024)
    struct.pack_into("<I", superblock, 24, 0)
    struct.pack_into("<H", superblock, 56, 0xEF53)
    struct.pack_into("<III", superblock, 92, 0x3C, 0x2, 0x3)
    return (bytes(1024) + superblock).ljust(size, b"\0")


SOURCES = {
    "def": b"bootstrap: docker\nfrom: busybox\n",
    "json": b'{"a":1}',
    "short": b"x",
    "nothing": b"",
    "noise": bytes(range(256)) * 3,
    "squashfs": squashfs_head(),
    "ext3": ext3_head(),
}

# A step is (verb, argument, flags): flags as siftool's, in its numbers.
PART = {"datatype": 4, "partfs": 1, "parttype": 1, "partarch": 2, "groupid": 1}
RECIPES = {
    "empty": [],
    "every-type": [
        ("add", "def", {"datatype": 1, "groupid": 1, "filename": "d.def"}),
        ("add", "noise", {"datatype": 2, "groupid": 1}),
        ("add", "json", {"datatype": 3, "groupid": 1, "link": 4}),
        ("add", "squashfs", {**PART, "parttype": 2, "filename": "rootfs"}),
        ("add", "noise", {"datatype": 5, "signhash": 2, "signentity": FINGERPRINT, "link": 1}),
        ("add", "json", {"datatype": 6, "groupid": 2}),
        ("add", "noise", {"datatype": 7}),
        ("add", "noise", {"datatype": 8, "groupid": 1, "alignment": 512}),
        ("add", "json", {"datatype": 9, "sbomformat": "spdx-json", "groupid": 1}),
        ("add", "json", {"datatype": 10, "groupid": 3}),
        ("add", "noise", {"datatype": 11, "groupid": 3}),
        ("add", "ext3", {**PART, "partfs": 2, "parttype": 4, "partarch": 13}),
    ],
    "deleted": [
        ("add", "def", {"datatype": 1, "groupid": 1}),
        ("add", "noise", {"datatype": 7, "groupid": 1}),
        ("add", "squashfs", {**PART, "parttype": 2}),
        ("add", "noise", {"datatype": 7, "groupid": 1}),
        ("del", 2, {}),
        ("del", 4, {}),
        ("add", "short", {"datatype": 7, "groupid": 1}),
        ("del", 1, {}),
    ],
    "setprim": [
        ("add", "squashfs", {**PART, "parttype": 2, "partarch": 4}),
        ("add", "squashfs", {**PART, "partarch": 6}),
        ("add", "squashfs", {**PART, "partarch": 12, "parttype": 3, "groupid": 2}),
        ("setprim", 2, {}),
        ("setprim", 2, {}),
        ("del", 2, {}),
        ("setprim", 1, {}),
    ],
    "full": [
        *[("add", "json", {"datatype": 6, "filename": f"o{n}"}) for n in range(48)],
        ("del", 17, {}),
        ("add", "noise", {"datatype": 7}),
    ],
    # Go writes nothing of an empty object, not even what aligns it.
    "nothing": [
        ("add", "nothing", {**PART, "partfs": 4}),
        ("add", "noise", {"datatype": 7}),
        ("add", "nothing", {"datatype": 6}),
        ("add", "nothing", {"datatype": 7, "alignment": 65536}),
    ],
}  # fmt: skip

# "odd" is "every-type" with these bytes changed, for the texts of numbers that no tool writes: (offset, bytes).
_SLOT = 4096
ODD = [
    (45, b"386"),
    (64, struct.pack("<qq", -5, 2**62)),
    (112, struct.pack("<qq", 1536 * 1024, 2**63 - 1)),
    (_SLOT + 9, struct.pack("<II", 0x10000002, 0x50000002)),
    (_SLOT + 41, struct.pack("<qq", 253402300800, -62135596800)),
    (_SLOT + 585 + 13, struct.pack("<I", 0xF0000000)),
    (_SLOT + 585 + 41, struct.pack("<qq", -62135596801, 2**40)),
    (_SLOT + 2 * 585 + 9, struct.pack("<II", 5, 0xF0000005)),
    (_SLOT + 2 * 585 + 41, struct.pack("<qq", -62167219201, 0)),
    (_SLOT + 3 * 585 + 41, struct.pack("<qq", 2**63 - 1, -(2**63))),
    (_SLOT + 3 * 585 + 201, struct.pack("<ii3s", 77, 99, b"386")),
    (_SLOT + 5 * 585, struct.pack("<iB", 0x4055, 2)),
    (_SLOT + 5 * 585 + 41, struct.pack("<qq", 2**61, -(2**61))),
    (_SLOT + 6 * 585 + 17, struct.pack("<qq", 32768, 2**63 - 1)),
    (_SLOT + 7 * 585 + 201, struct.pack("<ii", 1, 0x100)),
    (_SLOT + 8 * 585 + 201, struct.pack("<i", 99)),
]


def odd(every_type: bytes) -> bytes:
    data = bytearray(every_type)
    for offset, new in ODD:
        data[offset : offset + len(new)] = new
    return bytes(data)


def image(name: str) -> bytes:
    """The committed image as siftool wrote it."""
    with gzip.open(os.path.join(HERE, f"{name}.sif.gz")) as file:
        return file.read()


def text(name: str) -> str:
    """What siftool printed for it: a line "$ siftool ..." before each output."""
    with open(os.path.join(HERE, f"{name}.siftool.txt"), encoding="utf-8") as file:
        return file.read()


def by_library(name: str, path: str, id: uuid.UUID, time: int) -> None:
    """Follow a recipe with ``sifkit.sif``."""
    from sifkit import sif

    sif.create(path, id=id, time=time)
    for verb, what, flags in RECIPES[name]:
        if verb == "add":
            sif.add(path, _new(SOURCES[str(what)], flags), time=time, force=True)
        elif verb == "del":
            sif.delete(path, int(what), time=time, force=True)
        else:
            sif.set_primary(path, int(what), time=time, force=True)


def _new(source: bytes, flags: dict[str, object]):  # type: ignore[no-untyped-def]
    from sifkit import sif
    from sifkit.sif import enums

    extra: object = b""
    if flags["datatype"] == 4:
        extra = sif.PartitionExtra(flags["partfs"], flags["parttype"], b"%02d\0" % flags["partarch"])
    elif flags["datatype"] == 5:
        extra = sif.SignatureExtra(flags["signhash"], bytes.fromhex(FINGERPRINT).ljust(256, b"\0"))
    elif flags["datatype"] == 9:
        extra = sif.SbomExtra(enums.SBOM_WORDS[flags["sbomformat"]])
    return sif.NewObject(
        0x4000 + flags["datatype"], source, flags.get("filename", ""), flags.get("groupid", 0), flags.get("link", 0),
        0, flags.get("alignment"), None, extra,
    )  # fmt: skip


def _by_siftool(siftool: list[str], name: str, path: str) -> None:
    subprocess.run([*siftool, "new", path], check=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as directory:
        for verb, what, flags in RECIPES[name]:
            if verb != "add":
                subprocess.run([*siftool, verb, str(what), path], check=True)
                continue
            source = os.path.join(directory, str(what))
            with open(source, "wb") as file:
                file.write(SOURCES[str(what)])
            options = [f"--{key}={value}" for key, value in flags.items()]
            subprocess.run([*siftool, "add", path, source, *options], check=True)


def _print(siftool: list[str], path: str, ids: list[int]) -> str:
    printed = ""
    for command in ["header"], ["list"], *(["info", str(number)] for number in ids):
        done = subprocess.run([*siftool, *command, path], capture_output=True, text=True)
        printed += f"$ siftool {' '.join(command)}\n{done.stdout}"
    return printed


def _one_second(siftool: list[str], name: str, path: str) -> bytes:
    """An image all of whose times are equal, so that one number replays it."""
    while True:
        if os.path.exists(path):
            os.unlink(path)
        _by_siftool(siftool, name, path)
        with open(path, "rb") as file:
            data = file.read()
        created, modified = struct.unpack_from("<qq", data, 64)
        if created == modified:
            return data


def _used(data: bytes) -> list[int]:
    slots = [data[4096 + n * 585 : 4096 + (n + 1) * 585] for n in range(48)]
    return [struct.unpack_from("<I", slot, 5)[0] for slot in slots if slot[4]]


def main(siftool: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        for name in [*RECIPES, "odd"]:
            path = os.path.join(directory, "image.sif")
            data = odd(image("every-type")) if name == "odd" else _one_second(siftool, name, path)
            with open(path, "wb") as file:
                file.write(data)
            with open(os.path.join(HERE, f"{name}.siftool.txt"), "w", encoding="utf-8") as out:
                out.write(_print(siftool, path, _used(data)))
            with open(os.path.join(HERE, f"{name}.sif.gz"), "wb") as packed:
                packed.write(gzip.compress(data, mtime=0))


if __name__ == "__main__":
    main(shlex.split(sys.argv[1]) if len(sys.argv) > 1 else ["siftool"])
