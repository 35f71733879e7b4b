"""What a real program finds: directories, devices, its working directory, who it is. Variables: test_variables.py."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest
from images import Program, make_rootfs, run
from probes import needs, only_root

pytestmark = [pytest.mark.kernel, needs("userns")]


# -- where it starts -------------------------------------------------------------------------------


def where(sifkit: Program, *words: str, **options: object) -> str:
    """The working directory of a payload run with ``words``."""
    return sifkit.ok("exec", *words, "pwd", **options).rstrip("\n")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A home that is not above the tests' directories."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_the_working_directory_is_the_callers(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    assert where(sifkit, str(rootfs), cwd=tmp_path) == str(tmp_path)
    assert sifkit.ok("exec", str(rootfs), "sh", "-c", 'echo "$PWD"', cwd=tmp_path) == f"{tmp_path}\n"


def test_a_directory_that_may_not_be_read_is_no_reason_to_fail(sifkit: Program, bare: Path, tmp_path: Path) -> None:
    """B41."""
    closed = tmp_path / "closed"
    closed.mkdir()
    for mode in (0o000, 0o100, 0o400):
        script = f"cd '{closed}' && chmod {mode:o} . && exec '{sifkit.path}' exec '{bare}' pwd"
        done = run("sh", "-c", script)
        closed.chmod(0o700)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("/") and done.stderr == ""


def test_one_below_a_closed_directory_is_no_reason_to_fail(sifkit: Program, bare: Path, tmp_path: Path) -> None:
    """B41."""
    below = tmp_path / "closed/below"
    below.mkdir(parents=True)
    done = run("sh", "-c", f"cd '{below}' && chmod 000 .. && exec '{sifkit.path}' exec '{bare}' pwd")
    (tmp_path / "closed").chmod(0o700)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["--contain"], ["--writable-tmpfs"]], ids=" ".join)
def test_a_deleted_directory_is_no_reason_to_fail(
    sifkit: Program, bare: Path, tmp_path: Path, options: list[str]
) -> None:
    """B41."""
    gone = tmp_path / "gone"
    gone.mkdir()
    words = " ".join(["exec", *options, f"'{bare}'", "pwd"])
    done = run("sh", "-c", f"cd '{gone}' && rmdir '{gone}' && exec '{sifkit.path}' {words}")
    assert (done.returncode, done.stderr) == (0, "")


def test_cwd_chooses_it_and_must_exist(sifkit: Program, rootfs: Path) -> None:
    assert where(sifkit, "--cwd", "/usr/share", str(rootfs)) == "/usr/share"
    assert where(sifkit, "--pwd", "/etc", "--contain", str(rootfs)) == "/etc"
    done = sifkit("exec", "--cwd", "/nowhere", str(rootfs), "true")
    assert done.returncode == 255 and "/nowhere" in done.stderr


def test_contained_it_is_home(sifkit: Program, rootfs: Path, tmp_path: Path, elsewhere: Path) -> None:
    environment = {**os.environ, "HOME": "/home/somebody"}
    assert where(sifkit, "--contain", str(rootfs), cwd=tmp_path, env=environment) == "/home/somebody"


# -- directories and devices -----------------------------------------------------------------------


def test_home_is_there_and_can_be_left_out(sifkit: Program, rootfs: Path, elsewhere: Path) -> None:
    (elsewhere / "mine").write_text("my own")
    environment = {**os.environ, "HOME": str(elsewhere)}
    assert sifkit.ok("exec", str(rootfs), "sh", "-c", 'cat "$HOME/mine"', env=environment) == "my own"
    # Below /tmp it would be seen all the same: --contain empties that.
    without = ["exec", "--no-home", "--contain", str(rootfs), "sh", "-c", 'ls "$HOME"']
    assert sifkit(*without, env=environment).returncode != 0
    sifkit.ok("exec", str(rootfs), "sh", "-c", 'echo new > "$HOME/new"', env=environment)
    assert (elsewhere / "new").read_text() == "new\n"


def test_a_home_that_is_missing_or_odd_is_no_reason_to_fail(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    for home in (f"{tmp_path}/nowhere", "/", "relative", ""):
        assert sifkit("exec", str(rootfs), "true", env={**os.environ, "HOME": home}).returncode == 0
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    assert sifkit("exec", str(rootfs), "true", env=environment).returncode == 0


def test_the_hosts_temporary_directories_are_shared_unless_contained(
    sifkit: Program, rootfs: Path, tmp_path: Path
) -> None:
    name = f"/tmp/sifkit-test-{os.getpid()}"
    try:
        sifkit.ok("exec", str(rootfs), "touch", name)
        assert os.path.exists(name)
        assert sifkit.ok("exec", "--contain", str(rootfs), "sh", "-c", "ls -A /tmp /var/tmp") == "/tmp:\n\n/var/tmp:\n"
    finally:
        os.unlink(name)


def test_contained_directories_can_be_written(sifkit: Program, rootfs: Path) -> None:
    script = 'touch /tmp/a /var/tmp/b "$HOME/c" /dev/shm/d && ls /dev'
    said = sifkit.ok("exec", "--contain", str(rootfs), "sh", "-c", script, env={**os.environ, "HOME": "/home/me"})
    expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert set(said.split()) - {"mqueue"} == set(expected.split()) - {"mqueue"}


@pytest.mark.parametrize("options", [[], ["--contain"], ["--writable-tmpfs"]], ids=" ".join)
def test_devices_processes_and_the_system_are_there(sifkit: Program, rootfs: Path, options: list[str]) -> None:
    script = (
        "echo gone > /dev/null && head -c 4 /dev/zero | wc -c && head -c 4 /dev/urandom | wc -c && ls -d /proc/self/fd"
        " && ls -d /sys/kernel && test -c /dev/tty && test -d /dev/shm && test -e /dev/pts/ptmx && readlink /dev/fd"
    )
    said = sifkit.ok("exec", *options, str(rootfs), "sh", "-c", script)
    assert said == "4\n4\n/proc/self/fd\n/sys/kernel\n/proc/self/fd\n"


@pytest.mark.parametrize("options", [[], ["--contain"]], ids=" ".join)
def test_a_base_that_lacks_every_directory_works(sifkit: Program, bare: Path, options: list[str]) -> None:
    before = sorted(bare.rglob("*"))
    assert sifkit.ok("exec", *options, "--cwd", "/proc", str(bare), "pwd") == "/proc\n"
    assert sorted(bare.rglob("*")) == before


# -- who it is, and what the host knows ------------------------------------------------------------


def test_the_caller_is_in_passwd_and_group(sifkit: Program, rootfs: Path) -> None:
    me = pwd.getpwuid(os.getuid())
    lines = sifkit.ok("exec", str(rootfs), "cat", "/etc/passwd", env={**os.environ, "HOME": "/home/me"}).splitlines()
    assert f"{me.pw_name}:x:{me.pw_uid}:{me.pw_gid}:{me.pw_gecos}:/home/me:{me.pw_shell}" in lines
    assert sum(line.startswith(f"{me.pw_name}:") for line in lines) == 1
    assert any(line.startswith("nobody:") for line in lines)
    groups = sifkit.ok("exec", str(rootfs), "cut", "-d:", "-f3", "/etc/group").split()
    assert {str(gid) for gid in {os.getgid(), *os.getgroups()}} <= set(groups)
    assert sifkit.ok("exec", str(rootfs), "id", "-un") == f"{me.pw_name}\n"
    assert sifkit.ok("exec", str(rootfs), "id", "-u") == f"{me.pw_uid}\n"


@only_root
@needs("setpriv")
def test_a_caller_without_an_entry_gets_one(sifkit: Program) -> None:
    words = ["setpriv", "--reuid", "12345", "--regid", "12346", "--clear-groups", sifkit.path]
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    if run(*words, "--version", env=environment, cwd="/").returncode:
        pytest.skip("the program lies where other users cannot run it")
    with tempfile.TemporaryDirectory() as place:  # pytest's own are closed to others
        os.chmod(place, 0o755)
        image = make_rootfs(Path(place) / "image")
        script = "id -un; id -u; tail -n 1 /etc/passwd; tail -n 1 /etc/group"
        done = run(*words, "exec", "--contain", str(image), "sh", "-c", script, env=environment, cwd="/")
    assert done.stderr == ""
    assert done.stdout == "user12345\n12345\nuser12345:x:12345:12346::/:/bin/sh\ngroup12346:x:12346:user12345\n"


def test_the_hosts_names_and_its_time_are_known(sifkit: Program, tree: Path) -> None:
    (tree / "etc/hosts").unlink()
    for name in ("/etc/hosts", "/etc/resolv.conf", "/etc/localtime"):
        if os.path.exists(name):
            path = tree.with_name("copy")
            path.write_bytes(b"")
            done = sifkit("exec", "--bind", f"{path}:/copy", str(tree), "sh", "-c", f"cat {name} > /copy")
            assert done.returncode == 0, done.stderr
            assert path.read_bytes() == Path(name).read_bytes()
    assert not (tree / "etc/hosts").exists()


def test_runs_at_the_same_time_do_not_meet(sifkit: Program, rootfs: Path) -> None:
    once = f"'{sifkit.path}' exec --writable-tmpfs '{rootfs}' sh -c 'echo '$i' > /x; cat /x'"
    done = run("sh", "-c", f"for i in 1 2 3 4 5 6 7 8; do {once} & done; wait")
    assert sorted(done.stdout.split()) == list("12345678")
