"""What a real program finds: variables, directories, devices, its working directory, who it is."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from pathlib import Path

import pytest
from images import Program, make_rootfs, run
from probes import needs, only_root

pytestmark = [pytest.mark.kernel, needs("userns")]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system to change."""
    return make_rootfs(tmp_path / "image")


@pytest.fixture
def bare(tree: Path) -> Path:
    """One without a shell: two programs and nothing that is usually there."""
    busybox = tree.with_name("busybox")
    shutil.copy(tree / "bin/busybox", busybox)
    shutil.rmtree(tree)
    (tree / "bin").mkdir(parents=True)
    for name in ("env", "pwd"):
        shutil.copy(busybox, tree / "bin" / name)
    return tree


def variables(text: str) -> dict[str, str]:
    """The output of ``env -0``."""
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def env_of(sifkit: Program, *words: str, **options: object) -> dict[str, str]:
    """The variables of a payload run with ``words``."""
    return variables(sifkit.ok("exec", *words, "env", "-0", **options))


# -- variables -------------------------------------------------------------------------------------


def test_the_path_is_the_images_usual_one(sifkit: Program, rootfs: Path) -> None:
    found = env_of(sifkit, str(rootfs), env={**os.environ, "PATH": "/host/only:" + os.environ["PATH"]})
    assert found["PATH"] == DEFAULT_PATH
    assert found["USER_PATH"].startswith("/host/only:")


def test_scripts_of_the_image_are_sourced_in_order(sifkit: Program, rootfs: Path) -> None:
    found = env_of(sifkit, str(rootfs))
    assert (found["IMAGE_ORDER"], found["IMAGE_GREETING"]) == ("1090", "hello")


def test_the_image_wins_over_the_host_and_env_over_the_image(sifkit: Program, rootfs: Path) -> None:
    host = {**os.environ, "IMAGE_GREETING": "of the host"}
    assert env_of(sifkit, str(rootfs), env=host)["IMAGE_GREETING"] == "hello"
    assert env_of(sifkit, "--env", "IMAGE_GREETING=given", str(rootfs), env=host)["IMAGE_GREETING"] == "given"


def test_of_two_the_later_wins_and_empty_is_a_value(sifkit: Program, rootfs: Path) -> None:
    found = env_of(sifkit, "--env", "A=1", "--env", "A=2", "--env", "B=", str(rootfs))
    assert (found["A"], found["B"]) == ("2", "")


AWKWARD = {
    "NEWLINES": "one\ntwo\n",
    "QUOTES": "'\"'''",
    "SHELL_TEXT": "$(id) `id` $HOME ${HOME} \\$UID \\\\ \\n * ~ ! # ; | &",
    "EQUALS": "a=b=c",
    "SPACES": "  leading and trailing  ",
    "UNICODE": "ü日",
    "NOT_TEXT": "\udcff\udcfe",
}


@pytest.mark.parametrize("how", ["host", "--env"])
def test_values_arrive_exactly(sifkit: Program, rootfs: Path, how: str) -> None:
    given = [f"--env={name}={value}" for name, value in AWKWARD.items()] if how == "--env" else []
    host = {**os.environ, **({} if given else AWKWARD)}
    found = env_of(sifkit, *given, str(rootfs), env=host)
    assert {name: found[name] for name in AWKWARD} == AWKWARD


def test_the_hosts_variables_pass_but_those_that_must_not(sifkit: Program, rootfs: Path) -> None:
    host = {
        **os.environ, "ORDINARY": "yes", "LD_LIBRARY_PATH": "/host/lib", "SIFKIT_X": "1", "APPTAINER_X": "1",
        "SINGULARITYENV_X": "1", "BASH_FUNC_f%%": "() { :; }", "odd-name": "1",
    }  # fmt: skip
    found = env_of(sifkit, str(rootfs), env=host)
    assert found["ORDINARY"] == "yes"
    assert not {"LD_LIBRARY_PATH", "SIFKIT_X", "APPTAINER_X", "BASH_FUNC_f%%", "odd-name"} & set(found)


def test_pythons_own_locale_is_not_passed_on(sifkit: Program, rootfs: Path) -> None:
    """PEP 538: where none is set Python sets LC_CTYPE, and images without C.UTF-8 would warn of it."""
    assert "LC_CTYPE" not in sifkit.ok("exec", str(rootfs), "env", env={})
    own = {"LC_CTYPE": "C.UTF-8"}
    assert "LC_CTYPE=C.UTF-8\n" in sifkit.ok("exec", str(rootfs), "env", env=own)


def test_cleanenv_passes_only_terminal_and_proxies(sifkit: Program, rootfs: Path) -> None:
    host = {**os.environ, "ORDINARY": "yes", "TERM": "dumb", "https_proxy": "http://p", "LANG": "de_DE.UTF-8"}
    found = env_of(sifkit, "--cleanenv", "--env", "GIVEN=1", str(rootfs), env=host)
    assert "ORDINARY" not in found
    assert (found["TERM"], found["https_proxy"], found["LANG"], found["GIVEN"]) == ("dumb", "http://p", "C", "1")
    assert (found["PATH"], found["IMAGE_GREETING"]) == (DEFAULT_PATH, "hello")


def test_the_payload_is_told_where_it_is(sifkit: Program, rootfs: Path) -> None:
    found = env_of(sifkit, str(rootfs))
    assert found["APPTAINER_CONTAINER"] == found["SIFKIT_CONTAINER"] == str(rootfs)
    assert found["APPTAINER_NAME"] == rootfs.name


def test_a_large_environment_passes_and_a_larger_one_is_one_sentence(sifkit: Program, bare: Path) -> None:
    large = {f"LARGE_{number}": "x" * 100_000 for number in range(10)}
    assert env_of(sifkit, str(bare), env={**os.environ, **large})["LARGE_9"] == "x" * 100_000
    done = sifkit("exec", "--env", "HUGE=" + "x" * 131_000, str(bare), "env", "X" * 100)
    assert done.returncode != 255 and "Traceback" not in done.stderr


def test_an_image_without_a_shell_runs(sifkit: Program, bare: Path) -> None:
    found = env_of(sifkit, "--env", "GIVEN=a b", str(bare))
    assert (found["GIVEN"], found["PATH"]) == ("a b", DEFAULT_PATH)


def test_an_image_with_scripts_and_no_shell_runs(sifkit: Program, bare: Path) -> None:
    (bare / ".singularity.d/env").mkdir(parents=True)
    (bare / ".singularity.d/env/10-base.sh").write_text("export SOURCED=1\n")
    assert "SOURCED" not in env_of(sifkit, str(bare))


def test_a_broken_script_of_the_image_does_not_stop_the_payload(sifkit: Program, tree: Path) -> None:
    (tree / ".singularity.d/env/50-odd name.sh").write_text("false\nunset NO_SUCH\nexport ODD=1\n")
    (tree / ".singularity.d/env/60-directory.sh").mkdir()
    assert env_of(sifkit, str(tree))["ODD"] == "1"


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
    found = env_of(sifkit, str(rootfs), cwd=tmp_path)
    assert found["PWD"] == str(tmp_path)


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


# -- binds -----------------------------------------------------------------------------------------


def test_a_bind_can_be_written_and_one_with_ro_cannot(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    words = ["--bind", f"{tmp_path}/shown:/data", "--bind", f"{tmp_path}/shown:/opt/deep/read:ro"]
    script = "echo kept > /data/file && cat /opt/deep/read/file && ! touch /opt/deep/read/file /opt/deep/read/new"
    assert sifkit.ok("exec", *words, str(rootfs), "sh", "-c", script) == "kept\n"
    assert os.listdir(tmp_path / "shown") == ["file"]


def test_read_only_holds_for_what_is_mounted_below(sifkit: Program, rootfs: Path) -> None:
    """/dev/shm is a file system of its own on every host."""
    name = f"sifkit-test-{os.getpid()}"
    script = f"touch /host/shm/{name}; echo $?; ! test -e /host/shm/{name}"
    done = sifkit("exec", "--bind", "/dev:/host:ro", str(rootfs), "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "Read-only file system" in done.stderr


def test_a_file_can_be_bound_and_a_later_bind_covers_a_shallower(
    sifkit: Program, rootfs: Path, tmp_path: Path
) -> None:
    (tmp_path / "a/inner").mkdir(parents=True)
    (tmp_path / "file").write_text("file")
    words = ["-B", f"{tmp_path}/file:/data/inner/file", "-B", f"{tmp_path}/a:/data", "-B", f"{tmp_path}/file:/etc/motd"]
    (tmp_path / "a/inner/file").write_text("hidden")
    assert sifkit.ok("exec", *words, str(rootfs), "cat", "/data/inner/file", "/etc/motd") == "filefile"
    assert (tmp_path / "a/inner/file").read_text() == "hidden"


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
