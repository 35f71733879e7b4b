"""What an object is, from its bytes: its file system, its architecture, and whether it is what it is said to
be."""

from __future__ import annotations

import lzma
import os
import struct
import zlib
from collections.abc import Iterator

from sifkit.sif import sniff, transfer
from sifkit.sif.enums import FsType, fs_text

# e_machine (elf.h) with class and byte order → Go's name.
_MACHINES = {
    (3, 1, 1): "386", (62, 2, 1): "amd64", (40, 1, 1): "arm", (183, 2, 1): "arm64", (21, 2, 2): "ppc64",
    (21, 2, 1): "ppc64le", (8, 1, 2): "mips", (8, 1, 1): "mipsle", (8, 2, 2): "mips64", (8, 2, 1): "mips64le",
    (22, 2, 2): "s390x", (243, 2, 1): "riscv64", (258, 2, 1): "loong64",
}  # fmt: skip
# uname -m → Go's name.
HOSTS = {
    "i386": "386", "i586": "386", "i686": "386", "x86_64": "amd64", "armv6l": "arm", "armv7l": "arm",
    "armv8l": "arm", "aarch64": "arm64", "ppc64": "ppc64", "ppc64le": "ppc64le", "mips": "mips",
    "mips64": "mips64", "s390x": "s390x", "riscv64": "riscv64", "loongarch64": "loong64",
}  # fmt: skip

_SEARCHED = 64 << 20  # bytes of an object that are searched for a program


def host_architecture() -> str:
    """Go's name of this machine's architecture, "unknown" when it has none."""
    return HOSTS.get(os.uname().machine, "unknown")


def elf_architecture(head: bytes) -> str:
    """Go's name of the architecture of an ELF file by its first 20 bytes, "" for anything else."""
    if len(head) < 20 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return ""
    machine = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)[0]
    return _MACHINES.get((machine, head[4], head[5]), "")


def file_system(fd: int, offset: int = 0) -> int:
    """`FsType` of what starts at ``offset`` of the open file, 0 when it cannot be told."""
    return sniff.identify(os.pread(fd, sniff.HEAD, offset))


def architecture(fd: int, offset: int, size: int) -> str:
    """Go's name of the architecture of the first program in a file system, "" when none is found.

    Looks at the start of blocks: of ext at each KiB, of squashfs at each data block that gzip or xz packed.
    Other compressors are not in Python's standard library.
    """
    squash = sniff.squashfs(os.pread(fd, sniff.HEAD, offset))
    heads = _ext_heads(fd, offset, size) if squash is None else _squash_heads(fd, offset, size, squash.compression)
    for head in heads:
        if found := elf_architecture(head):
            return found
    return ""


def _ext_heads(fd: int, offset: int, size: int) -> Iterator[bytes]:
    for start, length in transfer.extents(fd, offset, min(size, _SEARCHED)):
        for at in range(start, start + length, 1 << 20):
            chunk = os.pread(fd, min(1 << 20, start + length - at), at)
            found = chunk.find(b"\x7fELF")
            while found >= 0:
                if (at + found - offset) % 1024 == 0:
                    yield chunk[found : found + 20]
                found = chunk.find(b"\x7fELF", found + 1)


def _squash_heads(fd: int, offset: int, size: int, compression: int) -> Iterator[bytes]:
    """Starts of the data blocks: they follow the superblock one by one, each a stream that ends itself."""
    at, end = 96, min(size, _SEARCHED)
    if compression not in (1, 4):
        return
    while at < end:
        packed = os.pread(fd, min(1 << 20, end - at), offset + at)
        try:
            length, head = _unpack(packed, compression)
        except (zlib.error, lzma.LZMAError, EOFError):
            return  # a block stored as it is, or the end of the data
        yield head
        at += length


def _unpack(packed: bytes, compression: int) -> tuple[int, bytes]:
    if compression == 1:
        gzip = zlib.decompressobj()
        head = gzip.decompress(packed, 1 << 20)
        if not gzip.eof:
            raise EOFError
        return len(packed) - len(gzip.unused_data), head[:20]
    xz = lzma.LZMADecompressor(memlimit=48 << 20)
    head = xz.decompress(packed, 1 << 20)
    if not xz.eof:
        raise EOFError
    return len(packed) - len(xz.unused_data), head[:20]


def disagreement(head: bytes, size: int, fs: int) -> str:
    """Why ``size`` bytes that start with ``head`` are not a file system of `FsType` ``fs``; "" when they are.

    Raw and archive may be anything. gocryptfs is a squashfs on the outside. ext3 must have no feature that
    Apptainer refuses, or it could never be mounted.
    """
    found = sniff.identify(head)
    if fs in (FsType.RAW, FsType.ARCHIVE) or fs not in tuple(FsType):
        return ""
    if found != (FsType.SQUASHFS if fs == FsType.GOCRYPTFS_SQUASHFS else fs):
        is_found = fs_text(found) if found else "no file system that is known"
        return f"it is said to be {fs_text(fs)}, and is {is_found}"
    squash, ext = sniff.squashfs(head), sniff.ext(head)
    if squash is not None and squash.used > size:
        return f"its squashfs has {squash.used} bytes, the object {size}"
    if ext is not None and fs == FsType.EXT3:
        if ext.size > size:
            return f"its ext3 has {ext.size} bytes, the object {size}"
        if ext.odd:
            return f"it has what ext3 has not ({', '.join(ext.odd)})"
    return ""
