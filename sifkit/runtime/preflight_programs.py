"""The helper programs: which are there, which version, and what that version lacks."""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from overlay import features, tools
from overlay.failure import Failure


class Wanted(NamedTuple):
    """A program we may start. ``ask``: the argument that makes it tell its version ("" when it has none).

    ``without``: what does not work where the program is missing.
    """

    name: str
    ask: str
    without: str


class Program(NamedTuple):
    """``path``: "" when it is missing. ``version``: () when it cannot be told. ``problem``: why it cannot be run."""

    name: str
    path: str = ""
    version: tuple[int, ...] = ()
    problem: str = ""
    takes_uid: bool = False


WANTED = (
    Wanted("fuse-overlayfs", "--version", "no writing without root into ext3 images, or over what somebody else owns"),
    Wanted("squashfuse", "--help", "an ordinary user cannot read squashfs images"),
    Wanted("squashfuse_ll", "--help", "squashfuse is used instead, which has only one thread"),
    Wanted("fuse2fs", "-V", "an ordinary user cannot write into ext3 images in place (:fuse)"),
    Wanted("mke2fs", "-V", "no ext3 images can be made (sifkit overlay create)"),
    Wanted("e2fsck", "-V", "an ext3 image whose writer was killed cannot be mended"),
    Wanted("debugfs", "-V", "an ext3 image without upper/ and work/ cannot be made ready"),
    Wanted("mksquashfs", "-version", "no squashfs images can be made; this version of sifkit makes none"),
    Wanted("newuidmap", "", "subordinate ids cannot be used: with --fakeroot there is root alone"),
    Wanted("newgidmap", "", "subordinate ids cannot be used: with --fakeroot there is root alone"),
)

# fuse2fs before this version lists names without their file type.
FUSE2FS_TYPES = (1, 47, 3)


def look() -> tuple[Program, ...]:
    """Find every program of `WANTED` and ask each for its version."""
    return tuple(_examine(wanted) for wanted in WANTED)


def _examine(wanted: Wanted) -> Program:
    hidden = wanted.name == "fuse-overlayfs" and features.without(wanted.name)
    path = None if hidden else tools.find(wanted.name)
    if path is None:
        return Program(wanted.name)
    if not wanted.ask:
        return Program(wanted.name, path, problem=_map_problem(path))
    try:
        done = tools.run(wanted.name, wanted.ask, why="")
    except (OSError, Failure) as error:
        return Program(wanted.name, path, problem=_reason(error))
    said = done.out + done.err
    return Program(wanted.name, path, version(wanted.name, said), takes_uid="uid=" in said)


def _reason(error: Exception) -> str:
    if isinstance(error, Failure):
        return "it is not there, or not executable"
    return getattr(error, "strerror", None) or str(error)


def version(name: str, said: str) -> tuple[int, ...]:
    """The version in what ``name`` said about itself; () when there is none."""
    word = re.escape(name.removesuffix("_ll"))
    found = re.search(rf"{word}:? (?:version )?v?(\d+(?:\.\d+)+)", said)
    return tuple(int(number) for number in found.group(1).split(".")) if found else ()


def _map_problem(path: str) -> str:
    """newuidmap(1) acts with a right that its file gives: set-uid root, or a file capability."""
    found = os.stat(path)
    if found.st_uid == 0 and found.st_mode & stat.S_ISUID:
        return ""
    try:
        os.getxattr(path, "security.capability")
    except OSError:  # it has none, or this file system cannot hold one
        return "it is neither set-uid root nor has it a file capability"
    return ""


class Ranges(NamedTuple):
    """Subordinate ids of one user: (first, count) each, of ``file`` or of ``elsewhere``, as nsswitch.conf names it."""

    file: str
    ranges: tuple[tuple[int, int], ...]
    elsewhere: str = ""


def subordinate(file: str, name: str, uid: int, nsswitch: str = "/etc/nsswitch.conf") -> Ranges:
    """The ranges that ``file`` (subuid(5), subgid(5)) gives to the user ``name`` or ``uid``.

    Where it gives none and ``nsswitch`` has ``subid:`` with another source, getsubids(1) is asked, which reads that as
    newuidmap(1) will.
    """
    found = []
    for line in _lines(file):
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in (name, str(uid)) and fields[1].isdigit() and fields[2].isdigit():
            found.append((int(fields[1]), int(fields[2])))
    sources = [line.partition(":")[2].strip() for line in _lines(nsswitch) if line.startswith("subid:")]
    elsewhere = next((source for source in sources if source != "files"), "")
    return Ranges(file, tuple(found) or (_asked(file, name) if elsewhere else ()), elsewhere)


def _asked(file: str, name: str) -> tuple[tuple[int, int], ...]:
    """What getsubids(1) says of ``name``: lines ``INDEX: NAME FIRST COUNT``. None where it is missing or knows none."""
    if tools.find("getsubids") is None:
        return ()
    kind = ("-g",) if file.endswith("subgid") else ()
    said = tools.run("getsubids", *kind, name, why="to find subordinate ids").out
    return tuple((int(first), int(count)) for first, count in re.findall(r"^\d+: .* (\d+) (\d+)$", said, re.MULTILINE))


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:  # no such file: no entries
        return []
