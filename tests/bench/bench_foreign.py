"""A base served by FUSE that belongs to another user, beside the same one owned by the caller."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import NamedTuple

import images
import setting
import work
from row import Row

MS, MICROSECOND = 0.001, 0.000001
PHASES = ("create", "delete", "untar")
WORK = f"""{work.CREATE}{work.DELETE}
tar -xf /tree.tar -C /usr/share/io
echo untar
"""
LIST = '%s echo begin; "$1"/bin/busybox ls -lR "$1"/tree > /dev/null; echo list'

# Takes each command in turn, so often, and prints the median seconds of each; where the commands are run.
IN_TURN = """
import json, statistics, subprocess, sys, time
count, commands = int(sys.argv[1]), json.loads(sys.argv[2])
taken = [[] for _ in commands]
for turn in range(count + 1):
    for times, command in zip(taken, commands):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if turn:
            times.append(time.perf_counter() - begin)
print(json.dumps([statistics.median(times) for times in taken]))
"""
BUILD = """
import contextlib, sys, time
from overlay.metalayer import layers as metalayer
class Says:
    warning = info = print
    task = staticmethod(lambda text: contextlib.nullcontext(lambda done: None))
begin = time.perf_counter()
asked = metalayer.Asked("metadata", explicit=True)
made = metalayer.obtain(metalayer.base_of(sys.argv[1]), asked, Says(), lambda tree: None)
middle = time.perf_counter()
metalayer.find(metalayer.base_of(sys.argv[1]), asked, Says())
print(middle - begin, time.perf_counter() - middle, made.record.entries, made.record.space)
"""


class Hosts(NamedTuple):
    """The same repository mounted by somebody else, and by the caller."""

    foreign: images.CvmfsHost
    own: images.CvmfsHost


def rows(quick: bool) -> Iterator[Row]:
    """The figures of this module, each as soon as it is there."""
    here = setting.here()
    made = images.CvmfsHosts(repository(here.scratch / "repository"))
    who = (here.user.pw_uid, here.user.pw_gid)
    hosts = Hosts(made.foreign(*who), made.own(*who))
    yield from writing(hosts, 2 if quick else 7)
    yield from listing(hosts.foreign, 3 if quick else 15)
    yield start(hosts, 2 if quick else 8)
    for count in (8_000,) if quick else (8_000, 200_000):
        yield from building(count)


def repository(place: Path) -> Path:
    """A squashfs file with a root file system, a tree of 8 000 entries and a tar of 20 000 files; it has a revision."""
    tree = images.make_rootfs(place)
    fill(tree / "tree", 8_000)
    with tarfile.open(tree / "tree.tar", "w") as tar:
        for number in range(20_000):
            member = tarfile.TarInfo(f"{number // 100}/{number}")
            member.size, member.mtime = 5, 10**9
            tar.addfile(member, BytesIO(b"line\n"))
    for name, value in {"fqrn": b"bench.example.org", "root_hash": b"0123456789abcdef", "revision": b"7"}.items():
        os.setxattr(tree, f"user.{name}", value)
    return images.make_squash(tree, place.with_suffix(".sqfs"), "-all-root", "-comp", "gzip")


def fill(top: Path, count: int) -> None:
    """Make ``count`` files and directories, 20 in each, with paths as long as those of a distribution."""
    for number in range(count // 20):
        directory = top / f"lib{number // 50}" / f"package-{number}"
        directory.mkdir(parents=True)
        for file in range(19):
            (directory / f"module{file}.py").write_text("pass\n")


def inside(host: images.CvmfsHost, command: list[str], phases: int) -> list[float]:
    """Seconds of each phase of ``command``, which says when one is done."""
    return work.timed(["env", *variables(), *host.command(*command)], phases)


def variables() -> list[str]:
    return [f"{name}={value}" for name, value in setting.here().environment.items()]


def sifkit() -> str:
    return str(setting.here().venv / "bin/sifkit")


def writing(hosts: Hosts, count: int) -> list[Row]:
    """Creating, deleting and unpacking inside, over the foreign base and over one's own."""
    taken: dict[str, list[list[float]]] = {"foreign": [], "own": []}
    for turn in range(count + 1):
        for whose, times in taken.items():
            host: images.CvmfsHost = getattr(hosts, whose)
            changes = str(setting.here().directory(f"{whose}-{turn}"))
            command = [sifkit(), "-q", "exec", "--overlay", changes, host.mountpoint, "sh", "-c", WORK]
            phases = inside(host, command, len(PHASES))
            if turn:
                times.append(phases)
    found = []
    for index, phase in enumerate(PHASES):
        ours, theirs = (median(run[index] for run in taken[whose]) for whose in ("foreign", "own"))
        title = f"{phase} {20 if phase == 'untar' else 10} 000 files over a foreign base"
        found.append(Row(title, ours, "own base", theirs, "<= 1.15 x", ours <= 1.15 * theirs))
    return found


def listing(host: images.CvmfsHost, count: int) -> list[Row]:
    """``ls -lR`` of 8 000 entries through a metadata layer, and on the mount itself; each on a mount of its own."""
    bare, layered, squashed = [], [], []
    options = [sifkit(), "-q", "exec", "--metadata-cache", host.mountpoint]
    slow = [sifkit(), "-q", "exec", "--foreign", "squash", "--writable-tmpfs", host.mountpoint]
    for turn in range(count + 1):
        one = inside(host, ["sh", "-c", LIST % "", "sh", host.mountpoint], 1)
        two = inside(host, [*options, "sh", "-c", LIST % "", "sh", "/"], 1)
        three = inside(host, [*slow, "sh", "-c", LIST % "", "sh", "/"], 1)
        if turn:
            bare += one
            layered += two
            squashed += three
    ours, theirs = median(layered), median(bare)
    title = "ls -lR of 8 000 entries, metadata layer"
    return [
        Row(title, ours, "bare FUSE mount", theirs, "<= 0.3 x", ours <= 0.3 * theirs),
        Row(title, ours, "squash", median(squashed), "", None),
    ]


def start(hosts: Hosts, count: int) -> Row:
    """`exec --overlay` with a cached layer; the two in turn, each several times on one mount."""
    taken: dict[str, list[float]] = {"foreign": [], "own": []}
    python = str(setting.here().venv / "bin/python")
    changes = {whose: str(setting.here().directory(f"start-{whose}")) for whose in taken}
    for _ in range(count):
        for whose, times in taken.items():
            host: images.CvmfsHost = getattr(hosts, whose)
            command = [sifkit(), "-q", "exec", "--overlay", changes[whose], host.mountpoint, "true"]
            inside_it = host.command(python, "-c", IN_TURN, "5", json.dumps([command]))
            done = images.run("env", *variables(), *inside_it, timeout=600)
            assert done.returncode == 0, done.stderr
            times += json.loads(done.stdout)
    ours, theirs = median(taken["foreign"]), median(taken["own"])
    within = ours <= theirs + 5 * MS
    return Row("exec --overlay over a foreign base, layer cached", ours, "own base", theirs, "<= 5 ms more", within)


def building(count: int) -> list[Row]:
    """Making a metadata layer of a tree on the local disk, and seeing that it still fits, per file; medians of three.

    Each in a cache of its own: ext4 looks at every inode deleted within a minute before it gives out another.
    """
    here = setting.here()
    tree = here.directory(f"tree-{count}")
    fill(tree, count)
    command = here.command(str(here.venv / "bin/python"), "-P", "-c", BUILD, str(tree))
    taken = []
    for turn in range(3):
        environment = {**here.environment, "XDG_CACHE_HOME": str(here.directory(f"layers-{count}-{turn}"))}
        done = subprocess.run(command, env=environment, cwd=here.scratch, check=True, capture_output=True, text=True)
        taken.append([float(word) for word in done.stdout.split()])
    built, looked, entries, space = map(median, zip(*taken, strict=True))
    shutil.rmtree(tree)
    each = built / entries
    return [
        Row(f"making a layer of {count} files, each", each, "", None, "<= 60 us", each <= 60 * MICROSECOND),
        Row(f"finding it, all compared ({space / entries:.0f} bytes each in du)", looked, "", None, "", None),
    ]
