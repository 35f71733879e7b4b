"""Odd callers, and command lines as other programs write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images import Program, run
from probes import needs, only_user

pytestmark = [pytest.mark.kernel, needs("userns")]


# -- odd ones --------------------------------------------------------------------------------------


def test_from_cron(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """A session without a terminal, no standard input at all, and hardly a variable."""
    line = f"exec setsid -w '{sifkit.path}' exec '{rootfs}' sh -c 'cat; tty; echo \"$HOME\"; echo \"$USER\"' <&-"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    done = run("sh", "-c", line, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (0, [str(tmp_path), ""]), done.stderr
    assert "Traceback" not in done.stderr
    shell = run("sh", "-c", f"exec setsid -w '{sifkit.path}' shell '{rootfs}' </dev/null", env=environment)
    assert (shell.returncode, shell.stderr) == (0, "")


@only_user
def test_a_working_directory_that_may_not_be_read(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """B41: entered while it could be, closed since, with what is above it."""
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    line = f"chmod 000 . ..; '{sifkit.path}' exec '{rootfs}' pwd; echo $?; chmod 700 '{closed}'; chmod 700 inner"
    try:
        done = run("sh", "-c", line, cwd=closed / "inner", env={**os.environ, "HOME": "/"})
    finally:
        closed.chmod(0o700)
        (closed / "inner").chmod(0o700)
    assert done.stdout.splitlines()[-1] == "0", done.stderr
    assert "Traceback" not in done.stderr


def test_programs_of_the_working_directory_are_not_run(sifkit: Program, rootfs_squash: Path, tmp_path: Path) -> None:
    """PATH=.:...: whose directory it is nobody knows, and init could not start them from elsewhere."""
    for name in ("mke2fs", "squashfuse"):
        (tmp_path / name).write_text("#!/bin/sh\ntouch ran; exit 1\n")
        (tmp_path / name).chmod(0o755)
    where = {"cwd": str(tmp_path), "env": {**os.environ, "PATH": f".:{os.environ['PATH']}"}}
    sifkit.ok("overlay", "create", "new.img", **where)
    assert sifkit.ok("exec", str(rootfs_squash), "echo", "up", **where) == "up\n"
    assert not (tmp_path / "ran").exists()


def test_an_environment_that_leaves_no_room(sifkit: Program, bare: Path, tmp_path: Path) -> None:
    """execve(2) takes a quarter of the stack's limit. What fits for us and not for the payload is one sentence."""
    (tmp_path / "more").write_text("".join(f"M{number}={'x' * 100}\n" for number in range(5_000)))
    options = f"--env-file '{tmp_path}/more' '{bare}' env"
    for stack, fits in (("8192", True), ("1024", False)):
        done = run("sh", "-c", f"ulimit -s {stack}; exec '{sifkit.path}' exec {options}")
        assert ("M4999=x" in done.stdout) == fits
        assert done.returncode == (0 if fits else 126), done.stderr
        assert ("arguments and environment are too long" in done.stderr) == (not fits)


@needs("unshare")
def test_programs_where_none_may_be(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o noexec none '{tmp_path}' && cp '{rootfs}/bin/busybox' '{tmp_path}' && "
    script += f"exec '{sifkit.path}' exec --bind '{tmp_path}:/mnt' '{rootfs}' /mnt/busybox true"
    done = run("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script)
    assert (done.returncode, "its file system is mounted noexec" in done.stderr) == (126, True), done.stderr


# -- as other programs write them ------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A task's working directory, with a script in it."""
    path = tmp_path / "work"
    path.mkdir()
    (path / ".command.sh").write_text('#!/bin/sh -ue\necho "$TMPDIR:$NXF_TASK_WORKDIR" > out.txt\npwd\n')
    return path


def give_bash(tree: Path) -> None:
    """A bash for what these lines need of it."""
    (tree / "bin/bash").write_text('#!/bin/sh\nexec /bin/sh "$@"\n')
    (tree / "bin/bash").chmod(0o755)


def test_nextflow(sifkit: Program, tree: Path, work: Path, tmp_path: Path) -> None:
    """Its wrapper: a clean environment, SINGULARITYENV_ for what goes in, the task in the bound work directory."""
    give_bash(tree)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/singularity").symlink_to(sifkit.path)
    line = (
        'set +u; env - PATH="$PATH" ${TMP:+SINGULARITYENV_TMP="$TMP"} ${TMPDIR:+SINGULARITYENV_TMPDIR="$TMPDIR"} '
        '${NXF_TASK_WORKDIR:+SINGULARITYENV_NXF_TASK_WORKDIR="$NXF_TASK_WORKDIR"} singularity exec --no-home --pid '
        f'-B "$NXF_TASK_WORKDIR" {tree} /bin/bash -c "cd $NXF_TASK_WORKDIR; /bin/bash -ue {work}/.command.sh"'
    )
    environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "TMPDIR": "/tmp", "NXF_TASK_WORKDIR": str(work)}
    done = run("sh", "-c", line, env=environment, cwd=work)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{work}\n", "")
    assert (work / "out.txt").read_text() == f"/tmp:{work}\n"


def test_snakemake(sifkit: Program, tree: Path, work: Path) -> None:
    """The rule's shell command after `set -euo pipefail`, with the project as home."""
    give_bash(tree)
    options = ["--quiet", "exec", "--home", str(work), "--bind", f"{work}:/mnt/snakemake:ro", "--cleanenv"]
    script = "set -euo pipefail;  cat /mnt/snakemake/.command.sh | grep -c TMPDIR > found.txt; pwd; echo $HOME"
    done = sifkit(*options, str(tree), "bash", "-c", script, cwd=work)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{work}\n{work}\n", "")
    assert (work / "found.txt").read_text() == "1\n"
    assert sifkit(*options, str(tree), "bash", "-c", "set -euo pipefail; false | true", cwd=work).returncode == 1


def test_cwltool(sifkit: Program, tree: Path, work: Path, tmp_path: Path) -> None:
    """Its outputs as home in a random place of the container, inputs read-only below another."""
    (tree / ".singularity.d/runscript").write_text('#!/bin/sh\nexec "$@"\n')  # as of an image built from Docker's
    (tmp_path / "tmp").mkdir()
    (tmp_path / "input.txt").write_text("an input\n")
    mount = f"--mount=type=bind,source={tmp_path}"
    done = sifkit(
        "--quiet", "run", "--contain", "--ipc", "--cleanenv", "--no-eval", "--userns", "--home", f"{work}:/kkXAtc",
        f"{mount}/tmp,target=/tmp", f"{mount}/input.txt,target=/var/lib/cwl/stg1/input.txt,readonly",
        "--pwd", "/kkXAtc", "--net", "--network", "none", str(tree), "sh", "-c",
        'cat /var/lib/cwl/stg1/input.txt > result.txt; echo "$HOME $TMPDIR $PWD"; touch /tmp/t',
        env={"PATH": os.environ["PATH"], "SINGULARITYENV_TMPDIR": "/tmp", "HOME": "/home/me"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "/kkXAtc /tmp /kkXAtc"
    assert (work / "result.txt").read_text() == "an input\n" and (tmp_path / "tmp/t").exists()


def test_a_glidein(sifkit: Program, rootfs: Path, work: Path, tmp_path: Path) -> None:
    """HTCondor's job in a glidein of the grid: the sandbox as /srv, everything else empty."""
    (tmp_path / "cvmfs/repo").mkdir(parents=True)
    done = sifkit(
        "exec", "--home", f"{work}:/srv", "--pwd", "/srv", "--bind", f"{tmp_path}/cvmfs:/cvmfs",
        "--scratch", "/var/tmp", "--scratch", "/tmp", "--contain", "--ipc", "--pid", str(rootfs), "sh", "-c",
        "pwd; ls -A /srv /cvmfs /tmp /var/tmp; echo $HOME; touch /tmp/a /var/tmp/b /srv/c; ls -d /proc/[0-9]* | wc -l",
        cwd=work,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert said[:-2] == ["/srv", "/cvmfs:", "repo", "", "/srv:", ".command.sh", "", "/tmp:", "", "/var/tmp:"]
    assert said[-2] == "/srv" and int(said[-1]) <= 4
    assert (work / "c").exists()


def test_galaxy(sifkit: Program, rootfs: Path, work: Path) -> None:
    options = ["-s", "exec", "--contain", "--cleanenv", "--ipc", "--pid", "--no-mount", "tmp", "-B", f"{work}:/data:rw"]
    done = sifkit(*options, "--pwd", "/data", str(rootfs), "sh", "-c", "pwd; touch new", cwd=work)
    assert (done.returncode, done.stdout, done.stderr) == (0, "/data\n", "")
    assert (work / "new").exists()


def test_ranks_share_memory_unless_contained(sifkit: Program, rootfs: Path) -> None:
    """MPI libraries exchange messages of one host in files of /dev/shm."""
    name = f"/dev/shm/sifkit-test-{os.getpid()}"
    try:
        sifkit.ok("exec", str(rootfs), "sh", "-c", f"echo from rank 0 > {name}")
        assert sifkit.ok("exec", "--pid", "--ipc", str(rootfs), "cat", name) == "from rank 0\n"
        assert sifkit("exec", "--contain", str(rootfs), "cat", name).returncode == 1
    finally:
        os.unlink(name)
