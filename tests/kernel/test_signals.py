"""Signals that reach the monitor reach the payload, once; what the caller ignores stays ignored."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest
from images import Program, run
from probes import needs
from running import Start, children, status, wait_for

pytestmark = [pytest.mark.kernel, needs("userns")]

# Says each signal that it gets, and ends on QUIT with how many these were.
COUNTER = """count=0
for name in TERM INT HUP USR1 USR2 ALRM; do trap "count=\\$((count + 1)); echo got $name" $name; done
trap 'exit $count' QUIT
echo ready
while :; do sleep 0.02; done
"""


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2", "ALRM"])
def test_a_signal_reaches_the_payload_once_and_its_handlers_status_is_ours(
    start: Start, rootfs: Path, name: str
) -> None:
    running = start("exec", str(rootfs), "sh", "-c", COUNTER)
    running.expect("ready\n")
    running.signal(getattr(signal, f"SIG{name}"))
    running.expect(f"got {name}\n")
    running.signal(signal.SIGQUIT)
    assert running.end() == 1
    assert running.said == {"stdout": f"ready\ngot {name}\n", "stderr": ""}


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1"])
def test_a_signal_without_handler_ends_the_payload_and_the_status_says_so(
    start: Start, rootfs: Path, name: str
) -> None:
    number = getattr(signal, f"SIG{name}")
    running = start("exec", str(rootfs), "sh", "-c", "ulimit -c 0; echo ready; exec sleep 1000")
    running.expect("ready\n")
    running.named("sleep")
    running.signal(number)
    assert running.end() == 128 + number


def test_signals_one_after_the_other_all_arrive(start: Start, rootfs: Path) -> None:
    running = start("exec", str(rootfs), "sh", "-c", COUNTER)
    running.expect("ready\n")
    for _ in range(5):
        for name in ("USR1", "USR2"):
            running.said["stdout"] = ""
            running.signal(getattr(signal, f"SIG{name}"))
            running.expect(f"got {name}\n")
    running.signal(signal.SIGQUIT)
    assert running.end() == 10


def test_a_signal_during_the_start_ends_the_run(start: Start, rootfs_squash: Path) -> None:
    """Whenever it arrives: nothing is left, and the status says so."""
    for milliseconds in range(0, 80, 5):
        running = start("exec", "--writable-tmpfs", str(rootfs_squash), "sleep", "1000")
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(milliseconds / 1000)
        running.signal(signal.SIGTERM)
        assert running.end() == 143
        running.gone()


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1"])
def test_what_the_caller_ignores_the_payload_ignores(start: Start, rootfs: Path, name: str) -> None:
    """As under nohup, and as shells start what runs in the background."""
    number = getattr(signal, f"SIG{name}")
    running = start(
        "exec", str(rootfs), "sh", "-c", "echo ready; exec sleep 1000",
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
    )  # fmt: skip
    running.expect("ready\n")
    sleeping = running.named("sleep")
    assert int(status(sleeping)["SigIgn"], 16) >> (number - 1) & 1
    running.signal(number)
    os.kill(sleeping, signal.SIGKILL)
    assert running.end() == 137


def test_nothing_else_is_ignored_or_blocked(start: Start, rootfs: Path) -> None:
    """Python ignores SIGPIPE and SIGXFSZ; we wait for many with them blocked. None of that is the payload's."""
    running = start("exec", str(rootfs), "sleep", "1000")
    fields = status(running.named("sleep"))
    # What our own caller ignores (some job runners, glibc's internal signals) the payload may ignore as well.
    ours = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ))
    inherited = int(status(os.getpid())["SigIgn"], 16) & ~ours
    assert (int(fields["SigIgn"], 16) & ~inherited, int(fields["SigBlk"], 16)) == (0, 0)
    running.signal(signal.SIGTERM)
    assert running.end() == 143


def test_a_payload_ends_by_sigpipe(sifkit: Program, rootfs: Path) -> None:
    done = run("bash", "-c", f"'{sifkit.path}' exec '{rootfs}' yes | head -n 1; echo ${{PIPESTATUS[0]}}")
    assert done.stdout == "y\n141\n"


def test_a_time_limit_ends_the_run(sifkit: Program, rootfs: Path) -> None:
    """timeout(1) signals its whole process group."""
    done = run("timeout", "1", sifkit.path, "exec", str(rootfs), "sleep", "1000")
    assert (done.returncode, done.stderr) == (124, "")


def test_a_signal_to_init_reaches_the_payload_too(start: Start, rootfs: Path) -> None:
    """In a list of processes it looks like the monitor."""
    running = start("exec", str(rootfs), "sh", "-c", COUNTER)
    running.expect("ready\n")
    os.kill(running.init(), signal.SIGTERM)
    running.expect("got TERM\n")
    running.signal(signal.SIGQUIT)
    assert running.end() == 1


def test_stop_and_continue_from_outside(start: Start, rootfs: Path) -> None:
    """As batch systems suspend jobs: everything stops, everything goes on, in whatever order."""
    running = start("exec", str(rootfs), "sh", "-c", COUNTER)
    running.expect("ready\n")
    everything = sorted(running.processes())
    for order in (everything, everything[::-1]):
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in order:
                with contextlib.suppress(ProcessLookupError):  # a short-lived child of the payload
                    os.kill(pid, number)
        running.said["stdout"] = ""
        running.signal(signal.SIGUSR1)
        running.expect("got USR1\n")
    running.signal(signal.SIGQUIT)
    assert running.end() == 2


def test_a_payload_stopped_and_continued_alone_still_reports_its_end(start: Start, rootfs: Path) -> None:
    running = start("exec", str(rootfs), "sleep", "1000")
    sleeping = running.named("sleep")
    os.kill(sleeping, signal.SIGSTOP)
    wait_for(lambda: status(running.pid)["State"].startswith("T"), "the monitor to stop with it")
    os.kill(sleeping, signal.SIGCONT)
    wait_for(lambda: status(running.pid)["State"].startswith("S"), "the monitor to go on with it")
    os.kill(sleeping, signal.SIGTERM)
    assert running.end() == 143


def test_continuing_the_monitor_continues_the_payload(start: Start, rootfs: Path) -> None:
    """By whatever it was stopped, and though it was continued without the monitor before."""
    running = start("exec", str(rootfs), "sleep", "1000")
    sleeping, monitor = running.named("sleep"), running.pid
    for stopping in ([sleeping], [sleeping, running.init(), monitor], [monitor, running.init(), sleeping]):
        for continuing in (sleeping, monitor):
            for pid in stopping:
                os.kill(pid, signal.SIGSTOP)
            wait_for(lambda: all(status(pid)["State"].startswith("T") for pid in (sleeping, monitor)), "all to stop")
            if continuing == sleeping:  # init, where it is stopped, tells nobody of it
                os.kill(running.init(), signal.SIGCONT)
            os.kill(continuing, signal.SIGCONT)
            wait_for(lambda: all(status(pid)["State"].startswith("S") for pid in (sleeping, monitor)), "all to go on")
    os.kill(sleeping, signal.SIGTERM)
    assert running.end() == 143


def test_every_process_of_a_run_is_below_the_monitor(start: Start, rootfs: Path) -> None:
    running = start("exec", str(rootfs), "sleep", "1000")
    sleeping = running.named("sleep")
    init = running.init()
    assert children(init) == [sleeping]
    assert os.getsid(sleeping) == os.getsid(running.pid)
    assert os.getpgid(sleeping) == os.getpgid(running.pid)
    running.signal(signal.SIGTERM)
    assert running.end() == 143
