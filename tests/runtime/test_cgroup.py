"""Limits by cgroup v2, on directories that stand for a delegated hierarchy: few hosts of tests have one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay.failure import Failure
from sifkit.runtime import cgroup
from sifkit.runtime.cgroup import Limits

FILES = ("cgroup.procs", "cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "memory.low", "pids.max")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hierarchy with our group at /app/ours; new groups get their files, as the kernel makes them."""
    (tmp_path / "app/ours").mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    for group in ("app", "app/ours"):
        (tmp_path / group / "cgroup.procs").write_text("")
        (tmp_path / group / "cgroup.subtree_control").write_text("cpu memory pids\n" if group == "app" else "")
    monkeypatch.setattr(cgroup, "_ours", lambda: (str(tmp_path), "/app/ours"))
    real = os.mkdir

    def mkdir(path: str, mode: int = 0o777) -> None:
        real(path, mode)
        for name in FILES:
            Path(path, name).write_text("")

    monkeypatch.setattr(os, "mkdir", mkdir)
    return tmp_path


def test_values() -> None:
    limits = Limits(cpus=1.5, shares=1024, cpuset="0-3", memory=64 << 20, swap=96 << 20, pids=9)
    assert limits.values() == {
        "cpu.max": "150000 100000", "cpu.weight": "39", "cpuset.cpus": "0-3", "memory.max": "67108864",
        "memory.swap.max": "33554432", "pids.max": "9",
    }  # fmt: skip
    assert Limits(shares=2).values() == {"cpu.weight": "1"}
    assert Limits(shares=262144).values() == {"cpu.weight": "10000"}
    assert Limits().values() == {}


def test_a_sibling_with_the_values_is_made_and_joined(tree: Path) -> None:
    group = Path(cgroup.make(Limits(memory=1 << 20, pids=5)))
    assert group.parent == tree / "app"
    assert (group / "memory.max").read_text() == "1048576"
    assert (group / "pids.max").read_text() == "5"
    cgroup.join(str(group))
    assert (group / "cgroup.procs").read_text() == "0"


def test_groups_of_dead_runs_are_removed_and_of_living_ones_not(tree: Path) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    for name in (f"sifkit-{pid}", "sifkit-1", "sifkit-x", "other-1"):
        (tree / "app" / name).mkdir()
        for file in FILES:
            (tree / "app" / name / file).unlink(missing_ok=True)
    cgroup.make(Limits(pids=5))
    assert {path.name for path in (tree / "app").iterdir() if path.is_dir()} == {
        "ours", "sifkit-1", "sifkit-x", "other-1", f"sifkit-{os.getpid()}",
    }  # fmt: skip


def test_a_controller_that_is_not_delegated(tree: Path) -> None:
    (tree / "cgroup.controllers").write_text("pids\n")
    with pytest.raises(Failure, match=r"cannot limit cpu and memory here: .*no controller cpu, memory"):
        cgroup.make(Limits(memory=1 << 20, cpus=1))


@pytest.mark.skipif(os.geteuid() == 0, reason="a matter of rights, which root has")
def test_no_right_to_make_a_group(tree: Path) -> None:
    for group in ("app", "app/ours"):
        (tree / group).chmod(0o555)
    try:
        with pytest.raises(Failure, match=r"cannot limit pids here: .*Permission denied"):
            cgroup.make(Limits(pids=5))
    finally:
        for group in ("app", "app/ours"):
            (tree / group).chmod(0o755)
