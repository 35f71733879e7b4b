"""Less of the host: --contain and its kin, homes, scratch and working directories, what is left out. 7.5 and 7.6: lists
of Apptainer's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images import Program
from probes import needs
from running import Start

pytestmark = [pytest.mark.kernel, needs("userns")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a file in it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/mine").write_text("mine\n")
    return tmp_path / "home"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty directory for --workdir."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def host(**given: str) -> dict[str, str]:
    return {**os.environ, **given}


def mounted(sifkit: Program, image: Path, *words: str, **options: object) -> list[str]:
    """The mount points in a container, in order."""
    text = sifkit.ok("exec", *words, str(image), "cat", "/proc/self/mountinfo", **options)
    return [line.split(" ")[4] for line in text.splitlines()]


# -- home ------------------------------------------------------------------------------------------

SHOW = 'cat "$HOME/mine"; echo "$HOME"; pwd; tail -n 1 /etc/passwd | cut -d: -f6'


def test_a_home_of_ones_own(sifkit: Program, rootfs: Path, home: Path, tmp_path: Path) -> None:
    """7.5 custom home one-to-one, home:dest; 7.6 --home forms."""
    told = f"mine\n{home}\n{tmp_path}\n{home}\n"
    assert sifkit.ok("exec", "-H", str(home), str(rootfs), "sh", "-c", SHOW, cwd=tmp_path) == told
    told = f"mine\n/root\n{tmp_path}\n/root\n"
    assert sifkit.ok("exec", "--home", f"{home}:/root", str(rootfs), "sh", "-c", SHOW, cwd=tmp_path) == told
    told = "mine\n/srv\n/srv\n/srv\n"
    assert sifkit.ok("exec", "--contain", "--home", f"{home}:/srv", str(rootfs), "sh", "-c", SHOW) == told
    told = f"mine\n{home}\n{home}\n{home}\n"
    assert sifkit.ok("exec", "--contain", "--home", "home", str(rootfs), "sh", "-c", SHOW, cwd=tmp_path) == told


def test_a_home_that_is_nowhere_is_empty(sifkit: Program, rootfs: Path, home: Path) -> None:
    said = sifkit.ok("exec", "--home", "/not/here", str(rootfs), "sh", "-c", "cd && pwd && ls -A && touch new")
    assert said == "/not/here\n"
    for more in ((), ("-B", "/etc:/new"), ("-B", str(home)), ("-S", "/new")):  # nothing is made for it on the host
        done = sifkit("exec", "--home", f"{home}/none", *more, str(rootfs), "true")
        assert done.returncode == 255 and f"{home}/none" in done.stderr and not (home / "none").exists(), more
    done = sifkit("exec", "--home", f"{home}/none:/x", str(rootfs), "true")
    assert done.returncode == 255 and f"{home}/none" in done.stderr
    assert sifkit("exec", "--home", f"{home}:x", str(rootfs), "true").returncode == 2


def test_a_home_in_the_image_itself(sifkit: Program, tree: Path, home: Path) -> None:
    """7.5 custom home with --writable OK and KO (255)."""
    (tree / "mnt").mkdir()
    assert sifkit.ok("exec", "-w", "--home", f"{home}:/mnt", str(tree), "cat", "/mnt/mine") == "mine\n"
    assert sifkit("exec", "-w", "--home", f"{home}:/no/such", str(tree), "true").returncode == 255


def test_no_home(sifkit: Program, rootfs: Path, home: Path) -> None:
    """7.6 --no-home hides home; HOME is set all the same. Below /tmp it would be seen anyway."""
    words = ["--contain", str(rootfs), "sh", "-c", 'echo "$HOME"; ls "$HOME"']
    for without in (["--no-home"], ["--no-mount", "home"]):
        done = sifkit("exec", *without, *words, env=host(HOME="/h"))
        assert (done.returncode, done.stdout) == (1, "/h\n")


def test_the_working_directory_does_not_cover_a_home(sifkit: Program, rootfs: Path, home: Path, tmp_path: Path) -> None:
    """7.5 issue4587; 5228: a home of / is not mounted."""
    (tmp_path / "other").mkdir()
    words = ["--no-mount", "tmp", "--home", f"{home}:{tmp_path}/other", str(rootfs), "cat", "mine"]
    assert sifkit.ok("exec", *words, cwd=tmp_path / "other") == "mine\n"
    assert "/" not in mounted(sifkit, rootfs, env=host(HOME="/"))[1:]


def test_the_working_directory_is_the_physical_one(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """7.5 4768 and 4836; 4755: one that is the image's business is not shown."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    environment = host(PWD=f"{tmp_path}/link")
    assert sifkit.ok("exec", str(rootfs), "pwd", cwd=tmp_path / "link", env=environment) == f"{tmp_path}/real\n"
    assert "/usr" not in mounted(sifkit, rootfs, cwd="/usr")


# -- scratch and workdir ---------------------------------------------------------------------------


def test_scratch_directories(sifkit: Program, rootfs: Path, work: Path) -> None:
    """7.5 scratch tmpfs, scratch in workdir; 7.6 relative --workdir & --scratch."""
    script = "echo x > /s/x && echo y > /deep/r/y && grep -c ' /s tmpfs ' /proc/mounts"
    words = ["--scratch", "/s,deep/r"]
    assert sifkit.ok("exec", *words, str(rootfs), "sh", "-c", script) == "1\n"
    assert sifkit("exec", *words, "--workdir", "work", str(rootfs), "sh", "-c", script, cwd=work.parent).stdout == "0\n"
    assert (work / "scratch/s/x").read_text() == "x\n" and (work / "scratch/deep/r/y").read_text() == "y\n"
    assert sifkit("exec", "-S", "/", str(rootfs), "true").returncode == 2


def test_a_workdir_holds_what_contain_makes_empty(sifkit: Program, rootfs: Path, work: Path) -> None:
    """7.6 workdir/contain; 7.5 workdir /tmp and /var/tmp; the next run finds what this one left."""
    words = ["--contain", "-W", str(work), str(rootfs), "sh", "-c"]
    environment = host(HOME="/home/me")
    script = 'echo t > /tmp/t; echo v > /var/tmp/v; echo h > "$HOME/h"'
    sifkit.ok("exec", *words, script, env=environment)
    assert [(work / name).read_text() for name in ("tmp/t", "var_tmp/v", "home/h")] == ["t\n", "v\n", "h\n"]
    assert ((work / "tmp").stat().st_mode & 0o7777, (work / "home").stat().st_mode & 0o7777) == (0o1777, 0o700)
    assert sifkit.ok("exec", *words, 'cat /tmp/t "$HOME/h"', env=environment) == "t\nh\n"


def test_a_workdir_alone_changes_nothing(sifkit: Program, rootfs: Path, work: Path) -> None:
    """7.6 WorkdirOnly."""
    name = f"/tmp/sifkit-test-workdir-{os.getpid()}"
    try:
        sifkit.ok("exec", "--workdir", str(work), str(rootfs), "touch", name)
        assert os.path.exists(name) and os.listdir(work) == []
    finally:
        os.unlink(name)
    done = sifkit("exec", "--workdir", f"{work}/none", str(rootfs), "true")
    assert done.returncode == 255 and f"{work}/none" in done.stderr


# -- what is left out ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "gone"),
    [
        ("sys", ["/sys"]),
        ("dev", ["/dev"]),
        ("tmp", ["/tmp", "/var/tmp"]),
        ("home,cwd,tmp", ["/tmp", "HOME", "CWD"]),
        ("/etc/hosts", ["/etc/hosts"]),
        ("/etc/resolv.conf", ["/etc/resolv.conf"]),
        ("bind-paths", ["/etc/hosts", "/etc/localtime", "/configured"]),
        ("/configured", ["/configured"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_mount(sifkit: Program, rootfs: Path, home: Path, tmp_path: Path, word: str, gone: list[str]) -> None:
    """7.5 no-mount. Without /tmp the working directory and home would be mounts of their own."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "config/sifkit").mkdir(parents=True)
    (tmp_path / "config/sifkit/config.toml").write_text(f'bind = ["{home}:/configured"]\n')
    environment = host(HOME=str(home), XDG_CONFIG_HOME=f"{tmp_path}/config")
    places = {"HOME": str(home), "CWD": f"{tmp_path}/cwd"}
    found = mounted(sifkit, rootfs, "--no-mount", word, env=environment, cwd=tmp_path / "cwd")
    assert not {places.get(name, name) for name in gone} & set(found)
    expected = {"/proc", "/dev", "/sys", "/tmp", "/configured", str(home)} - {places.get(name, name) for name in gone}
    assert expected <= set(found)


def test_without_proc_a_container_still_works(sifkit: Program, rootfs: Path) -> None:
    """7.5 no-mount proc; the image's scripts are read through the host's."""
    done = sifkit("exec", "--no-mount", "proc", str(rootfs), "sh", "-c", 'echo "$IMAGE_GREETING"; ls -d /proc/self')
    assert (done.returncode, done.stdout) == (1, "hello\n")


def test_without_terminals(sifkit: Program, rootfs: Path) -> None:
    """7.5 devpts, contained."""
    said = sifkit.ok("exec", "--contain", "--no-mount", "devpts", str(rootfs), "ls", "/dev").split()
    assert "null" in said and not {"pts", "ptmx"} & set(said)


def test_an_unknown_name_is_a_warning(sifkit: Program, rootfs: Path) -> None:
    done = sifkit("exec", "--no-mount", "nonsense", str(rootfs), "true")
    assert done.returncode == 0 and "nonsense" in done.stderr


# -- all at once -----------------------------------------------------------------------------------


def test_containall_cleans_the_environment_too(sifkit: Program, rootfs: Path) -> None:
    """7.6 ContainOnly, containall."""
    script = 'ls -A /tmp /var/tmp "$HOME"; echo "[${ORDINARY-}]"'
    for words in (["-C"], ["--containall"]):
        said = sifkit.ok("exec", *words, str(rootfs), "sh", "-c", script, env=host(HOME="/h", ORDINARY="1"))
        assert said == "/h:\n\n/tmp:\n\n/var/tmp:\n[]\n"


@needs("overlayfs")
def test_compat_runs_as_docker_does(sifkit: Program, rootfs: Path) -> None:
    """7.6 --compat: empty home, / writable, umask 0022, values not evaluated."""
    script = 'umask 007; touch /new && ls -A "$HOME" /tmp && umask && echo "$V"'
    words = ["--compat", "--env", "V=$HOME", str(rootfs), "sh", "-c", script.removeprefix("umask 007; ")]
    before = sorted(rootfs.iterdir())
    assert sifkit.ok("exec", *words, umask=0o007, env=host(HOME="/h")) == "/h:\n\n/tmp:\n0022\n$HOME\n"
    assert sorted(rootfs.iterdir()) == before


@needs("overlayfs")
def test_compat_leaves_the_writes_to_an_overlay(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """Apptainer 1.4.5 refuses the two together."""
    (tmp_path / "changes").mkdir()
    sifkit.ok("exec", "--compat", "--overlay", f"{tmp_path}/changes", str(rootfs), "touch", "/kept")
    assert (tmp_path / "changes/upper/kept").exists()


def test_the_mask_is_the_callers_unless_told(sifkit: Program, rootfs: Path) -> None:
    """7.6 umask 0000 passed; --no-umask 0022."""
    assert sifkit.ok("exec", str(rootfs), "sh", "-c", "umask", umask=0) == "0000\n"
    assert sifkit.ok("exec", "--no-umask", str(rootfs), "sh", "-c", "umask", umask=0) == "0022\n"


def test_names_and_name_servers(sifkit: Program, rootfs: Path) -> None:
    words = ["--hostname", "other", "--dns", "192.0.2.1,2001:db8::1", str(rootfs), "sh", "-c"]
    said = sifkit.ok("exec", *words, "hostname; cat /etc/hostname /etc/resolv.conf")
    assert said == "other\nother\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n"
    assert os.uname().nodename != "other"
    assert sifkit("exec", "--dns", "nonsense", str(rootfs), "true").returncode == 2
    assert sifkit("exec", "--hostname", "x" * 65, str(rootfs), "true").returncode == 2


def test_only_three_descriptors_are_passed_on(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """7.5 4488; 1848: the last line of /etc/passwd is exact."""
    with (tmp_path / "kept").open("w") as kept:
        said = sifkit.ok("exec", str(rootfs), "ls", "/proc/self/fd", pass_fds=[kept.fileno()])
    assert said.split() == ["0", "1", "2", "3"]
    assert sifkit.ok("exec", str(rootfs), "tail", "-c", "1", "/etc/passwd") == "\n"


def test_a_place_that_cannot_be_mounted_is_no_reason_to_fail(sifkit: Program, tree: Path) -> None:
    """7.5 5465: /etc/hosts and /etc/localtime are something else in the image."""
    (tree / "etc/hosts").unlink(missing_ok=True)
    (tree / "etc/hosts").mkdir()
    (tree / "etc/localtime").mkdir()
    assert sifkit.ok("exec", str(tree), "echo", "runs") == "runs\n"


def test_a_plan_shows_all_in_order(sifkit: Program, rootfs: Path, home: Path, work: Path) -> None:
    words = ["--contain", "-W", str(work), "-S", "/s", "-B", f"{home}:/a/b:ro", "-B", f"{home}:/a", "--hostname", "o"]
    said = sifkit.ok("exec", "--dry-run", *words, str(rootfs), "true", env=host(HOME="/home/me"))
    parts = [f"{work}/tmp -> /tmp", f"{work}/home -> /home/me", f"{work}/scratch/s -> /s", "/etc/hostname"]
    parts += [f"{home} -> /a  ", "/a/b  ("]
    places = [said.index(part) for part in parts]
    assert places == sorted(places) and "uts" in said
    assert os.listdir(work) == []


def test_a_contained_run_leaves_nothing(start: Start, rootfs: Path, home: Path) -> None:
    running = start("exec", "--compat", "-S", "/s", "-B", f"{home}:/h", str(rootfs), "sh", "-c", "echo ready")
    assert running.end() == 0
