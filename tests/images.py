"""Images for the tests: builders, and session fixtures of what they build. Nobody writes into a
session fixture.

rootfs, rootfs_squash           a real root file system from busybox, owned by the caller
awkward, awkward_squash         one tree with every kind of file and the names that break programs
same_tree                       that tree as a directory, a squashfs and an ext3 image, one after the other
cvmfs_host                      commands run where a repository is mounted at /cvmfs, served by FUSE
sifkit                          the installed program
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import probes
import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTDATA = ROOT / "testdata"
MIB = 2**20

AWKWARD_NAMES = (
    b"with space",
    b"with\nnewline",
    b"with\ttab",
    b"with:colon",
    b"with,comma",
    b"with=equals",
    b"with\\backslash",
    b"back\\\\slashes\\",
    b'with"double',
    b"with'single",
    b"with`tick$dollar",
    b"with*star?[set]",
    b"with%percent",
    b"-rf",
    b"--help",
    b"#comment",
    b" leading",
    b"trailing ",
    b".hidden",
    b"..double",
    b"...",
    b"~",
    "ümläut-日本".encode(),
    b"not-utf8-\xff\xfe",
    b"esc\x1b[31m",
    b"n" * 255,
)


# -- builders --------------------------------------------------------------------------------------


def program(name: str) -> str:
    """The path of a program of this host; skips the test when it is missing."""
    probes.require(name)
    found = shutil.which(name, path=probes.PATH)
    assert found is not None
    return found


def make_rootfs(out: Path) -> Path:
    """A root file system from busybox, owned by the caller."""
    probes.require("busybox")
    subprocess.run([sys.executable, str(TESTDATA / "make_rootfs.py"), str(out)], check=True)
    return out


def make_squash(tree: Path, image: Path, *options: str) -> Path:
    """A squashfs of ``tree``. ``-all-root`` and the like pass through as ``options``."""
    command = [program("mksquashfs"), str(tree), str(image), "-quiet", "-no-progress", "-noappend", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return image


_EXT2 = "ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file"
FEATURES = {"ext2": _EXT2, "ext3": f"has_journal,{_EXT2}", "ext4": f"has_journal,extent,64bit,flex_bg,{_EXT2}"}


def make_ext3(image: Path, tree: Path | None = None, size: int = 64 * MIB, kind: str = "ext3") -> Path:
    """A sparse ext image of ``size`` bytes holding ``tree``, whatever the host's mke2fs.conf says."""
    with image.open("xb") as file:
        file.truncate(size)
    filled = ["-d", str(tree)] if tree else []
    command = [program("mke2fs"), "-q", "-F", "-O", f"none,{FEATURES[kind]}", "-I", "256", *filled, str(image)]
    subprocess.run(command, check=True, env={**os.environ, "MKE2FS_CONFIG": "/dev/null"})
    return image


def make_overlay_image(image: Path, upper: Path | None = None, size: int = 64 * MIB) -> Path:
    """An ext3 overlay image as Apptainer lays it out: ``upper/`` (a copy of ``upper``) and ``work/``."""
    staging = image.with_name(image.name + ".staging")
    (staging / "work").mkdir(parents=True)
    if upper is None:
        (staging / "upper").mkdir()
    else:
        shutil.copytree(upper, staging / "upper", symlinks=True)
    make_ext3(image, staging, size)
    shutil.rmtree(staging)
    return image


def make_awkward(out: Path) -> Path:
    """A tree with awkward names, every kind of file, odd modes, links, holes, attributes."""
    (out / "names").mkdir(parents=True)
    for name in AWKWARD_NAMES:
        (out / "names" / os.fsdecode(name)).write_bytes(b"content of " + name)
    _make_links(out / "links")
    _make_kinds(out / "kinds")
    _make_deep(out / "deep", levels=40)
    return out


def _make_links(out: Path) -> None:
    out.mkdir()
    (out / "target").write_text("target\n")
    (out / "hard").hardlink_to(out / "target")
    for name, text in {
        "relative": "target",
        "absolute": "/etc/passwd",
        "dangling": "no/such/file",
        "loop": "loop",
        "upwards": "../../../../../../etc/passwd",
        "directory": "../kinds",
        "long": "x" * 1000,
    }.items():
        (out / name).symlink_to(text)


def _make_kinds(out: Path) -> None:
    out.mkdir()
    os.mkfifo(out / "fifo")
    (out / "empty").touch()
    (out / "empty-directory").mkdir()
    with (out / "holes").open("wb") as file:
        file.seek(5 * MIB)
        file.write(b"end")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(out, os.O_RDONLY)  # the path itself may be too long for a socket's address
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    for name, mode in {"setuid": 0o4755, "sticky": 0o1644, "secret": 0o600, "read-only": 0o444}.items():
        (out / name).write_text(name)
        (out / name).chmod(mode)
    (out / "private").mkdir(mode=0o700)
    (out / "private/inside").write_text("inside\n")
    (out / "old").write_text("old\n")
    os.utime(out / "old", ns=(1, 1_000_000_001))
    if not probes.missing("xattr"):
        os.setxattr(out / "empty", "user.color", b"blue\0green")


def _make_deep(out: Path, levels: int) -> None:
    out.joinpath(*["level"] * levels).mkdir(parents=True)
    out.joinpath(*["level"] * levels, "bottom").write_text("bottom\n")


# -- a host with /cvmfs ----------------------------------------------------------------------------


class CvmfsHost(NamedTuple):
    """Commands run where ``image`` is mounted at ``mountpoint`` by FUSE, its files owned by uid ``owner``."""

    image: Path
    mountpoint: str
    owner: int
    uid: int
    gid: int

    def command(self, *argv: str) -> list[str]:
        """The command that runs ``argv`` there, as the user ``uid``."""
        script = str(TESTDATA / "cvmfs-host.sh")
        user = [f"AS_UID={self.uid}", f"AS_GID={self.gid}"]
        return ["env", *user, "sh", script, str(self.image), self.mountpoint, str(self.owner), *argv]

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` there to its end."""
        return run(*self.command(*argv))


class CvmfsHosts(NamedTuple):
    """Makes hosts with a repository: `foreign` to who runs the command, or `own`."""

    image: Path
    path: str = "/cvmfs/unpacked.example.org/registry.example.org/library/busybox:1.35"

    def foreign(self, uid: int | None = None, gid: int | None = None) -> CvmfsHost:
        """The files belong to another user (uid 101), as on hosts where the service account mounts CVMFS."""
        return self._host(101, uid, gid)

    def own(self, uid: int | None = None, gid: int | None = None) -> CvmfsHost:
        """The files belong to who runs the command, as where users mount CVMFS themselves."""
        return self._host(os.geteuid() if uid is None else uid, uid, gid)

    def _host(self, owner: int, uid: int | None, gid: int | None) -> CvmfsHost:
        uid = os.geteuid() if uid is None else uid
        gid = os.getegid() if gid is None else gid
        return CvmfsHost(self.image, self.path, owner, uid, gid)


# -- running ---------------------------------------------------------------------------------------


def run(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ``argv``, standard input empty, output as text; ``options`` as of subprocess.run."""
    settings: dict[str, object] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "errors": "surrogateescape",
        "timeout": 120,
        **options,
    }
    if "input" in settings:
        del settings["stdin"]
    return subprocess.run(argv, **settings)  # type: ignore[call-overload, no-any-return]


class Program(NamedTuple):
    """The installed program: call it with its arguments."""

    path: str

    def __call__(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        return run(self.path, *argv, **options)

    def ok(self, *argv: str, **options: object) -> str:
        """Run it, expect status 0, and return what it printed."""
        done = self(*argv, **options)
        assert done.returncode == 0, f"{argv}: status {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


# -- fixtures --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the images of this session are built."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="session")
def rootfs(built: Path) -> Path:
    """A real root file system, a directory owned by the caller."""
    return make_rootfs(built / "rootfs")


@pytest.fixture(scope="session")
def rootfs_squash(rootfs: Path) -> Path:
    """The same as a squashfs file, its content owned by root."""
    return make_squash(rootfs, rootfs.with_suffix(".sqfs"), "-all-root")


@pytest.fixture(scope="session")
def awkward(built: Path) -> Path:
    """The awkward tree."""
    return make_awkward(built / "awkward")


@pytest.fixture(scope="session")
def awkward_squash(awkward: Path) -> Path:
    """The awkward tree as a squashfs file."""
    return make_squash(awkward, awkward.with_suffix(".sqfs"))


@pytest.fixture(scope="session")
def awkward_ext3(awkward: Path) -> Path:
    """The awkward tree as an ext3 image."""
    return make_ext3(awkward.with_suffix(".img"), awkward)


@pytest.fixture(params=["awkward", "awkward_squash", "awkward_ext3"])
def same_tree(request: pytest.FixtureRequest) -> Path:
    """The awkward tree in each form in turn."""
    image = request.getfixturevalue(request.param)
    assert isinstance(image, Path)
    return image


@pytest.fixture(scope="session")
def cvmfs_host(rootfs_squash: Path) -> CvmfsHosts:
    """Makes hosts with the root file system on /cvmfs; needs("cvmfs-host", "squashfuse")."""
    return CvmfsHosts(rootfs_squash)


@pytest.fixture(scope="session")
def sifkit() -> Program:
    """The console script of the environment that runs the tests."""
    return Program(str(Path(sys.executable).parent / "sifkit"))
