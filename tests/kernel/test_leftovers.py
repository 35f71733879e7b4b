"""Processes that the payload leaves behind: ended with one line, or waited for."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from images import Program, run
from probes import needs
from running import Start, wait_for

pytestmark = [pytest.mark.kernel, needs("userns")]

ENDING = "sifkit: WARNING: ending {} process(es) that the payload left behind; --wait would wait for them\n"


def test_a_process_left_behind_is_ended_and_one_line_says_so(start: Start, rootfs: Path) -> None:
    running = start("exec", str(rootfs), "sh", "-c", "sleep 1000 & exit 7")
    assert running.end(4) == 7
    assert running.said["stderr"] == ENDING.format(1)


def test_it_gets_term_and_time_to_tidy_up(start: Start, rootfs: Path, overlay_dir: Path) -> None:
    inner = "trap 'sleep 0.1; echo tidied > /tidied; exit' TERM; touch /waiting; while :; do sleep 0.02; done"
    script = f'sh -c "{inner}" >&- 2>&- & until [ -e /waiting ]; do sleep 0.02; done'
    assert start("exec", "--overlay", str(overlay_dir), str(rootfs), "sh", "-c", script).end(4) == 0
    assert (overlay_dir / "upper/tidied").read_text() == "tidied\n"


def test_who_ignores_term_is_killed_after_five_seconds(start: Start, rootfs: Path) -> None:
    script = "(trap '' TERM; exec sleep 1000) & sleep 0.1"
    running = start("exec", str(rootfs), "sh", "-c", script)
    begun = time.monotonic()
    assert running.end(20) == 0
    assert 5 <= time.monotonic() - begun < 15
    assert running.said["stderr"] == ENDING.format(1)


def test_daemons_are_found_too(start: Start, rootfs: Path) -> None:
    """Forked twice, in a session of their own, without descriptors or the environment."""
    seconds = random.randrange(10**8, 10**9)  # to be known by
    daemon = f"(sleep {seconds} & sleep {seconds}) <&- >&- 2>&- & sleep {seconds}"
    running = start("exec", str(rootfs), "sh", "-c", f"(setsid env -i sh -c '{daemon}' &) ; sleep 0.2")
    running.end(10)
    assert running.said["stderr"].count("\n") == 1
    assert "process(es) that the payload left behind" in running.said["stderr"]
    assert run("pgrep", "-f", f"^sleep {seconds}").stdout == ""


def test_none_gets_away_while_it_forks(start: Start, rootfs: Path) -> None:
    """Its parent may end between two looks at the table of processes."""
    script = "echo ready; while :; do (setsid sleep 1000 &); done"
    for _ in range(10):
        running = start("exec", str(rootfs), "sh", "-c", script)
        running.expect("ready\n")
        running.signal(signal.SIGTERM)
        assert running.end(10) == 143
        assert not running.processes()


def test_stopped_processes_are_ended_too(start: Start, rootfs: Path) -> None:
    running = start("exec", str(rootfs), "sh", "-c", "sleep 1000 & kill -STOP $!")
    assert running.end(4) == 0
    assert running.said["stderr"] == ENDING.format(1)


def test_what_ends_just_behind_the_payload_is_left_alone(sifkit: Program, rootfs: Path) -> None:
    """As the reader of a process substitution: it must get to write what it read."""
    script = "mkfifo /tmp/f.$$; (cat /tmp/f.$$; rm /tmp/f.$$) & echo all > /tmp/f.$$"
    done = sifkit("exec", str(rootfs), "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all\n", "")


def test_nobody_is_warned_when_nothing_is_left(sifkit: Program, rootfs: Path) -> None:
    done = sifkit("exec", str(rootfs), "sh", "-c", "sleep 0.1 & wait")
    assert (done.returncode, done.stderr) == (0, "")


def test_wait_waits(start: Start, rootfs: Path) -> None:
    running = start("exec", "--wait", str(rootfs), "sh", "-c", "(setsid sh -c 'sleep 0.5; echo late' &) ; exit 3")
    assert running.end() == 3
    assert running.said == {"stdout": "late\n", "stderr": ""}


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_waiting_can_be_ended(start: Start, rootfs: Path, name: str) -> None:
    running = start("exec", "--wait", str(rootfs), "sh", "-c", "sleep 1000 & exit 3")
    wait_for(lambda: sorted(line.split(" ")[0] for line in running.processes().values())[-1:] == ["sleep"], "sleep")
    wait_for(lambda: not any(line.startswith("sh ") for line in running.processes().values()), "the payload's end")
    running.signal(getattr(signal, f"SIG{name}"))
    assert running.end(5) == 3
    assert running.said["stderr"] == ENDING.format(1)


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_signal_that_ends_the_payload_ends_what_would_be_waited_for(start: Start, rootfs: Path, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    running = start("exec", "--wait", str(rootfs), "sh", "-c", "sleep 1000 & echo ready; wait")
    running.expect("ready\n")
    running.signal(number)
    assert running.end(5) == 128 + number
