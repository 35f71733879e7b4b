"""The exit status: the payload's own, 126 and 127 as shells have them, 2 for a wrong command line, 255 for ours."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from images import Program, make_rootfs, run
from probes import needs

pytestmark = [pytest.mark.kernel, needs("userns")]

USAGE, NOT_EXECUTABLE, NOT_FOUND, OURS = 2, 126, 127, 255


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system without environment scripts, whose programs are started without a shell."""
    tree = make_rootfs(tmp_path_factory.mktemp("plain") / "plain")
    for script in (tree / ".singularity.d/env").iterdir():
        script.unlink()
    (tree / ".singularity.d/env").rmdir()
    add_unusual(tree)
    return tree


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with environment scripts."""
    tree = make_rootfs(tmp_path_factory.mktemp("scripted") / "scripted")
    add_unusual(tree)
    return tree


def add_unusual(tree: Path) -> None:
    """Files that are no programs."""
    (tree / "usr/bin/closed").write_text("#!/bin/sh\nexit 0\n")
    (tree / "usr/bin/closed").chmod(0o644)
    for name, text in {"orphan": "#!/no/such/interpreter\n", "rubbish": "\0\0\0"}.items():
        (tree / "usr/bin" / name).write_text(text)
        (tree / "usr/bin" / name).chmod(0o755)


@pytest.fixture(params=["plain", "scripted"])
def image(request: pytest.FixtureRequest) -> str:
    """Both, for they start programs in different ways."""
    return str(request.getfixturevalue(request.param))


def refused(done: subprocess.CompletedProcess[str], status: int) -> str:
    """What was said on standard error by a run that ended with ``status``, and with no traceback."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    return done.stderr


@pytest.mark.parametrize("status", [0, 1, 2, 42, 126, 127, 255])
def test_it_is_the_payloads_own(sifkit: Program, image: str, status: int) -> None:
    done = sifkit("exec", image, "sh", "-c", f"exit {status}")
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize("name", ["KILL", "ABRT", "TERM", "SEGV", "INT", "PIPE", "USR1"])
def test_a_signal_that_ended_the_payload_is_128_and_its_number(sifkit: Program, image: str, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    assert sifkit("exec", image, "sh", "-c", f"ulimit -c 0; kill -{name} $$").returncode == 128 + number


def test_a_program_ended_by_a_signal_is_not_taken_for_our_end(sifkit: Program, image: str) -> None:
    done = sifkit("exec", image, "sh", "-c", "sh -c 'kill -KILL $$'; echo $?; exit 3")
    assert (done.returncode, done.stdout) == (3, "137\n")


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program", "/bin/sh/inside"])
def test_a_program_that_is_not_there_is_127(sifkit: Program, image: str, name: str) -> None:
    """B25: not 255."""
    assert name in refused(sifkit("exec", image, name, "argument"), NOT_FOUND)


@pytest.mark.parametrize("name", ["/usr", "/usr/bin/closed", "closed", "/usr/bin/orphan", "orphan", "/usr/bin/rubbish"])
def test_a_program_that_cannot_be_executed_is_126(sifkit: Program, image: str, name: str) -> None:
    """B25: not 255. A script whose interpreter is missing is there, and cannot be executed."""
    if os.path.basename(name) == "rubbish" and "scripted" in image:
        pytest.skip("the image's shell reads it as a script")
    assert name in refused(sifkit("exec", image, name), NOT_EXECUTABLE)


def test_a_directory_is_said_to_be_one(sifkit: Program, image: str) -> None:
    assert "Is a directory" in refused(sifkit("exec", image, "/usr"), NOT_EXECUTABLE)


def test_what_is_not_executable_does_not_hide_what_is_later_in_the_path(sifkit: Program, plain: Path) -> None:
    (plain / "usr/sbin").mkdir()
    (plain / "usr/sbin/ls").write_text("not executable")
    assert sifkit("exec", str(plain), "ls", "/usr/sbin").stdout == "ls\n"


@pytest.mark.parametrize(
    "given",
    [
        ["--writable", "--overlay", "{dir}"],
        ["--writable", "--overlay", "{dir}:ro"],
        ["--writable", "--writable-tmpfs"],
        ["--writable-tmpfs", "--overlay", "{dir}"],
        ["--overlay", "{dir}", "--overlay", "{other}"],
        ["--overlay", "{dir}:foo"],
        ["--overlay", "{dir}:"],
        ["--tmpfs-size", "64M"],
        ["--writable-tmpfs", "--tmpfs-size", "much"],
        ["--writable-tmpfs", "--tmpfs-size", "0"],
        ["--wait-lock", "long"],
        ["--json"],
        ["--create-dir", "x"],
        ["--create-dir", "../x", "--writable-tmpfs"],
        ["--bind", "{dir}:relative"],
        ["--bind", "{dir}:/mnt:rx"],
        ["--bind", "{dir}:/mnt:ro:ro"],
        ["--bind", ":/mnt"],
        ["--env", "no-assignment"],
        ["--env", "=value"],
        ["--cwd", "relative"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_2(sifkit: Program, plain: Path, tmp_path: Path, given: list[str]) -> None:
    """B8: an unknown suffix does not mean writable."""
    for name in ("dir", "other"):
        (tmp_path / name).mkdir()
    words = [word.format(dir=tmp_path / "dir", other=tmp_path / "other") for word in given]
    refused(sifkit("exec", *words, str(plain), "true"), USAGE)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["dir", "other"]


@pytest.mark.parametrize("words", [["exec"], ["exec", "image"], ["shell"], ["run"], ["no-such-command"], ["--wait"]])
def test_a_command_line_that_lacks_something_is_2(sifkit: Program, words: list[str]) -> None:
    refused(sifkit(*words), USAGE)


def test_our_own_failures_are_255(sifkit: Program, plain: Path, tmp_path: Path) -> None:
    image = str(plain)
    (tmp_path / "file").write_text("no image")
    (tmp_path / "empty").mkdir()
    for words in (
        ["exec", f"{tmp_path}/no-such-image", "true"],
        ["exec", f"{tmp_path}/file", "true"],
        ["exec", "--overlay", f"{tmp_path}/no-such-overlay", image, "true"],
        ["exec", "--overlay", f"{tmp_path}/file", image, "true"],
        ["exec", "--bind", f"{tmp_path}/no-such-source", image, "true"],
        ["exec", "--bind", f"{tmp_path}/file:/etc", image, "true"],
        ["exec", "--cwd", "/no/such/directory", image, "true"],
    ):
        refused(sifkit(*words), OURS)


def test_an_empty_image_has_no_shell(sifkit: Program, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no shell" in refused(sifkit("shell", f"{tmp_path}/empty"), NOT_FOUND)


def test_a_directory_without_upper_is_not_written_into(sifkit: Program, plain: Path, tmp_path: Path) -> None:
    """B10: its content would be hidden."""
    (tmp_path / "content").write_text("kept")
    assert "hidden" in refused(sifkit("exec", "--overlay", f"{tmp_path}:rw", str(plain), "true"), OURS)
    done = sifkit("exec", "--overlay", str(tmp_path), str(plain), "cat", "/content")
    assert (done.returncode, done.stdout) == (0, "kept")
    assert done.stderr.count("\n") == 1 and "WARNING" in done.stderr


def test_silence_is_silent_and_keeps_the_status(sifkit: Program, image: str) -> None:
    done = sifkit("-s", "exec", f"{image}/nowhere", "true")
    assert (done.returncode, done.stdout, done.stderr) == (OURS, "", "")
    assert sifkit("exec", "-s", "/nowhere", "true").stderr == ""


AWKWARD_ARGUMENTS = ["", " ", "two words", "new\nline", "'", '"', "\\", "$HOME", "*", "-n", "--", "ü", "`id`", ""]


def test_arguments_arrive_as_they_were_given(sifkit: Program, image: str) -> None:
    script = 'for word; do printf "<%s>" "$word"; done'
    expected = "".join(f"<{word}>" for word in AWKWARD_ARGUMENTS)
    assert sifkit.ok("exec", image, "sh", "-c", script, "sh", *AWKWARD_ARGUMENTS) == expected
    assert sifkit.ok("run", image, "  a  b ", "c") == "runscript:   a  b  c\n"


def test_arguments_that_are_not_text_arrive(sifkit: Program, image: str) -> None:
    done = subprocess.run(
        [sifkit.path, "exec", image, b"printf", b"%s", b"\xff\xfe"],
        stdin=subprocess.DEVNULL, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == b"\xff\xfe"


def test_options_behind_the_image_are_the_payloads(sifkit: Program, image: str) -> None:
    assert sifkit.ok("exec", image, "echo", "--help", "-w", "--overlay", "x", "--", "-q") == (
        "--help -w --overlay x -- -q\n"
    )
    assert sifkit.ok("shell", image, "-c", "echo $0 $1", "--bind", "--version") == "--bind --version\n"
    assert sifkit.ok("run", image, "--help") == "runscript: --help\n"


@pytest.mark.parametrize("status", [0, 1, 7])
def test_a_shell_reads_its_commands_from_standard_input(sifkit: Program, image: str, status: int) -> None:
    done = sifkit("shell", image, input=f"echo here\nexit {status}\n")
    assert (done.returncode, done.stdout) == (status, "here\n")


def test_a_bad_command_in_a_shell_is_127(sifkit: Program, image: str) -> None:
    assert sifkit("shell", image, input="no-such-command\n").returncode == 127


def test_output_reaches_a_pipe_and_its_closed_end_is_noticed(sifkit: Program, image: str) -> None:
    done = run("sh", "-c", f"'{sifkit.path}' exec '{image}' yes | head -n 2", timeout=30)
    assert (done.stdout, done.stderr) == ("y\ny\n", "")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
def test_the_umask_is_the_callers(sifkit: Program, image: str, umask: int) -> None:
    done = sifkit("exec", image, "sh", "-c", "umask", umask=umask)
    assert done.stdout == f"{umask:04o}\n"


def test_limits_of_the_caller_hold_for_the_payload(sifkit: Program, image: str) -> None:
    done = run("sh", "-c", f"ulimit -n 64; exec '{sifkit.path}' exec '{image}' sh -c 'ulimit -n'")
    assert done.stdout == "64\n"


def test_closed_standard_streams_are_no_reason_to_fail(sifkit: Program, image: str, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    inside = "test ! -e /proc/self/fd/9; echo done > /done"
    command = f"exec '{sifkit.path}' exec --overlay {tmp_path}/o '{image}' sh -c '{inside}' <&- >&- 2>&-"
    assert run("sh", "-c", command).returncode == 0
    assert (tmp_path / "o/upper/done").read_text() == "done\n"
