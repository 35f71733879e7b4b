"""Writing over a base that belongs to somebody else, each way: what each may, what not, and that it is the base."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from pathlib import Path

import images
import pytest
from foreign import AsOwner, ForeignTree
from images import CvmfsHosts, Program
from probes import needs, only_user

pytestmark = [pytest.mark.kernel, only_user, needs("userns", "overlayfs", "subids")]

# Each is tried on files of its own; what must work and what is refused depends on the way.
TRIALS = {
    "append": "echo more >> /etc/os-release",
    "chmod": "chmod 600 /etc/services",
    "rename": "mv /etc/protocols /usr/renamed",
    "link": "ln /etc/shells /etc/linked",
    "replace": "echo new > /etc/n && mv /etc/n /etc/hostname && test $(cat /etc/hostname) = new",
    "delete": "rm /etc/networks && test ! -e /etc/networks",
    "new": "echo > /etc/new",
    "chmod-directory": "chmod 750 /etc && test $(stat -c %a /etc) = 750",
    "mkdir": "mkdir -p /usr/share/a/b && touch /usr/share/a/b/c",
    "rm-r": 'rm -r /usr/bin && mkdir /usr/bin && test -z "$(ls -A /usr/bin)"',
}
IN_PLACE = {"append", "chmod", "rename", "link"}


def trial_script() -> str:
    lines = [f"if ({command}) 2>/dev/null; then echo {name}; fi" for name, command in TRIALS.items()]
    return "\n".join(lines)


@pytest.fixture
def overlay(tmp_path: Path) -> str:
    (tmp_path / "overlay").mkdir()
    return str(tmp_path / "overlay")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def base(foreign_tree: ForeignTree, rootfs: Path, as_owner: AsOwner) -> Path:
    """The root file system with some more in it, of somebody else."""
    made = foreign_tree(rootfs)
    files = [f"{made}/etc/{name}" for name in ("services", "protocols", "shells", "hostname", "networks")]
    as_owner("sh", "-c", 'for file; do echo text > "$file"; done; chown 101:101 "$@"', "sh", *files)
    return made


def layers(tmp_path: Path) -> list[str]:
    return [name for name in os.listdir(tmp_path / "cache/sifkit/metadata") if not name.endswith(".lock")]


@pytest.mark.parametrize(
    ("way", "upper"),
    [
        ("metadata", "directory"),
        ("metadata", "tmpfs"),
        ("directory", "tmpfs"),
        pytest.param("squash", "directory", marks=needs("fuse-overlayfs")),
    ],
)
def test_what_each_way_may(
    sifkit: Program, base: Path, overlay: str, env: dict[str, str], way: str, upper: str
) -> None:
    changes = ["--overlay", overlay] if upper == "directory" else ["--writable-tmpfs"]
    done = sifkit("exec", "--foreign", way, *changes, str(base), "sh", "-c", trial_script(), env=env)
    refused = IN_PLACE if way == "directory" else set()
    assert set(TRIALS) - set(done.stdout.split()) == refused, done.stderr
    assert done.returncode == 0
    assert (base / "etc/networks").read_text() == "text\n"


def test_plain_takes_new_names_at_the_top(sifkit: Program, base: Path, overlay: str, env: dict[str, str]) -> None:
    script = "mkdir /new && touch /new/x && ! touch /etc/new 2>/dev/null"
    done = sifkit("exec", "--foreign", "plain", "--overlay", overlay, str(base), "sh", "-c", script, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert (Path(overlay) / "upper/new/x").exists()


def test_auto_takes_the_best_there_is(sifkit: Program, base: Path, overlay: str, env: dict[str, str]) -> None:
    def chosen(absent: str, *options: str) -> tuple[str, str]:
        command = ("exec", "--dry-run", "--json", "--overlay", overlay, *options, str(base), "true")
        plan = json.loads(sifkit.ok(*command, env={**env, "SIFKIT_DEBUG_WITHOUT": absent}))
        return plan["driver"], plan["reason"]

    driver, reason = chosen("")
    assert (driver, "metadata in a layer of yours" in reason, "will be made" in reason) == ("kernel", True, True)
    driver, reason = chosen("data_layers")
    assert (driver, "directories in a layer" in reason, "Linux 6.16" in reason) == ("kernel", True, True)
    driver, reason = chosen("upper_xattr")
    assert (driver, "no metadata: " in reason) == ("fuse-overlayfs", True)
    assert "new names only" in chosen("", "--foreign", "plain")[1]
    assert chosen("", "--foreign", "squash")[0] == "fuse-overlayfs"
    sifkit.ok("exec", "--overlay", overlay, str(base), "true", env=env)
    assert "it is in the cache" in chosen("")[1]


def test_a_way_that_cannot_be_had_is_an_error(sifkit: Program, base: Path, overlay: str, env: dict[str, str]) -> None:
    command = ("exec", "--overlay", overlay, "--foreign")
    old = {**env, "SIFKIT_DEBUG_WITHOUT": "data_layers,fuse-overlayfs"}
    done = sifkit(*command, "metadata", str(base), "true", env=old)
    assert (done.returncode, "Linux 6.16" in done.stderr) == (255, True)
    done = sifkit(*command, "squash", str(base), "true", env=old)
    assert (done.returncode, "fuse-overlayfs" in done.stderr) == (255, True)
    assert sifkit(*command, "quickly", str(base), "true", env=env).returncode == 2


SHOW = """
import hashlib, os, sys
os.chdir(sys.argv[1])
for top in sys.argv[2:]:
    for here, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(here, name)
            found = os.lstat(path)
            kind = found.st_mode & 0o170000
            shown = [oct(found.st_mode), found.st_mtime_ns]
            if kind != 0o40000:
                shown += [found.st_nlink, found.st_size]
            if kind == 0o120000:
                shown.append(os.readlink(path))
            if kind in (0o100000, 0o40000):
                marks = [n for n in os.listxattr(path) if n.startswith("user.")]
                shown += [(n, os.getxattr(path, n)) for n in sorted(marks)]
            if kind == 0o100000:
                try:
                    with open(path, "rb") as file:
                        shown.append(hashlib.sha256(file.read()).hexdigest())
                except PermissionError:
                    shown.append("unreadable")
            print(ascii(path), *map(ascii, shown))
"""
PYTHON = "/usr/bin/python3"


@pytest.mark.skipif(not os.path.exists(PYTHON), reason="the host has no python3 to look with")
@pytest.mark.parametrize("how", ["--writable-tmpfs", "--metadata-cache"])
def test_the_view_is_the_base_to_the_last_byte(
    sifkit: Program, foreign_tree: ForeignTree, awkward: Path, env: dict[str, str], how: str
) -> None:
    """Names, kinds, modes, links, sizes, times to the nanosecond, attributes, content; sockets and pipes too."""
    theirs = foreign_tree(awkward)
    tops = sorted(os.listdir(theirs))
    expected = Program(PYTHON).ok("-c", SHOW, str(theirs), *tops).splitlines()
    options = [how, "--no-home", "--bind", "/usr", "--bind", "/lib", "--bind", "/lib64", "--env", "PYTHONUTF8=1"]
    seen = sifkit("exec", *options, str(theirs), PYTHON, "-c", SHOW, "/", *tops, env=env)
    assert sorted(seen.stdout.splitlines()) == sorted(expected), seen.stderr
    assert len(expected) > 80
    assert ("/kinds/private" in seen.stderr, "/kinds/secret" in seen.stderr) == (True, True)


def test_what_is_copied_up_is_whole(sifkit: Program, base: Path, overlay: str, env: dict[str, str]) -> None:
    """No mark of the metadata layer gets into the upper, from where it would get into images."""
    script = "chmod 600 /etc/services; touch /etc/shells; echo x >> /etc/hostname; chmod 711 /usr; mv /etc/protocols /p"
    sifkit.ok("exec", "--overlay", overlay, str(base), "sh", "-c", script, env=env)
    upper = Path(overlay) / "upper"
    assert (upper / "etc/services").read_text() == "text\n"
    assert (upper / "p").read_text() == "text\n"
    for here, directories, files in os.walk(upper):
        for path in (os.path.join(here, name) for name in directories + files):
            names = set() if stat.S_ISCHR(os.lstat(path).st_mode) else set(os.listxattr(path, follow_symlinks=False))
            assert not names & {"user.overlay.metacopy", "user.overlay.redirect"}, path
    # The same changes are seen on every other way, and on the same base when it is one's own.
    check = "cat /etc/services /p; stat -c %a /etc/services"
    done = sifkit("exec", "--overlay", f"{overlay}:ro", "--foreign", "plain", str(base), "sh", "-c", check, env=env)
    assert done.stdout == "text\ntext\n600\n", done.stderr


@needs("mksquashfs", "unsquashfs")
def test_what_is_made_of_the_changes_is_whole(
    sifkit: Program, base: Path, as_owner: AsOwner, overlay: str, env: dict[str, str], tmp_path: Path
) -> None:
    """diff, export, freeze and commit of an overlay that was written over a metadata layer."""
    as_owner("chmod", "755", f"{base}/root")  # a new image has all of the base, or is not made
    sifkit.ok("exec", "--overlay", overlay, str(base), "sh", "-c", "chmod 600 /etc/services; rm /etc/shells", env=env)
    lines = sifkit.ok("overlay", "diff", "--base", str(base), overlay).splitlines()
    assert [(line.split()[0], line.split()[-1]) for line in lines if "etc/" in line] == [
        ("m", "/etc/services"), ("D", "/etc/shells")
    ]  # fmt: skip
    assert not {"metacopy", "redirect"} & set(sifkit.ok("overlay", "export", overlay).replace(".", " ").split())
    frozen, new = str(tmp_path / "frozen.sqfs"), str(tmp_path / "new.tar")
    sifkit.ok("overlay", "freeze", "-o", frozen, overlay, env=env)
    images.run("unsquashfs", "-d", f"{tmp_path}/frozen", frozen)
    assert Path(tmp_path, "frozen/etc/services").read_text() == "text\n"
    assert os.listxattr(tmp_path / "frozen/etc/services") == []
    sifkit.ok("overlay", "commit", "--base", str(base), "-o", new, overlay, env=env)
    with tarfile.open(new) as tar:
        names = {member.name.removeprefix("./"): member for member in tar.getmembers()}
        assert (names["etc/services"].size, names["etc/services"].mode) == (5, 0o600)
        assert "etc/shells" not in names
        assert not [member for member in names.values() if "overlay" in str(member.pax_headers)]


def test_overlays_lie_over_the_layer(sifkit: Program, base: Path, env: dict[str, str], tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    (lower / "etc").mkdir(parents=True)
    (lower / "etc/services").write_text("lower\n")
    options = ("--overlay", f"{lower}:ro", "--writable-tmpfs", "--bind", f"{tmp_path}:/not/there/yet")
    script = "echo more >> /etc/services; cat /etc/services /etc/shells; ls /not/there/yet/lower; stat -c %a /"
    done = sifkit("exec", *options, str(base), "sh", "-c", script, env=env)
    assert done.stdout == "lower\nmore\ntext\netc\n755\n", done.stderr


def test_a_base_that_changed_gets_a_new_layer(
    sifkit: Program, base: Path, as_owner: AsOwner, env: dict[str, str]
) -> None:
    command = ("exec", "--writable-tmpfs", str(base), "sh", "-c")
    sifkit.ok(*command, "true", env=env)
    as_owner("sh", "-c", f"echo longer than before > {base}/etc/services; touch {base}/etc/added")
    done = sifkit(*command, "cat /etc/services; ls /etc/added; echo x >> /etc/services; cat /etc/services", env=env)
    assert done.stdout == "longer than before\n/etc/added\nlonger than before\nx\n"
    assert "/etc/services" in done.stderr
    assert "has changed" in done.stderr


OUTSIDE = (b"/etc/shadow", b"/../../../../../../etc/passwd", b"/sub/link", b"/linked/passwd", b"/usr/../..", b"//etc")


def test_nothing_outside_the_base_is_reached(
    sifkit: Program, base: Path, as_owner: AsOwner, env: dict[str, str], tmp_path: Path
) -> None:
    """We look, and if we did not: the kernel follows no redirect out of the base, and no link in it."""
    as_owner("sh", "-c", f"mkdir {base}/sub; ln -s /etc/passwd {base}/sub/link; ln -s /etc {base}/linked")
    command = ("exec", "--writable-tmpfs", str(base), "sh", "-c", "cat /etc/services; stat -c %s /etc/services")
    sifkit.ok(*command, env=env)
    [name] = layers(tmp_path)
    tree = tmp_path / "cache/sifkit/metadata" / name / "tree"
    (tmp_path / "view").mkdir()
    script = f"mount -t overlay -o userxattr,lowerdir={tree}::{base} none view && cat view/etc/services"
    for target in OUTSIDE:
        os.setxattr(tree / "etc/services", "user.overlay.redirect", target)
        done = Program("unshare")("--map-root-user", "--mount", "sh", "-c", script, cwd=tmp_path)
        assert (done.returncode != 0, done.stdout) == (True, ""), target
    done = sifkit(*command, env=env)
    assert (done.stdout, "changed from outside" in done.stderr) == ("text\n5\n", True)


@needs("fuse-overlayfs")
def test_a_cache_that_cannot_be_used_costs_speed_alone(
    sifkit: Program, base: Path, overlay: str, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no directory")
    command = ("exec", "--overlay", overlay, str(base), "sh", "-c", "echo more >> /etc/services; cat /etc/services")
    done = sifkit(*command, env=env)
    assert (done.stdout, done.returncode) == ("text\nmore\n", 0), done.stderr
    assert "no metadata layer" in done.stderr


@needs("squashfuse", "cvmfs-host")
def test_a_foreign_repository(sifkit: Program, cvmfs_host: CvmfsHosts, overlay: str, env: dict[str, str]) -> None:
    """B12: EOVERFLOW or EACCES with Apptainer. The path of the base holds a colon, as on real CVMFS."""
    host = cvmfs_host.foreign()
    cache = f"XDG_CACHE_HOME={env['XDG_CACHE_HOME']}"
    script = "set -e; echo more >> /etc/os-release; rm -r /usr; mkdir /usr; echo own > /usr/own"
    command = ("env", cache, sifkit.path, "exec", "--overlay", overlay, host.mountpoint, "sh", "-c")
    done = host.run(*command, script)
    assert (done.returncode, done.stderr) == (0, "")
    done = host.run(*command, "tail -n 1 /etc/os-release; ls /usr")
    assert done.stdout == "more\nown\n", done.stderr
