"""The judgement on hosts that are not at hand, and on this one what it is found to be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from probes import needs, only_user

from overlay.features import Features
from sifkit.runtime import identity, preflight, preflight_programs
from sifkit.runtime.identity import Identity
from sifkit.runtime.preflight import Finding, Host
from sifkit.runtime.preflight_kernel import SWITCHES, Kernel
from sifkit.runtime.preflight_programs import WANTED, Program, Ranges

OLD = Features(overlay=True, why_not="", lowerdir_append=True, tmpfs_xattr=True, fuse=True, loop=False)
ALL = OLD._replace(data_layers=True)
NO_OVERLAY = ALL._replace(overlay=False, why_not="Operation not permitted", lowerdir_append=False)
GOOD = Host(
    who=Identity(1000, 1000, (1000,), "ann", "/home/USER", "/bin/sh"),
    kernel=Kernel(privileged=False, features=ALL),
    switches=dict.fromkeys(SWITCHES, "") | {"user.max_user_namespaces": "15000"},
    programs=tuple(Program(wanted.name, f"/bin/{wanted.name}", (9, 9)) for wanted in WANTED),
    ranges=(Ranges("/etc/subuid", ((100000, 65536),)), Ranges("/etc/subgid", ((100000, 65536),))),
    device="",
    knows_overlay=True,
    filtered=False,
)
REFUSED = GOOD._replace(kernel=Kernel(False, namespaces="Operation not permitted: somebody forbids them"))


def found(host: Host, need: str) -> Finding:
    (finding,) = (finding for finding in preflight.judge(host) if finding.need == need)
    return finding


def replace_program(host: Host, program: Program) -> Host:
    return host._replace(programs=tuple(program if old.name == program.name else old for old in host.programs))


def set_switch(host: Host, name: str, value: str) -> Host:
    return host._replace(switches={**host.switches, name: value})


def test_a_good_host_has_nothing_to_do() -> None:
    findings = preflight.judge(GOOD)
    assert {finding.mark for finding in findings} == {"ok"}
    assert not [finding for finding in findings if finding.advice]
    assert preflight.ready(findings)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("user.max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
        ("user.max_user_namespaces", "", "use another kernel"),
        ("kernel.unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "AppArmor profile"),
    ],
)
def test_a_switch_that_forbids_namespaces_is_named(name: str, value: str, advice: str) -> None:
    host = set_switch(REFUSED, name, value)
    assert found(host, name).mark == "missing"
    assert advice in found(host, name).advice
    assert "switches below" in found(host, "user namespace").advice
    assert not preflight.ready(preflight.judge(host))


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_stops_nobody_who_got_namespaces(name: str) -> None:
    host = set_switch(GOOD, name, "1")
    assert found(host, name).mark == "ok"


def test_root_is_told_what_ordinary_users_lack() -> None:
    host = set_switch(GOOD._replace(kernel=Kernel(True, features=ALL)), "user.max_user_namespaces", "0")
    assert found(host, "user.max_user_namespaces").mark == "warn"
    assert preflight.ready(preflight.judge(host))


def test_selinux_is_suspected_only_where_something_failed() -> None:
    assert found(set_switch(REFUSED, "SELinux", "1"), "SELinux").mark == "warn"
    assert found(set_switch(GOOD, "SELinux", "1"), "SELinux").mark == "ok"


def test_a_refusal_that_no_switch_explains() -> None:
    assert "container" in found(REFUSED, "user namespace").advice
    assert "seccomp" in found(REFUSED._replace(filtered=True), "user namespace").advice


def test_what_was_not_tried_is_not_called_missing() -> None:
    tried_later = [finding for finding in preflight.judge(REFUSED) if finding.found.startswith("not tried")]
    assert [finding.need for finding in tried_later][:2] == ["tmpfs to build on", "kernel overlayfs"]
    assert {finding.mark for finding in tried_later} == {"warn"}


def test_a_tmpfs_that_cannot_be_mounted_is_essential() -> None:
    host = GOOD._replace(kernel=Kernel(False, tmpfs="Permission denied"))
    assert found(host, "tmpfs to build on")[:3] == ("missing", "tmpfs to build on", "Permission denied")


def test_fuse_overlayfs_stands_in_for_the_kernel() -> None:
    host = GOOD._replace(kernel=Kernel(False, features=NO_OVERLAY))
    assert found(host, "kernel overlayfs").mark == "warn"
    assert preflight.ready(preflight.judge(host))


@pytest.mark.parametrize(
    "host",
    [
        replace_program(GOOD._replace(kernel=Kernel(False, features=NO_OVERLAY)), Program("fuse-overlayfs")),
        GOOD._replace(kernel=Kernel(False, features=NO_OVERLAY._replace(fuse=False))),
        GOOD._replace(kernel=Kernel(False, features=NO_OVERLAY, fuse_mount="Operation not permitted")),
    ],
    ids=["no program", "no device", "no mount"],
)
def test_without_any_overlay_nothing_runs(host: Host) -> None:
    assert found(host, "kernel overlayfs").mark == "missing"
    assert not preflight.ready(preflight.judge(host))


def test_a_module_that_is_not_loaded() -> None:
    host = GOOD._replace(kernel=Kernel(False, features=NO_OVERLAY), knows_overlay=False)
    assert "modprobe overlay" in found(host, "kernel overlayfs").advice


def test_old_kernels_get_their_way_around() -> None:
    host = GOOD._replace(kernel=Kernel(False, features=OLD._replace(lowerdir_append=False, tmpfs_xattr=False)))
    assert "mount(2)" in found(host, "overlayfs lowerdir+").found
    assert "session_dir" in found(host, "user xattrs on tmpfs").advice
    assert "6.16" in found(host, "overlayfs data-only layers").advice
    assert preflight.ready(preflight.judge(host))


@pytest.mark.parametrize(
    ("device", "advice"), [("it is not there", "modprobe fuse"), ("Permission denied", "chmod 666 /dev/fuse")]
)
def test_fuse_is_wanted_but_not_essential(device: str, advice: str) -> None:
    host = GOOD._replace(device=device)
    assert found(host, "/dev/fuse").mark == "warn"
    assert advice in found(host, "/dev/fuse").advice
    assert preflight.ready(preflight.judge(host))


def test_loop_devices_are_a_matter_of_root() -> None:
    root = GOOD._replace(kernel=Kernel(True, features=ALL._replace(loop=True)))
    assert found(root, "loop devices").mark == "ok"
    assert found(root._replace(kernel=Kernel(True, features=ALL)), "loop devices").mark == "warn"
    assert "loop devices" not in [finding.need for finding in preflight.judge(GOOD)]


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_a_missing_program_says_what_does_not_work_and_its_package(wanted: preflight_programs.Wanted) -> None:
    finding = found(replace_program(GOOD, Program(wanted.name)), wanted.name)
    assert finding.mark == "warn"
    assert wanted.without in finding.found
    assert "install the package" in finding.advice


@pytest.mark.parametrize(("version", "lacks"), [((1, 47, 0), True), ((1, 47, 3), False), ((1, 48), False), ((), False)])
def test_fuse2fs_before_1_47_3(version: tuple[int, ...], lacks: bool) -> None:
    host = replace_program(GOOD, Program("fuse2fs", "/bin/fuse2fs", version))
    assert ("d_type" in found(host, "fuse2fs").found) is lacks


def test_no_subordinate_ids() -> None:
    host = GOOD._replace(ranges=(Ranges("/etc/subuid", ()), Ranges("/etc/subgid", (), "sss")))
    assert "usermod --add-subuids" in found(host, "subordinate ids in /etc/subuid").advice
    assert "sss" in found(host, "subordinate ids in /etc/subgid").found


@pytest.mark.parametrize(
    ("name", "said", "version"),
    [
        ("fuse2fs", "fuse2fs 1.47.0 (5-Feb-2023)\nFUSE library version: 2.9.9\n", (1, 47, 0)),
        ("fuse-overlayfs", "fusermount3 version: 3.14.0\nfuse-overlayfs: version 1.14-dev\n", (1, 14)),
        ("squashfuse_ll", "squashfuse 0.1.104 (c) 2012 Dave Vasilevsky\n", (0, 1, 104)),
        ("mksquashfs", "mksquashfs version 4.5.1 (2022/03/17)\n", (4, 5, 1)),
        ("mke2fs", "mke2fs 1.47.0 (5-Feb-2023)\n\tUsing EXT2FS Library version 1.47.0\n", (1, 47, 0)),
        ("mke2fs", "some other program\n", ()),
    ],
)
def test_versions_as_programs_tell_them(name: str, said: str, version: tuple[int, ...]) -> None:
    assert preflight_programs.version(name, said) == version


def test_ranges_are_found_by_name_and_by_number(tmp_path: Path) -> None:
    table, nsswitch = tmp_path / "subuid", tmp_path / "nsswitch.conf"
    table.write_text("# a comment\nann:100000:65536\nbob:1:2\n1000:300000:10\nann:bad:1\n")
    nsswitch.write_text("passwd: files\nsubid: sss\n")
    ranges = preflight_programs.subordinate(str(table), "ann", 1000, str(nsswitch))
    assert ranges == Ranges(str(table), ((100000, 65536), (300000, 10)), "sss")
    assert preflight_programs.subordinate(str(tmp_path / "none"), "ann", 1000, str(tmp_path / "none")).ranges == ()


@pytest.mark.parametrize(("source", "asked"), [("sss", True), ("files", False)])
def test_where_nsswitch_names_another_source_getsubids_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, asked: bool
) -> None:
    """In its place is a program that says what getsubids(1) would of a directory service."""
    from overlay import tools

    (tmp_path / "getsubids").write_text(
        '#!/bin/sh\ntest "$1" = -g && echo "0: $2 500000 65536" && exit\n'
        'echo "0: $1 400000 65536"; echo "1: $1 900000 10"\n'
    )
    (tmp_path / "getsubids").chmod(0o755)
    (tmp_path / "nsswitch").write_text(f"subid: {source}\n")
    monkeypatch.setattr(tools, "_paths", {})
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = [
        preflight_programs.subordinate(f"{tmp_path}/sub{kind}", "ann", 1000, f"{tmp_path}/nsswitch").ranges
        for kind in ("uid", "gid")
    ]
    assert found == ([((400000, 65536), (900000, 10)), ((500000, 65536),)] if asked else [(), ()])


@needs("getsubids")
def test_getsubids_itself_is_understood(tmp_path: Path) -> None:
    """What it says of a user without ranges anywhere."""
    (tmp_path / "nsswitch").write_text("subid: sss\n")
    found = preflight_programs.subordinate(f"{tmp_path}/subuid", "no-such-user", 1000, f"{tmp_path}/nsswitch")
    assert found.ranges == ()


@needs("getsubids", "subids")
@only_user
def test_getsubids_says_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "nsswitch").write_text("subid: sss\n")
    me = identity.caller()
    in_file, asked = (
        preflight_programs.subordinate(file, me.name, me.uid, f"{tmp_path}/nsswitch").ranges
        for file in ("/etc/subuid", f"{tmp_path}/subuid")
    )
    assert in_file and asked == in_file


def test_a_program_that_cannot_be_run_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overlay import tools

    bad = tmp_path / "fuse2fs"
    bad.write_bytes(b"\x7fELF, but no more")
    bad.chmod(0o755)
    monkeypatch.setattr(tools, "_paths", {"fuse2fs": str(bad), "mke2fs": str(tmp_path / "gone")})
    programs = {program.name: program for program in preflight_programs.look()}
    assert programs["fuse2fs"].problem
    assert programs["mke2fs"].problem == "it is not there, or not executable"


@needs("userns", "overlayfs")
def test_this_host_is_looked_at() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    host = preflight.look(identity.caller())
    assert host.kernel.namespaces == "" and host.kernel.tmpfs == ""
    assert host.kernel.features is not None and host.kernel.features.overlay
    assert preflight.ready(preflight.judge(host))
    assert Path("/proc/self/mountinfo").read_text() == before
    assert os.getuid() == host.who.uid
