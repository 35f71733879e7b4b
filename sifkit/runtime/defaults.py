"""The steps of an ordinary run: what real programs expect to find, in the order in which one may cover another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sifkit.runtime.accounts import Account
from sifkit.runtime.identity import Identity
from sifkit.runtime.steps import Bind, File, Link, Memory, Pseudo

if TYPE_CHECKING:
    from sifkit.runtime.request import Request
    from sifkit.runtime.step import Step

_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
_DEVICE_LINKS = (
    ("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0"), ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"), ("/dev/ptmx", "pts/ptmx"),
)  # fmt: skip

# A working directory here is the image's own business (Apptainer issue 4755).
_NEVER_CWD = frozenset(
    {"/", "/etc", "/bin", "/mnt", "/usr", "/var", "/opt", "/sbin", "/lib", "/lib64", "/proc", "/sys", "/dev"}
)


def steps(who: Identity, home: str, cwd: str, request: Request, accounts: bool) -> tuple[Step, ...]:
    """All steps in order. ``home``: absolute; ``cwd``: "" when the caller's cannot be told."""
    mounts = request.mounts
    in_home = mounts.home and home != "/"
    done: list[Step] = _contained_dev() if mounts.contain else [Bind("/dev", "/dev", devices=True)]
    done += [Bind(path, path, optional=True) for path in ("/etc/localtime", "/etc/hosts") if os.path.exists(path)]
    done += [Bind("/proc", "/proc", devices=True), Bind("/sys", "/sys", devices=True, optional=True)]
    if mounts.contain:
        done += [Memory(home, 0o700, optional=True)] if in_home else []
        done += [Memory("/tmp", 0o1777), Memory("/var/tmp", 0o1777, optional=True)]
    else:
        done += [Bind(home, home, optional=True)] if in_home and os.path.isdir(home) else []
        done += [Bind("/tmp", "/tmp", optional=True), Bind("/var/tmp", "/var/tmp", optional=True, exact=True)]
    if accounts:
        done += [Account("/etc/passwd", who), Account("/etc/group", who)]
    done += _resolver()
    done += sorted(mounts.binds, key=lambda bind: bind.destination.rstrip("/").count("/"))
    if not mounts.contain and not request.cwd:
        done += _working_directory(cwd, done)
    return tuple(done)


def _contained_dev() -> list[Step]:
    done: list[Step] = [Memory("/dev", 0o755)]
    done += [Bind(f"/dev/{name}", f"/dev/{name}", devices=True, optional=True) for name in _DEVICES]
    done += [Pseudo("devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620", optional=True)]
    done += [Memory("/dev/shm", 0o1777), Bind("/dev/mqueue", "/dev/mqueue", devices=True, optional=True)]
    return [*done, *(Link(name, to) for name, to in _DEVICE_LINKS)]


def _resolver() -> list[Step]:
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="surrogateescape") as file:
            return [File("/etc/resolv.conf", file.read())]
    except OSError:  # a host without name service: the image's own file stays
        return []


def _working_directory(cwd: str, before: list[Step]) -> list[Step]:
    if not cwd or cwd in _NEVER_CWD or cwd.startswith(("/proc/", "/sys/", "/dev/")):
        return []
    shown = [step.source.rstrip("/") for step in before if isinstance(step, Bind) and step.source == step.destination]
    visible = any(f"{cwd}/".startswith(f"{path}/") for path in shown)
    return [] if visible else [Bind(cwd, cwd, optional=True)]
