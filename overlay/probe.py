"""What a path is: directory, squashfs, ext2/3/4, SIF, or none of them. Reads at most 2 KiB."""

from __future__ import annotations

import enum
import os
import stat

from overlay import superblock
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.section import Section

if TYPE_CHECKING:
    from typing import Final

_PROBE_BYTES: Final = 2048
_SIF_MAGIC: Final = b"SIF_MAGIC\0"  # at byte 32; here only to say "that is a SIF", parsing it is not our job

# First bytes of what people hand over by mistake, and what to do about it.
_FOREIGN: Final = (
    (b"\x1f\x8b", "gzip-compressed data; unpack it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data; unpack it first (unzstd)"),
    (b"\xfd7zXZ\0", "xz-compressed data; unpack it first (unxz)"),
    (b"LUKS\xba\xbe", "a LUKS-encrypted volume, which cannot be an overlay"),
    (b"QFI\xfb", "a qcow2 disk image, which cannot be an overlay"),
    (b"\x7fELF", "an ELF program, not an image"),
    (b"sqsh", "a big-endian squashfs, which no current driver reads"),
)


class Kind(enum.StrEnum):
    DIRECTORY = "directory"
    SQUASHFS = "squashfs"
    EXT2 = "ext2"
    EXT3 = "ext3"
    EXT4 = "ext4"
    SIF = "SIF"
    UNKNOWN = "unknown"


_EXT: Final = {2: Kind.EXT2, 3: Kind.EXT3, 4: Kind.EXT4}


class Probe(NamedTuple):
    """What was found. ``problem`` is a sentence when it cannot be used as it is; ``notes`` only inform."""

    section: Section  # for a directory: its path, 0, 0
    kind: Kind
    problem: str = ""
    notes: tuple[str, ...] = ()
    ext: superblock.Superblock | None = None
    squash: superblock.Squash | None = None

    @property
    def is_ext(self) -> bool:
        return self.kind in (Kind.EXT2, Kind.EXT3, Kind.EXT4)


def classify(path: str, offset: int = 0, size: int | None = None) -> Probe:
    """Classify ``size`` bytes (default: all) of ``path`` from ``offset`` on, following symbolic links.

    Raises OSError, with the path in it, when the file is missing or unreadable.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        return Probe(Section(path, 0, 0), Kind.DIRECTORY)
    if not stat.S_ISREG(found.st_mode):
        return Probe(Section(path, offset, 0), Kind.UNKNOWN, _special(found.st_mode))
    # O_NONBLOCK: should the path have become a pipe since, the open must not wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return classify_open(fd, path, offset, size)
    finally:
        os.close(fd)


def classify_open(fd: int, path: str, offset: int = 0, size: int | None = None) -> Probe:
    """`classify` for a regular file that is open already; ``path`` is only put into the answer."""
    there = max(0, os.fstat(fd).st_size - offset)
    section = Section(path, offset, there if size is None else size)
    if section.size > there:
        return Probe(section, Kind.UNKNOWN, f"truncated: {section.size} bytes belong here, {there} are there")
    data = os.pread(fd, min(_PROBE_BYTES, section.size), offset)
    if not data:
        return Probe(section, Kind.UNKNOWN, "the file is empty")
    if data[32:42] == _SIF_MAGIC:
        return Probe(section, Kind.SIF)
    if data[:4] == superblock.SQUASH_MAGIC:
        return _squash(section, data)
    if superblock.has_magic(data[superblock.SUPERBLOCK_OFFSET :]):
        return _ext(section, data)
    return Probe(section, Kind.UNKNOWN, _foreign(data))


def _special(mode: int) -> str:
    for test, name in (
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return f"it is {name}, not a file or directory"
    return "it is neither a file nor a directory"


def _squash(section: Section, data: bytes) -> Probe:
    try:
        facts = superblock.parse_squash(data)
    except ValueError as error:
        return Probe(section, Kind.SQUASHFS, str(error))
    if facts.bytes_used > section.size:
        cause = f"truncated: the squashfs needs {facts.bytes_used} bytes, {section.size} are there"
        return Probe(section, Kind.SQUASHFS, cause, squash=facts)
    return Probe(section, Kind.SQUASHFS, squash=facts)


def _ext(section: Section, data: bytes) -> Probe:
    if len(data) < superblock.SUPERBLOCK_OFFSET + superblock.SUPERBLOCK_SIZE:
        return Probe(section, Kind.UNKNOWN, "truncated: the file ends inside its ext superblock")
    try:
        facts = superblock.parse(data[superblock.SUPERBLOCK_OFFSET :])
    except superblock.ExtError as error:
        return Probe(section, Kind.UNKNOWN, f"a damaged ext2/3/4 file system ({error})")
    kind = _EXT[facts.version]
    problem = ""
    if facts.size > section.size:
        problem = f"truncated: the file system needs {facts.size} bytes, {section.size} are there"
    elif facts.incompat & 0x8:
        problem = "the external journal of another file system, not a file system"
    return Probe(section, kind, problem, _ext_notes(kind, facts), ext=facts)


def _ext_notes(kind: Kind, facts: superblock.Superblock) -> tuple[str, ...]:
    refused = facts.refused_by_apptainer
    if kind is Kind.EXT2:
        return ("ext2, which has no journal: Apptainer refuses it, sifkit reads it; `tune2fs -j` adds a journal",)
    if refused:
        what = "ext4" if kind is Kind.EXT4 else "ext3 with extras"
        return (f"{what} ({', '.join(refused)}): Apptainer refuses it, sifkit reads it",)
    return ()


def _foreign(data: bytes) -> str:
    if data.startswith(b"#!") and b" run-singularity" in data.split(b"\n", 1)[0]:
        skip = data.index(b"\n") + 1 if b"\n" in data else 0
        return (
            f"a Singularity 2 image: a file system behind a first line of {skip} bytes; "
            f"take that line off (tail -c +{skip + 1} OLD > NEW)"
        )
    for magic, what in _FOREIGN:
        if data.startswith(magic):
            return f"it holds {what}"
    if data[257:262] == b"ustar":
        return "it holds a tar archive, not an image"
    if not data.strip(b"\0"):
        return "no file system: it begins with zeros only (made with dd or truncate, and never formatted?)"
    return "neither a directory nor an ext3, squashfs or SIF image"
