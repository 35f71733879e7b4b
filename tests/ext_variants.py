"""Images of every variant of ext2/3/4, of a tree with every awkward thing."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

from overlay.section import Section
from overlay.tools import find

MIB = 2**20
EXT4 = "extent,64bit,filetype,ext_attr,dir_index"
VARIANTS = {
    "ext3-4k": ["-b", "4096", "-O", "none,has_journal,filetype,dir_index,ext_attr,large_file", "-J", "size=4"],
    "ext2-1k": ["-b", "1024", "-O", "none,filetype,sparse_super,ext_attr,large_file"],
    "ext2-old": ["-b", "1024", "-O", "none,large_file,ext_attr", "-I", "128"],
    "ext4": ["-b", "4096", "-O", f"{EXT4},flex_bg,metadata_csum,huge_file,extra_isize"],
    "ext4-1k-meta_bg": ["-b", "1024", "-O", f"{EXT4},meta_bg,^resize_inode,sparse_super", "-g", "1024"],
    "ext4-inline": ["-b", "1024", "-O", f"{EXT4},inline_data", "-I", "256"],
    "ext2-64k": ["-b", "65536", "-O", "none,filetype,ext_attr"],
}


def tree(top: Path) -> Path:
    """Every awkward thing an ordinary user can make."""
    top.mkdir()
    (top / "empty").write_bytes(b"")
    (top / "small").write_bytes(b"tiny")
    (top / "plain").write_bytes(random.Random(1).randbytes(300_000))
    with (top / "sparse").open("wb") as file:
        for at in (0, 40_000, 13 * MIB + 5, 70 * MIB, 72 * MIB + 1):
            file.seek(at)
            file.write(b"data at %d" % at)
        file.seek(80 * MIB - 1)
        file.write(b"!")
    os.link(top / "plain", top / "plain2")
    (top / "short").symlink_to("plain")
    (top / "l59").symlink_to("x" * 59)
    (top / "l60").symlink_to("x" * 60)
    (top / "long").symlink_to("d/" * 400)
    os.mkfifo(top / "fifo", 0o640)
    (top / "setuid").write_text("x")
    (top / "setuid").chmod(0o4755)
    (top / "private").mkdir(mode=0o700)
    deep = top
    for part in ("a", "b", "c" * 200, "d", "e"):
        deep = deep / part
        deep.mkdir()
    (deep / "bottom").write_text("deep")
    many = top / "many"
    many.mkdir()
    for number in range(700):
        (many / f"a rather long file name, number {number}").write_bytes(b"%d" % number if number % 50 == 0 else b"")
    for name in (b"\xff\xfe", b"new\nline", b'quote"', b"sp ace", b"<12>", "ünï".encode(), b"x" * 255):
        (top / os.fsdecode(name)).write_text("odd")
    os.utime(top / "small", ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    return top


def attributes(top: Path) -> bool:
    """Add extended attributes; False where the host's file system has none."""
    try:
        os.setxattr(top / "small", "user.one", b"1")
        os.setxattr(top / "small", "user.two", b"")
        os.setxattr(top / "plain", "user.large", b"v" * 700)
        os.setxattr(top / "a", "user.overlay.opaque", b"y")
    except OSError:
        return False
    return True


def make(image: Path, source: Path, options: list[str], offset: int = 0) -> Section:
    size = 128 * MIB
    with image.open("wb") as file:
        file.truncate(size + offset + 5)
    mke2fs = find("mke2fs")
    assert mke2fs
    block = int(options[options.index("-b") + 1])
    extended = ["-E", f"offset={offset}"] if offset else []
    done = subprocess.run(
        [mke2fs, "-q", "-F", *options, "-d", str(source), *extended, str(image), str(size // block)],
        env={"MKE2FS_CONFIG": "/dev/null"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Section(str(image), offset, size)
