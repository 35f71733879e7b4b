"""The steps of an ordinary run: what real programs expect to find, in the order in which one may cover another."""

from __future__ import annotations

import os

from overlay.records import TYPE_CHECKING
from sifkit.runtime.accounts import Account
from sifkit.runtime.identity import Identity
from sifkit.runtime.steps import Bind, File, Link, Memory, Pseudo

if TYPE_CHECKING:
    from sifkit.runtime.request import Mounts, Namespaces, Request
    from sifkit.runtime.step import Step

_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
_DEVICE_LINKS = (
    ("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0"), ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)  # fmt: skip

# A working directory here is the image's own business (Apptainer issue 4755).
_NEVER_CWD = frozenset(
    {"/", "/etc", "/bin", "/mnt", "/usr", "/var", "/opt", "/sbin", "/lib", "/lib64", "/proc", "/sys", "/dev"}
)


def steps(who: Identity, cwd: str, request: Request, accounts: bool) -> tuple[Step, ...]:
    """All steps in order. ``who``: with the home of the container; ``cwd``: "" when the caller's cannot be told."""
    mounts = request.mounts
    # A home below /tmp comes after it, which would cover it, and one above /var/tmp before.
    own = sorted([*_temporary(mounts), *_home(mounts, who.home)], key=_depth)
    scratch = _scratch(mounts)
    done = [*_system(mounts, request.namespaces), *own, *scratch]
    if accounts:
        kept = request.namespaces.fakeroot
        done += [Account(path, who, kept=kept) for path in ("/etc/passwd", "/etc/group")]
    done += _resolver(mounts.dns)
    if request.namespaces.hostname:
        done.append(File("/etc/hostname", f"{request.namespaces.hostname}\n"))
    if mounts.without:
        done = [step for step in done if step.destination not in mounts.without]
    done += sorted(mounts.binds, key=_depth)
    if not mounts.contain and "cwd" not in mounts.without:
        done += _working_directory(cwd, done)
    return tuple(_with_points(done, (*scratch, *mounts.binds)))


def _system(mounts: Mounts, own: Namespaces) -> list[Step]:
    """/dev, /proc, /sys, and what of the host's /etc every program reads."""
    without = mounts.without
    done: list[Step] = []
    if "dev" not in without:
        contained = mounts.contain
        done += _contained_dev("devpts" not in without, own.ipc) if contained else [Bind("/dev", "/dev", devices=True)]
    if "bind-paths" not in without:
        done += [Bind(path, path, optional=True) for path in ("/etc/localtime", "/etc/hosts") if os.path.exists(path)]
    done += [] if "proc" in without else [_proc(own.pid)]
    return done + ([] if "sys" in without else [Bind("/sys", "/sys", devices=True, optional=True)])


def _proc(own: bool) -> Step:
    if not own:
        return Bind("/proc", "/proc", devices=True)
    from sifkit.runtime.step_proc import Proc

    return Proc()


def _contained_dev(terminals: bool, own_ipc: bool) -> list[Step]:
    done: list[Step] = [Memory("/dev", 0o755)]
    done += [Bind(f"/dev/{name}", f"/dev/{name}", devices=True, optional=True) for name in _DEVICES]
    if terminals:
        done.append(Pseudo("devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620", optional=True))
        done.append(Link("/dev/ptmx", "pts/ptmx"))
    host_queues = Bind("/dev/mqueue", "/dev/mqueue", devices=True, optional=True)
    queues = Pseudo("mqueue", "/dev/mqueue", optional=True) if own_ipc else host_queues
    done += [Memory("/dev/shm", 0o1777), queues]
    return [*done, *(Link(name, to) for name, to in _DEVICE_LINKS)]


def _home(mounts: Mounts, at: str) -> list[Step]:
    shown, source, _ = mounts.home
    if not shown or at == "/":
        return []
    if mounts.contain and mounts.workdir:
        return [Bind(f"{mounts.workdir}/home", at, made=0o700)]
    if source:
        return [Bind(source, at) if os.path.isdir(source) else Memory(at, 0o700)]
    if mounts.contain:
        return [Memory(at, 0o700, optional=True)]
    return [Bind(at, at, optional=True)] if os.path.isdir(at) else []


def _temporary(mounts: Mounts) -> list[Step]:
    if "tmp" in mounts.without:
        return []
    if not mounts.contain:
        return [Bind("/tmp", "/tmp", optional=True), Bind("/var/tmp", "/var/tmp", optional=True, exact=True)]
    if mounts.workdir:
        names = (("tmp", "/tmp"), ("var_tmp", "/var/tmp"))
        return [Bind(f"{mounts.workdir}/{name}", at, made=0o1777) for name, at in names]
    return [Memory("/tmp", 0o1777), Memory("/var/tmp", 0o1777, optional=True)]


def _scratch(mounts: Mounts) -> list[Step]:
    if not mounts.workdir:
        return [Memory(path) for path in mounts.scratch]
    return [Bind(f"{mounts.workdir}/scratch{path}", path, made=0o750) for path in mounts.scratch]


def _resolver(dns: tuple[str, ...]) -> list[Step]:
    if dns:
        return [File("/etc/resolv.conf", "".join(f"nameserver {address}\n" for address in dns))]
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="surrogateescape") as file:
            return [File("/etc/resolv.conf", file.read())]
    except OSError:  # a host without name service: the image's own file stays
        return []


def _working_directory(cwd: str, before: list[Step]) -> list[Step]:
    """Nothing where a step shows it, or something else in its place (Apptainer issue 4587)."""
    if not cwd or cwd in _NEVER_CWD or cwd.startswith(("/proc/", "/sys/", "/dev/")):
        return []
    covered = any(_inside(cwd, step.destination) for step in before)
    return [] if covered else [Bind(cwd, cwd, optional=True)]


def _with_points(done: list[Step], asked: tuple[Step, ...]) -> list[Step]:
    """The mount points of ``asked`` that lie in a bind are made there, on the host, as Apptainer does: where else?

    Not that of a home: whoever misspells ``--home`` would find a directory of that name on the host.
    """
    points: dict[int, list[tuple[str, bool]]] = {}
    for number, step in enumerate(done):
        if step not in asked:
            continue
        around = [at for at in range(number) if _inside(step.destination, done[at].destination)]
        outer = done[around[-1]] if around else None
        if isinstance(outer, Bind) and not outer.devices and outer.destination != step.destination:
            path = step.destination[len(outer.destination) :].strip("/")
            points.setdefault(around[-1], []).append((path, step.is_directory()))
    return [
        step._replace(points=tuple(points[number])) if isinstance(step, Bind) and number in points else step
        for number, step in enumerate(done)
    ]


def _depth(step: Step) -> int:
    return step.destination.rstrip("/").count("/")


def _inside(path: str, place: str) -> bool:
    return f"{path}/".startswith(f"{place.rstrip('/')}/")
