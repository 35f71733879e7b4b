"""On a terminal: Ctrl-C, Ctrl-Z and fg, the window's size, the prompt, hanging up; with a real shell around us."""

from __future__ import annotations

import contextlib
import os
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from images import Program
from probes import needs
from running import Terminal, children, status, wait_for

pytestmark = [pytest.mark.kernel, needs("userns")]

CTRL_C, CTRL_D, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x04", "\x1a", "\x1c"

isolated = pytest.mark.parametrize("option", ["", "--pid", "--pid --no-init"])

Open = Callable[..., Terminal]


@pytest.fixture
def terminal(sifkit: Program) -> Iterator[Open]:
    """Open a terminal with a command on it, or with an interactive bash where ``sifkit`` is the program."""
    opened: list[Terminal] = []

    def open_one(*argv: str, **size: int) -> Terminal:
        path = f"{os.path.dirname(sifkit.path)}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PS1": "outer> ", "TERM": "dumb"}
        words = argv or ("bash", "--norc", "--noprofile", "--noediting", "-i")
        opened.append(Terminal(*words, env=environment, **size))
        return opened[-1]

    try:
        yield open_one
        for terminal in opened:
            terminal.running.gone()
    finally:
        for terminal in opened:
            terminal.close()


@pytest.fixture
def outer(terminal: Open) -> Terminal:
    """An interactive bash at its prompt."""
    shell = terminal()
    shell.expect("outer> ")
    return shell


def ends(outer: Terminal) -> None:
    """The outer shell has the terminal, answers, and ends."""
    outer.type("exit 0\n")
    assert outer.end() == 0


def stopped(outer: Terminal) -> list[int]:
    """The processes on the terminal that are stopped."""
    return [pid for pid in outer.running.processes() if status(pid)["State"].startswith("T")]


def test_a_shell_has_our_prompt_and_exit_gives_its_status(outer: Terminal, rootfs: Path) -> None:
    outer.type(f"sifkit shell {rootfs}; echo status $?.\n")
    outer.expect("sifkit> ")
    outer.type("echo $((6 * 7)).\n")
    outer.expect("42.")
    outer.expect("sifkit> ")
    outer.type("exit 3\n")
    outer.expect("status 3.")
    ends(outer)


def test_start_up_files_do_not_undo_the_prompt(outer: Terminal, rootfs: Path, tmp_path: Path) -> None:
    """With the bash of the host and its libraries."""
    (tmp_path / ".bashrc").write_text("PS1='undone> '; READ=yes\n")
    shown = " ".join(f"-B {path}" for path in ("/usr", "/lib", "/lib64") if os.path.isdir(path))
    outer.type(f"HOME={tmp_path} sifkit shell {shown} --shell /usr/bin/bash {rootfs} -i; echo status $?.\n")
    outer.expect("sifkit> ")
    outer.type("echo read $READ. $SHELL.\n")
    outer.expect("read yes. /usr/bin/bash.")
    outer.expect("sifkit> ")
    outer.type("exit 0\n")
    outer.expect("status 0.")
    ends(outer)


def test_a_prompt_of_ones_own(outer: Terminal, rootfs: Path) -> None:
    outer.type(f"sifkit shell --env PS1='mine> ' {rootfs}\n")
    outer.expect("mine> ")
    outer.type("exit 0\n")
    outer.expect("outer> ")
    ends(outer)


def test_the_end_of_input_ends_a_shell(outer: Terminal, rootfs: Path) -> None:
    outer.type(f"sifkit shell {rootfs}; echo status $?.\n")
    outer.expect("sifkit> ")
    outer.type("no-such-command\n")
    outer.expect("sifkit> ")
    outer.type(CTRL_D)
    outer.expect("status 127.")
    ends(outer)


@isolated
def test_ctrl_c_reaches_the_payload_once(outer: Terminal, rootfs: Path, option: str) -> None:
    script = "trap 'n=$((n + 1)); echo got $n.' INT; trap 'exit $n' QUIT; echo ready.; while :; do sleep 0.02; done"
    outer.type(f'sifkit exec {option} {rootfs} sh -c "{script.replace("$", chr(92) + "$")}"; echo status $?.\n')
    outer.expect("\r\nready.")
    for number in (1, 2):
        outer.type(CTRL_C)
        outer.expect(f"got {number}.")
    outer.type(CTRL_BACKSLASH)
    assert "got" not in outer.expect("status 2.")
    ends(outer)


def test_ctrl_c_ends_what_does_not_mind_it(outer: Terminal, rootfs: Path) -> None:
    outer.type(f"sifkit exec {rootfs} sleep 1000\n")
    outer.running.named("sleep")
    outer.type(CTRL_C)
    outer.expect("outer> ")
    outer.type("echo status $?.\n")
    outer.expect("status 130.")
    ends(outer)


def test_ctrl_c_in_a_shell_ends_its_command_not_the_shell(outer: Terminal, rootfs: Path) -> None:
    outer.type(f"sifkit shell {rootfs}\n")
    outer.expect("sifkit> ")
    outer.type("sleep 1000\n")
    outer.running.named("sleep")
    outer.type(CTRL_C)
    outer.expect("sifkit> ")
    outer.type("exit\n")
    outer.expect("outer> ")
    ends(outer)


def stop(outer: Terminal) -> None:
    """Ctrl-Z, until it has an effect: one typed milliseconds behind ``fg`` can be undone by what ``fg`` sends."""
    for _ in range(5):
        outer.type(CTRL_Z)
        with contextlib.suppress(AssertionError):
            outer.expect("Stopped", 3)
            return
    outer.expect("Stopped")


@pytest.mark.parametrize("option", ["", "--pid"])  # the kernel does not let Ctrl-Z stop a process 1
def test_ctrl_z_and_fg(outer: Terminal, rootfs: Path, option: str) -> None:
    """More than once; the outer shell has the terminal meanwhile."""
    script = "echo ready.; read line; echo line $line.; exit 4"
    outer.type(f"sifkit exec {option} {rootfs} sh -c '{script}'; echo status $?.\n")
    outer.expect("\r\nready.")
    for number in (1, 2):
        stop(outer)
        outer.expect("outer> ")
        outer.type(f"echo outside {number}.\n")
        outer.expect(f"\r\noutside {number}.")
        outer.expect("outer> ")
        outer.type("fg\n")
        outer.expect("sifkit exec")
        wait_for(lambda: not stopped(outer), "all of it to go on")  # before that Ctrl-Z is lost
    outer.type("typed\n")
    outer.expect("line typed.")
    outer.expect("outer> ")
    ends(outer)


def test_ctrl_z_and_bg(outer: Terminal, rootfs: Path, tmp_path: Path) -> None:
    outer.type(f"sifkit exec --bind {tmp_path}:/mnt {rootfs} sh -c 'echo ready.; sleep 0.3; echo late > /mnt/late'\n")
    outer.expect("\r\nready.")
    outer.type(CTRL_Z)
    outer.expect("Stopped")
    outer.expect("outer> ")
    outer.type("bg\n")
    outer.expect("outer> ")
    wait_for(lambda: (tmp_path / "late").exists(), "the payload's end in the background")
    ends(outer)


@isolated
def test_job_control_inside_a_shell(outer: Terminal, rootfs: Path, option: str) -> None:
    """Ctrl-Z stops the inner shell's command, not the inner shell."""
    outer.type(f"sifkit shell {option} {rootfs}\n")
    outer.expect("sifkit> ")
    outer.type("sleep 1000\n")
    outer.running.named("sleep")
    outer.type(CTRL_Z)
    outer.expect("sifkit> ")
    outer.type("jobs\n")
    outer.expect("sleep 1000")
    outer.type("fg\n")
    wait_for(lambda: status(outer.running.named("sleep"))["State"].startswith("S"), "sleep to go on")
    outer.type(CTRL_C)
    outer.expect("sifkit> ")
    outer.type("exit\n")
    outer.expect("outer> ")
    ends(outer)


def test_a_stopped_run_can_be_killed_from_its_shell(outer: Terminal, rootfs: Path) -> None:
    outer.type(f"sifkit exec {rootfs} sleep 1000\n")
    outer.running.named("sleep")
    (monitor,) = children(outer.running.pid)
    outer.type(CTRL_Z)
    outer.expect("Stopped")
    outer.expect("outer> ")
    outer.type("kill %1\n")
    # Not only dead but collected: bash tells of it at the next prompt, and of a zombie it has not heard.
    wait_for(lambda: not Path(f"/proc/{monitor}").exists(), "bash to collect the run")
    outer.type("\n")
    outer.expect("Exit 143")
    ends(outer)


def test_the_window_size_and_its_changes_reach_the_payload(terminal: Open, sifkit: Program, rootfs: Path) -> None:
    script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.02; done"
    opened = terminal(sifkit.path, "exec", str(rootfs), "sh", "-c", script, rows=33, columns=77)
    opened.expect("33 77")
    opened.resize(44, 99)
    opened.expect("44 99")
    opened.type(CTRL_C)
    assert opened.end() == 130


def test_the_payload_has_the_terminal(terminal: Open, sifkit: Program, rootfs: Path) -> None:
    script = "tty; test -t 0 && test -t 1 && test -t 2 && echo all three; echo written > /dev/tty"
    opened = terminal(sifkit.path, "exec", str(rootfs), "sh", "-c", script)
    opened.expect("/dev/pts/")
    opened.expect("all three")
    opened.expect("written")
    assert opened.end() == 0


def test_a_terminal_works_in_a_dev_of_its_own(terminal: Open, sifkit: Program, rootfs: Path) -> None:
    """With --contain; the caller's terminal belongs to the host's devpts."""
    opened = terminal(sifkit.path, "exec", "--contain", str(rootfs), "sh", "-c", "echo written > /dev/tty; stty size")
    opened.expect("written")
    opened.expect("24 80")
    assert opened.end() == 0


@pytest.mark.parametrize("option", [[], ["--writable-tmpfs"]])
def test_hanging_up_ends_everything(terminal: Open, sifkit: Program, rootfs: Path, option: list[str]) -> None:
    opened = terminal(sifkit.path, "shell", *option, str(rootfs))
    opened.expect("sifkit> ")
    opened.type("sleep 1000 & sleep 1001\n")
    wait_for(lambda: sum(line.startswith("sleep") for line in opened.running.processes().values()) == 2, "two sleeps")
    opened.hang_up()
    opened.running.process.wait(20)
    opened.running.gone()


def test_hanging_up_an_outer_shell_ends_everything(outer: Terminal, rootfs: Path) -> None:
    outer.type(f"sifkit exec {rootfs} sleep 1000\n")
    outer.running.named("sleep")
    outer.hang_up()
    outer.running.process.wait(20)
    outer.running.gone()


def test_the_terminals_modes_are_left_alone(terminal: Open, sifkit: Program, rootfs: Path) -> None:
    opened = terminal(sifkit.path, "exec", str(rootfs), "sh", "-c", "stty -echo; echo done.; sleep 1000")
    opened.expect("done.")
    assert not termios.tcgetattr(opened._master)[3] & termios.ECHO
    opened.type(CTRL_C)
    assert opened.end() == 130
