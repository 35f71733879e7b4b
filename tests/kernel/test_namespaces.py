"""Processes, IPC, host name and network of a container's own; limits."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from images import Program, run
from probes import needs, only_user
from running import Start

pytestmark = [pytest.mark.kernel, needs("userns")]

OWN = {
    "--pid": {"pid"}, "--ipc": {"ipc"}, "--uts": {"uts"}, "--net": {"net"}, "--hostname=inside": {"uts"},
    "--pid --no-pid": set(), "": set(),
}  # fmt: skip


def namespaces(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines())


@pytest.mark.parametrize("options", OWN)
def test_each_option_makes_its_namespace_and_no_other(sifkit: Program, rootfs: Path, options: str) -> None:
    kinds = ("pid", "ipc", "uts", "net", "cgroup")
    host = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
    script = "for n in pid ipc uts net cgroup; do echo $n:$(readlink /proc/self/ns/$n); done"
    inside = namespaces(sifkit.ok("exec", *options.split(), str(rootfs), "sh", "-c", script))
    assert {kind for kind in kinds if inside[kind] != host[kind]} == OWN[options]


# -- processes -------------------------------------------------------------------------------------


def test_process_1_is_our_init_and_others_are_not_seen(sifkit: Program, rootfs: Path) -> None:
    said = sifkit.ok("exec", "--pid", str(rootfs), "sh", "-c", "echo $$; ls /proc | grep '^[0-9]*$'")
    assert said.split()[0] == "2"
    assert len(said.split()) <= 6


def test_without_init_the_payload_is_process_1(sifkit: Program, rootfs: Path) -> None:
    assert sifkit.ok("exec", "--pid", "--no-init", str(rootfs), "sh", "-c", "echo $$") == "1\n"


@pytest.mark.parametrize("options", [["--pid"], ["--pid", "--no-init"]], ids=" ".join)
def test_status_and_signals(start: Start, sifkit: Program, rootfs: Path, options: list[str]) -> None:
    assert sifkit("exec", *options, str(rootfs), "sh", "-c", "exit 7").returncode == 7
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.02; done"
    running = start("exec", *options, str(rootfs), "sh", "-c", script)
    running.expect("ready")
    running.signal(signal.SIGTERM)
    assert running.end() == 9


def test_orphans_are_reaped(sifkit: Program, rootfs: Path) -> None:
    """What loses its parent inside becomes a child of process 1, which collects it: no zombie stays."""
    script = """
        for i in 1 2 3 4 5; do (sh -c 'exit 3' &) ; done
        for i in $(seq 200); do
            grep -l '^State:.Z' /proc/[0-9]*/status >/dev/null 2>&1 || { echo none; exit; }
            sleep 0.05
        done"""
    assert sifkit.ok("exec", "--pid", str(rootfs), "sh", "-c", script) == "none\n"


def test_what_is_left_ends_with_a_line_and_wait_waits_for_it(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    left = sifkit("exec", "--pid", str(rootfs), "sh", "-c", "(sleep 1000 >/dev/null 2>&1 &)")
    assert left.returncode == 0
    assert "ending 1 process(es)" in left.stderr
    script = "(sh -c 'sleep 0.3; echo late > /mnt/late' >/dev/null 2>&1 &)"
    sifkit.ok("exec", "--pid", "--wait", "--bind", f"{tmp_path}:/mnt", str(rootfs), "sh", "-c", script)
    assert (tmp_path / "late").read_text() == "late\n"


@pytest.mark.parametrize("who", ["monitor", "init"])
def test_kill_leaves_nothing(start: Start, rootfs: Path, who: str) -> None:
    running = start("exec", "--pid", str(rootfs), "sh", "-c", "(setsid sleep 1000 &); echo ready; sleep 1000")
    running.expect("ready")
    os.kill(running.pid if who == "monitor" else running.init(), signal.SIGKILL)
    assert running.end() == 137
    running.gone()


def test_our_init_shows_nothing_of_the_host(sifkit: Program, rootfs: Path) -> None:
    script = "ls /proc/1/root/ >/dev/null 2>&1 && echo open; ls -l /proc/1/fd 2>/dev/null | grep -c -- '->'"
    done = sifkit("exec", "--pid", str(rootfs), "sh", "-c", script)
    if os.geteuid() != 0:  # root may look at everything
        assert "open" not in done.stdout
    assert done.stdout.split()[-1] == "0"


@only_user
@needs("unshare")
def test_a_masked_proc_of_the_host_is_shown_instead(rootfs: Path, sifkit: Program) -> None:
    """As inside another container, where the kernel lets nobody mount a /proc that shows more."""
    payload = "sh -c 'echo $$ is; ls -d /proc/1'"
    inner = f"mount -t tmpfs none /proc/sys && exec {sifkit.path} -v exec --userns --pid {rootfs} {payload}"
    done = run("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inner)
    assert (done.returncode, done.stdout) == (0, "2 is\n/proc/1\n"), done.stderr
    assert "masked /proc" in done.stderr


# -- names, network, limits ------------------------------------------------------------------------


def test_hostname(sifkit: Program, rootfs: Path) -> None:
    said = sifkit.ok("exec", "--hostname", "inside.example", str(rootfs), "sh", "-c", "hostname; cat /etc/hostname")
    assert said == "inside.example\ninside.example\n"
    assert socket.gethostname() != "inside.example"
    assert sifkit.ok("exec", "--uts", str(rootfs), "hostname").strip() == socket.gethostname()
    for bad in ("-x", "a b", "ü", "x" * 65):
        assert sifkit("exec", f"--hostname={bad}", str(rootfs), "true").returncode == 2


def test_a_network_of_its_own_has_lo_and_nothing_else(sifkit: Program, rootfs: Path) -> None:
    script = "tail -n +3 /proc/net/dev | cut -d: -f1; ip link show lo | grep -c '[<,]UP[,>]'"
    said = sifkit.ok("exec", "--net", "--network", "none", str(rootfs), "sh", "-c", script)
    assert said.split() == ["lo", "1"]
    assert sifkit("exec", "--net", "--network", "bridge", str(rootfs), "true").returncode == 2
    assert sifkit("exec", "--network", "none", str(rootfs), "true").returncode == 2


def test_limits_hold_or_are_refused_in_a_sentence(sifkit: Program, rootfs: Path) -> None:
    done = sifkit("exec", "--pids-limit", "20", str(rootfs), "sh", "-c", "cat /proc/self/cgroup")
    if done.returncode == 0:
        assert "/sifkit-" in done.stdout
        return
    assert done.returncode == 255
    assert "cannot limit pids here" in done.stderr
    assert "systemd-run --user --scope" in done.stderr


@pytest.mark.parametrize("words", ["--cpus=0", "--memory=lots", "--memory-swap=1G", "--cpu-shares=1", "--pids-limit=x"])
def test_limits_that_make_no_sense(sifkit: Program, rootfs: Path, words: str) -> None:
    assert sifkit("exec", words, str(rootfs), "true").returncode == 2


def test_dry_run_names_them(sifkit: Program, rootfs: Path) -> None:
    said = sifkit.ok("exec", "--dry-run", "--pid", "--net", "--hostname", "x", str(rootfs), "true")
    line = next(line for line in said.splitlines() if line.startswith("namespaces"))
    assert line.endswith("mount, pid, uts, network")
    assert "of the PID namespace" in said


def test_userns_for_root_too(sifkit: Program, rootfs: Path) -> None:
    said = sifkit.ok("exec", "--userns", str(rootfs), "cat", "/proc/self/uid_map")
    assert said.split() == [str(os.geteuid()), str(os.geteuid()), "1"]


def test_a_payload_killed_from_outside(start: Start, rootfs: Path) -> None:
    running = start("exec", "--pid", str(rootfs), "sleep", "1000")
    os.kill(running.named("sleep"), signal.SIGKILL)
    assert running.end() == 137
