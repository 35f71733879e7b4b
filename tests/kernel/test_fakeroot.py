"""--fakeroot: root of a user namespace, with subordinate ids and without."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from images import Program, make_overlay_image, run
from probes import IS_ROOT, needs, only_root, only_user
from running import Start

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs")]

ALONE = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "subids"}


@only_user
@needs("subids")
def test_root_with_all_that_belongs_to_it(sifkit: Program, rootfs: Path) -> None:
    """3502: whoami is root."""
    script = "whoami; id -u; id -g; echo $HOME; cat /proc/self/setgroups; grep -E 'CapEff|NoNewPrivs' /proc/self/status"
    said = sifkit.ok("exec", "--fakeroot", str(rootfs), "sh", "-c", script).split()
    assert said[:5] == ["root", "0", "0", "/root", "allow"]
    assert int(said[6], 16) & 0xFFFF and said[8] == "0"


@only_user
@needs("subids")
def test_other_users_are_there(sifkit: Program, rootfs: Path, overlay_dir: Path) -> None:
    """chown, and files that root reads whoever they belong to."""
    script = """set -e
    mkdir -m 700 /private; echo secret > /private/file; chown -R 33:34 /private
    cat /private/file; stat -c %u:%g /private
    """
    overlay = ("--overlay", str(overlay_dir))
    assert sifkit.ok("exec", "-f", *overlay, str(rootfs), "sh", "-c", script) == "secret\n33:34\n"
    found = os.lstat(overlay_dir / "upper/private")
    assert found.st_uid != os.getuid() and found.st_uid > 1000
    # Without it the overlay is read as far as its owners allow, and written beside that.
    rest = sifkit.ok("exec", *overlay, str(rootfs), "sh", "-c", "cat /private/file || >/own; id -u")
    assert rest == f"{os.getuid()}\n"
    again = sifkit.ok("exec", "-f", *overlay, str(rootfs), "sh", "-c", "stat -c %u /own; rm -r /private /own; echo ok")
    assert again == "0\nok\n"


@needs(*() if IS_ROOT else ("subids",))
@pytest.mark.parametrize("over", ["--overlay", "--writable-tmpfs"])
def test_a_strict_umask_keeps_no_user_of_the_container_out(
    sifkit: Program, rootfs: Path, tmp_path: Path, over: str
) -> None:
    (tmp_path / "new").mkdir()
    options = ["--overlay", f"{tmp_path}/new"] if over == "--overlay" else [over]
    options += ["--fakeroot", "--no-mount", "home,cwd", "--bind", f"{tmp_path}:/opt/a/b"]
    script = "umask; cd /; su -s /bin/sh nobody -c 'umask; ls -d /opt/a/b; test -r /etc/resolv.conf && echo known'"
    said = sifkit.ok("exec", *options, str(rootfs), "sh", "-c", script, umask=0o077)
    assert said == "0077\n0077\n/opt/a/b\nknown\n"


@only_user
def test_without_subordinate_ids_root_is_alone(sifkit: Program, rootfs: Path) -> None:
    script = "id -u; cat /proc/self/setgroups; mkdir -m 0 /etc/denied && ls /etc/denied; chown 33 /etc/x || echo no"
    done = sifkit("exec", "-f", "--writable-tmpfs", str(rootfs), "sh", "-c", script, env=ALONE)
    assert done.stdout == "0\ndeny\nno\n"
    assert done.stderr.count("WARNING: --fakeroot has root alone") == 1


@only_user
def test_contained_home_is_empty_and_roots(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """7.5 5211: the host's home is not in /root, HOME=/root."""
    (tmp_path / "mine").touch()
    words = ["-f", "-c", str(rootfs), "sh", "-c", 'echo "$HOME"; ls -A /root; touch /root/x && ls /root']
    assert sifkit.ok("exec", *words, env={**os.environ, "HOME": str(tmp_path)}) == "/root\nx\n"
    assert os.listdir(tmp_path) == ["mine"]


@only_user
@needs("subids")
def test_set_uid_programs_work(sifkit: Program, rootfs: Path) -> None:
    script = """chmod 4755 /bin/busybox; sed -i 's/^root:[^:]*:/root::/' /etc/passwd
    printf 'u:x:33:33::/:/bin/sh\\n' >> /etc/passwd; su u -c 'id -u; su -c "id -u"'"""
    command = ("--writable-tmpfs", str(rootfs), "sh", "-c", script)
    assert sifkit.ok("exec", "--fakeroot", *command) == "33\n0\n"


@only_user
@needs("subids", "debugfs")
def test_ext3_overlays_hold_the_ids_of_the_container(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """As Apptainer's do: what was made with --fakeroot belongs to 0, and can be changed without, and back."""
    image = str(make_overlay_image(tmp_path / "over.img"))
    command = ("--overlay", image, str(rootfs), "sh", "-c")
    sifkit.ok("exec", "-f", *command, "mkdir /d; echo a >/d/root; echo b >/d/other; chmod 600 /d/*; chown 33 /d/other")
    listed = sifkit.ok("overlay", "ls", "-l", image, "d")
    assert re.search(r" 0 +0 .*root\n", listed) and re.search(r" 33 +0 .*other\n", listed)
    script = "cat /d/root /d/other; echo c >> /d/other; stat -c %u /d/other"
    assert sifkit.ok("exec", *command, script) == f"a\nb\n{os.getuid()}\n"
    assert sifkit.ok("exec", "-f", *command, "cat /d/root /d/other; rm -r /d; ls /").startswith("a\nb\nc\n")
    assert sifkit("overlay", "ls", image, "d").returncode == 1


@only_user
@needs("subids")
def test_dry_run_shows_the_ids(sifkit: Program, rootfs: Path) -> None:
    said = sifkit.ok("exec", "-f", "--dry-run", str(rootfs), "true")
    assert f"id          uid 0: {os.getuid()} of the host\n" in said
    assert re.search(r"id          gid 1 to \d+: \d+ to \d+ of the host\n", said)


@only_root
def test_root_is_root_already(sifkit: Program, rootfs: Path) -> None:
    done = sifkit("-v", "exec", "-f", str(rootfs), "id", "-u")
    assert (done.stdout, done.returncode) == ("0\n", 0)
    assert "you are root already" in done.stderr


@pytest.fixture
def left(sifkit: Program, rootfs: Path, overlay_dir: Path) -> Path:
    """A directory overlay with a closed directory of a subordinate id."""
    script = "mkdir -m 700 /private; echo secret > /private/file; chown -R 33:34 /private; rm /bin/ls"
    sifkit.ok("exec", "-f", "--overlay", str(overlay_dir), str(rootfs), "sh", "-c", script)
    assert not os.access(overlay_dir / "upper/private", os.R_OK)
    return overlay_dir


@only_user
@needs("subids", "mksquashfs", "unsquashfs")
def test_what_belongs_to_subordinate_ids_is_seen(sifkit: Program, left: Path, tmp_path: Path) -> None:
    """Without a --fakeroot run: the commands enter its namespace themselves."""
    assert sifkit.ok("overlay", "ls", "-R", str(left)).split() == ["bin", "private", "private/file"]
    assert re.search(r"A file +7 /private/file\nD|A file +7 /private/file\n", sifkit.ok("overlay", "diff", str(left)))
    assert sifkit.ok("overlay", "cat", str(left), "private/file") == "secret\n"
    frozen = tmp_path / "frozen.sqfs"
    sifkit.ok("overlay", "freeze", "-o", str(frozen), "--base", "none", str(left))
    listed = run("unsquashfs", "-lln", str(frozen)).stdout
    assert re.search(r"33/34 +7 .*private/file", listed), listed
    assert os.stat(frozen).st_uid == os.getuid()


@only_user
@needs("subids")
def test_owners_are_those_of_the_inside_wherever_they_are_shown(sifkit: Program, left: Path) -> None:
    """Also of what could be read without: /bin is the caller's."""
    (left / "upper/a file of the caller").touch()
    told = {each["path"]: each for each in json.loads(sifkit.ok("overlay", "diff", "--json", str(left)))}
    assert [(told[name]["uid"], told[name]["gid"]) for name in ("/a file of the caller", "/private/file")] == [
        (0, 0),
        (33, 34),
    ]
    assert re.search(
        r" 0 +0 .*a file of the caller\n(.*\n)*.* 33 +34 .*private\n", sifkit.ok("overlay", "ls", "-l", str(left))
    )
    assert json.loads(sifkit.ok("overlay", "diff", "--stat", "--json", str(left)))["bytes"] == len("secret\n")


@only_user
@needs("subids")
def test_what_the_caller_closed_is_open_to_root_of_the_inside(sifkit: Program, left: Path) -> None:
    """The closed directory comes first, what tells that there are subordinate ids later."""
    closed = left / "upper/a"
    (closed / "b").mkdir(parents=True)
    closed.chmod(0)
    (left / "upper/private").rename(left / "upper/z")
    said = {words: sifkit("overlay", *words, str(left)) for words in (("diff",), ("diff", "--stat"), ("ls", "-R"))}
    assert [(done.returncode, done.stderr) for done in said.values()] == [(0, "")] * 3
    assert [line.split()[-1] for line in said["diff",].stdout.splitlines() if line[0] == "A"] == [
        "/a", "/a/b", "/bin", "/z", "/z/file",
    ]  # fmt: skip
    assert said["ls", "-R"].stdout.split() == ["a", "a/b", "bin", "z", "z/file"]


@only_user
@needs("subids")
def test_all_of_it_becomes_the_callers(sifkit: Program, left: Path) -> None:
    said = sifkit.ok("overlay", "chown", "--to", "me", str(left))
    assert said.endswith("2 changed, all of it belongs to you\n")
    assert (left / "upper/private/file").read_text() == "secret\n"
    assert os.lstat(left / "upper/private").st_uid == os.getuid()


@only_user
@needs("subids")
def test_it_is_removed_by_one_command(sifkit: Program, left: Path) -> None:
    assert sifkit("overlay", "remove", str(left)).returncode == 2  # nobody to ask
    sifkit.ok("overlay", "remove", "--yes", str(left))
    assert not left.exists()


def test_what_is_no_overlay_is_not_removed(sifkit: Program, tmp_path: Path) -> None:
    (tmp_path / "project/upper").mkdir(parents=True)
    (tmp_path / "project/thesis.tex").write_text("years")
    done = sifkit("overlay", "remove", "-y", str(tmp_path / "project"))
    assert done.returncode == 255 and "thesis.tex" in done.stderr
    assert sifkit("overlay", "remove", "-y", str(tmp_path / "project/upper")).returncode == 255
    (tmp_path / "project/thesis.tex").unlink()
    sifkit.ok("overlay", "remove", "-y", str(tmp_path / "project"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_use_is_not_removed(sifkit: Program, start: Start, rootfs: Path, overlay_dir: Path) -> None:
    running = start("exec", "--overlay", str(overlay_dir), str(rootfs), "sh", "-c", "echo up; sleep 1000")
    running.expect("up")
    done = sifkit("overlay", "remove", "-y", str(overlay_dir))
    assert done.returncode == 255 and f"{running.pid}" in done.stderr
    running.signal(signal.SIGTERM)
    running.end()
