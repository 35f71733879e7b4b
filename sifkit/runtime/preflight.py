"""Can this host run us? Each need as one finding: what was found, and what to do about it.

The facts come from `preflight_kernel` and `preflight_programs`; here they are only judged, so that the
judgement can be tested for hosts that are not at hand.
"""

from __future__ import annotations

import os
import sys
from typing import Literal, NamedTuple

from overlay import tools
from sifkit.runtime import preflight_kernel, preflight_programs
from sifkit.runtime.identity import Identity
from sifkit.runtime.preflight_kernel import Kernel
from sifkit.runtime.preflight_programs import Program, Ranges

Mark = Literal["ok", "warn", "missing"]


class Finding(NamedTuple):
    """``mark``: ``warn`` when something does not work or is slower, ``missing`` when no container can run at all."""

    mark: Mark
    need: str
    found: str
    advice: str = ""


class Host(NamedTuple):
    """The facts. ``switches``: by the names of `preflight_kernel.SWITCHES`, "" where the host has no such switch.

    ``device``: what is wrong with /dev/fuse, "" when it can be opened. ``filtered``: a seccomp filter is on us.
    """

    who: Identity
    kernel: Kernel
    switches: dict[str, str]
    programs: tuple[Program, ...]
    ranges: tuple[Ranges, ...]
    device: str
    knows_overlay: bool
    filtered: bool


def look(who: Identity) -> Host:
    """Gather the facts; changes nothing on the host."""
    return Host(
        who=who,
        kernel=preflight_kernel.look(who.uid, who.gid),
        switches={name: preflight_kernel.switch(name) for name in preflight_kernel.SWITCHES},
        programs=preflight_programs.look(),
        ranges=tuple(preflight_programs.subordinate(f"/etc/sub{kind}", who.name, who.uid) for kind in ("uid", "gid")),
        device=_device("/dev/fuse"),
        knows_overlay=any(line.split()[-1:] == ["overlay"] for line in _read("/proc/filesystems").splitlines()),
        filtered="\nSeccomp:\t2\n" in _read("/proc/self/status"),
    )


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:  # /proc is not mounted here
        return ""


def _device(path: str) -> str:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def judge(host: Host) -> tuple[Finding, ...]:
    """Every need of a run and how ``host`` meets it, in the order in which a run needs them."""
    found = [_namespaces(host), *_switches(host), _tmpfs(host), *_overlay(host), _fuse(host)]
    if host.kernel.privileged:
        found.append(_loop(host))
    for wanted, program in zip(preflight_programs.WANTED, host.programs, strict=True):
        found.append(_program(wanted, program))
    if not host.kernel.privileged:
        found += [_range(ranges, host.who) for ranges in host.ranges]
    return tuple(found)


def _namespaces(host: Host) -> Finding:
    kernel = host.kernel
    need = "mount namespace" if kernel.privileged else "user namespace"
    if not kernel.namespaces:
        how = "root needs no user namespace" if kernel.privileged else f"uid {host.who.uid} is mapped to itself"
        return Finding("ok", need, f"made; {how}")
    advice = "the switches below say which of them forbids it"
    if not any(finding.mark != "ok" for finding in _switches(host)):
        advice = "ask whoever set up this host, or the container or chroot around us"
        if host.filtered:
            advice = "a seccomp filter is on us: start the container around us with --security-opt seccomp=unconfined"
    return Finding("missing", need, kernel.namespaces, advice)


def _switches(host: Host) -> list[Finding]:
    """The switches that forbid user namespaces to ordinary users; who got namespaces all the same is only told."""
    refused = bool(host.kernel.namespaces)
    bad: Mark = "missing" if refused and not host.kernel.privileged else "warn"
    value = host.switches
    done = []
    name = "user.max_user_namespaces"
    if not value[name]:
        done.append(Finding(bad, name, "not there: this kernel has no user namespaces", "use another kernel"))
    else:
        done.append(_at_least_one(bad, name, value[name], "15000"))
    name = "kernel.unprivileged_userns_clone"
    done.append(_at_least_one(bad, name, value[name], "1"))
    name = "kernel.apparmor_restrict_unprivileged_userns"
    if value[name] in ("", "0") or (not refused and not host.kernel.privileged):
        shown = {"": "not there, nothing is restricted", "1": "1, but not for this program"}
        done.append(Finding("ok", name, shown.get(value[name], value[name])))
    else:
        program = os.path.realpath(sys.executable)
        advice = f"as root: sysctl -w {name}=0, or an AppArmor profile with the rule 'userns,' for {program}"
        done.append(Finding(bad, name, value[name], advice))
    if value["SELinux"] == "1" and refused:
        done.append(Finding("warn", "SELinux", "enforcing", "as root: ausearch -m avc -ts recent shows what it denied"))
    else:
        done.append(Finding("ok", "SELinux", "enforcing, and lets us" if value["SELinux"] == "1" else "not enforcing"))
    return done


def _at_least_one(bad: Mark, name: str, value: str, proposed: str) -> Finding:
    if value != "0":
        return Finding("ok", name, value or "not there, nothing is restricted")
    advice = f"as root: sysctl -w {name}={proposed}, and a line in /etc/sysctl.d/ to keep it"
    return Finding(bad, name, "0: ordinary users get no user namespace", advice)


def _tmpfs(host: Host) -> Finding:
    if host.kernel.namespaces:
        return _untried("tmpfs to build on")
    if host.kernel.tmpfs:
        advice = "--debug shows more; in a container, the one around us must allow mounts"
        return Finding("missing", "tmpfs to build on", host.kernel.tmpfs, advice)
    return Finding("ok", "tmpfs to build on", "mounted")


def _untried(need: str) -> Finding:
    return Finding("warn", need, "not tried: it needs what is missing above")


def _overlay(host: Host) -> list[Finding]:
    """Kernel overlayfs or what stands in for it, and the three features that old kernels lack."""
    found = host.kernel.features
    needs = ("kernel overlayfs", "overlayfs lowerdir+", "overlayfs data-only layers", "user xattrs on tmpfs")
    if found is None:
        return [_untried(need) for need in needs]
    done = [Finding("ok", needs[0], "mounts, with userxattr")]
    if not found.overlay:
        done = [_no_overlay(host, needs[0], found.why_not)]
    elif found.lowerdir_append:
        done.append(Finding("ok", needs[1], "works: up to 500 layers, any path"))
    else:
        advice = "Linux 6.8 has it, if you stack hundreds of layers"
        done.append(Finding("warn", needs[1], "not there: mount(2) is used, with fewer layers", advice))
    if found.data_layers:
        done.append(Finding("ok", needs[2], "work: what others own is written over at kernel speed"))
    elif found.overlay:
        advice = "Linux 6.16 has them for ordinary users; --foreign squash changes such files, slowly"
        done.append(Finding("warn", needs[2], "not there: files of others' bases cannot be changed in place", advice))
    if found.tmpfs_xattr:
        done.append(Finding("ok", needs[3], "work"))
    else:
        advice = "choose a fast local directory with session_dir or SIFKIT_SESSION_DIR; Linux 6.6 has them"
        done.append(Finding("warn", needs[3], "not there: --writable-tmpfs keeps its changes on disk", advice))
    return done


def _no_overlay(host: Host, need: str, why_not: str) -> Finding:
    advice = "Linux 5.11 lets ordinary users mount it"
    if not host.knows_overlay:
        advice = "as root: modprobe overlay"
    stand_in = next(program for program in host.programs if program.name == "fuse-overlayfs")
    fuse = host.kernel.features is not None and host.kernel.features.fuse and not host.kernel.fuse_mount
    if fuse and stand_in.path and not stand_in.problem:
        return Finding("warn", need, f"refused ({why_not}): fuse-overlayfs is used, which is slower", advice)
    advice += "; or make fuse-overlayfs and /dev/fuse usable, see below"
    return Finding("missing", need, f"refused ({why_not}), and no fuse-overlayfs to stand in", advice)


def _fuse(host: Host) -> Finding:
    need = "/dev/fuse"
    lost = "no squashfs or ext3 images for ordinary users, no fuse-overlayfs"
    if host.device == "it is not there":
        advice = "as root: modprobe fuse; in a container: start the one around us with --device /dev/fuse"
        return Finding("warn", need, f"{host.device}: {lost}", advice)
    if host.device:
        advice = "as root: chmod 666 /dev/fuse, and a udev rule to keep it"
        return Finding("warn", need, f"{host.device}: {lost}", advice)
    found = host.kernel.features
    if found is not None and not found.fuse:
        return Finding("warn", need, f"SIFKIT_DEBUG_WITHOUT says so: {lost}", "unset the variable")
    if host.kernel.fuse_mount:
        advice = "Linux 4.18 lets ordinary users mount FUSE in a user namespace; or a security module forbids it"
        return Finding("warn", need, f"opens, but mounting is refused ({host.kernel.fuse_mount}): {lost}", advice)
    return Finding("ok", need, "opens" if found is None else "opens, and mounting works")


def _loop(host: Host) -> Finding:
    found = host.kernel.features
    if found is not None and found.loop:
        return Finding("ok", "loop devices", "can be had")
    advice = "for kernel speed: modprobe loop; in a container, one that is given /dev/loop-control"
    return Finding("warn", "loop devices", "/dev/loop-control is missing or closed: images go through FUSE", advice)


def _program(wanted: preflight_programs.Wanted, program: Program) -> Finding:
    package = tools.PACKAGES[program.name]
    if not program.path:
        return Finding("warn", program.name, f"not found: {wanted.without}", f"install the package {package}")
    if program.problem:
        advice = f"install the package {package} anew, or name another file in the configuration ([helpers])"
        return Finding("warn", program.name, f"{program.path}: {program.problem}; {wanted.without}", advice)
    shown = ".".join(str(number) for number in program.version) or "version not told"
    found = program.path if not wanted.ask else f"{shown}, {program.path}"
    if program.name == "fuse2fs" and () < program.version < preflight_programs.FUSE2FS_TYPES:
        lacks = "it lists no file types (d_type), so deleted names are read from the image itself"
        return Finding("ok", program.name, f"{found}; {lacks}")
    if program.name == "squashfuse_ll" and not program.takes_uid:
        return Finding("ok", program.name, f"{found}; it takes no uid=, so squashfuse is used instead")
    return Finding("ok", program.name, found)


def _range(ranges: Ranges, who: Identity) -> Finding:
    need = f"subordinate ids in {ranges.file}"
    if ranges.ranges:
        shown = ", ".join(f"{first} to {first + count - 1}" for first, count in ranges.ranges)
        source = f" (from {ranges.elsewhere}, as nsswitch.conf says)" if ranges.elsewhere else ""
        return Finding("ok", need, f"{shown}{source}: what --fakeroot makes the other users of")
    if ranges.elsewhere:
        lacks = f"none, nor from {ranges.elsewhere} of nsswitch.conf: with --fakeroot there is root alone"
        advice = f"ask who keeps {ranges.elsewhere} for a range; it is read by getsubids (uidmap 4.13 or later)"
        return Finding("warn", need, lacks, advice)
    option = "--add-subuids" if ranges.file.endswith("subuid") else "--add-subgids"
    advice = f"as root: usermod {option} 100000-165535 {who.name} (or another range that nobody has)"
    return Finding("warn", need, f"none for {who.name}: with --fakeroot there is root alone, and apt fails", advice)


def ready(findings: tuple[Finding, ...]) -> bool:
    """Whether a container can run: nothing essential is missing."""
    return all(finding.mark != "missing" for finding in findings)
