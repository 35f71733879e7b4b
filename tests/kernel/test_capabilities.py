"""--add-caps, --drop-caps, --no-privs, --keep-privs, --allow-setuid."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images import Program
from probes import needs, only_root, only_user
from running import status

pytestmark = [pytest.mark.kernel, needs("userns")]

NET_RAW, KILL = 1 << 13, 1 << 5
SETS = ("CapPrm", "CapEff", "CapBnd")


def sets(sifkit: Program, rootfs: Path, *options: str) -> dict[str, int]:
    text = sifkit.ok("exec", *options, str(rootfs), "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return {name: int(fields[name], 16) for name in ("CapInh", *SETS, "CapAmb", "NoNewPrivs")}


def test_a_few_and_none(sifkit: Program, rootfs: Path) -> None:
    found = sets(sifkit, rootfs, "--no-privs", "--add-caps", "CAP_NET_RAW,kill")
    assert found == dict.fromkeys(found, NET_RAW | KILL) | {"NoNewPrivs": 1}
    found = sets(sifkit, rootfs, "--no-privs", "--add-caps=net_raw,kill", "--drop-caps", "CAP_KILL")
    assert found["CapEff"] == NET_RAW
    found = sets(sifkit, rootfs, "--no-privs")
    assert found == dict.fromkeys(found, 0) | {"NoNewPrivs": 1}


@only_user
def test_a_user_can_have_them_in_their_namespace(sifkit: Program, rootfs: Path) -> None:
    assert sets(sifkit, rootfs, "--add-caps", "all")["CapEff"].bit_count() > 30
    assert sets(sifkit, rootfs, "--drop-caps", "all")["CapEff"] == 0
    with_it = ["--net", "--add-caps", "CAP_NET_ADMIN", str(rootfs), "ip", "link", "set", "lo", "down"]
    assert sifkit("exec", *with_it).returncode == 0
    assert sifkit("exec", "--net", *with_it[3:]).returncode != 0


@only_root
@needs("privileged")
def test_root_has_less(sifkit: Program, rootfs: Path) -> None:
    mine = {name: int(status(os.getpid())[name], 16) for name in SETS}
    less = sets(sifkit, rootfs, "--drop-caps", "CAP_NET_RAW")
    assert {name: less[name] for name in SETS} == {name: bits & ~NET_RAW for name, bits in mine.items()}
    for same in ("--keep-privs", "--allow-setuid", "--add-caps=CAP_KILL"):
        found = sets(sifkit, rootfs, same)
        assert {name: found[name] for name in SETS} == mine
    assert sifkit("exec", "--keep-privs", "--no-privs", str(rootfs), "true").returncode == 2


@only_user
@pytest.mark.parametrize("option", ["--keep-privs", "--allow-setuid"])
def test_what_is_roots(sifkit: Program, rootfs: Path, option: str) -> None:
    done = sifkit("exec", option, str(rootfs), "true")
    assert (done.returncode, f"{option} is root's" in done.stderr) == (2, True)


def test_what_is_none(sifkit: Program, rootfs: Path) -> None:
    done = sifkit("exec", "--add-caps", "CAP_NET_RAW,CAP_NONSENSE", str(rootfs), "true")
    assert (done.returncode, "'CAP_NONSENSE' is no capability" in done.stderr) == (2, True)


def test_dry_run_names_them(sifkit: Program, rootfs: Path) -> None:
    options = ["--dry-run", "--no-privs", "--add-caps", "CAP_KILL", str(rootfs), "true"]
    assert "\ncapabilities  CAP_KILL\n" in sifkit.ok("exec", *options)
