"""Options about what the container does not share with the host besides its mounts, and what it may use."""

from __future__ import annotations

from overlay.records import TYPE_CHECKING
from sifkit.cli.spec import Spec

if TYPE_CHECKING:
    from typing import Any

    import click


def _float() -> click.ParamType[Any]:
    import click

    return click.FLOAT


def _int() -> click.ParamType[Any]:
    import click

    return click.INT


OPTIONS = (
    Spec(("-f", "--fakeroot"), "Be root in the container: of files that are yours, and of your subordinate ids."),
    Spec(("-p", "--pid"), "Processes of its own: it sees no others, and all end with it."),
    Spec(("--no-pid",), "Not that, where another option implies it."),
    Spec(("--no-init",), "With --pid: the payload is process 1 itself, without our init."),
    Spec(("-i", "--ipc"), "System V IPC and message queues of its own."),
    Spec(("--uts",), "A host name of its own, the host's at first."),
    Spec(("--hostname",), "Set the host name in the container.", "NAME"),
    Spec(("-n", "--net"), "A network of its own, with nothing in it but lo."),
    Spec(("--network",), "With --net: what is in it; only 'none' is there.", "NAME"),
    Spec(("-u", "--userns"), "A user namespace for root, too: what others get."),
    Spec(("--no-privs",), "No capabilities for root either."),
    Spec(("--keep-privs",), "Root's capabilities; that is so without it."),
    Spec(("--add-caps",), "Give the payload capabilities: CAP_NET_RAW,... or all.", "LIST"),
    Spec(("--drop-caps",), "Take capabilities from it.", "LIST"),
    Spec(("--allow-setuid",), "Let set-uid programs work for root; that is so without it."),
    Spec(("--cpus",), "At most so many processors at a time (1.5).", "N", type=_float),
    Spec(("--cpu-shares",), "Share of processor time beside others (2 to 262144, usually 1024).", "N", type=_int),
    Spec(("--cpuset-cpus",), "Only these processors (0-3,7).", "LIST"),
    Spec(("--cpuset-mems",), "Only memory of these nodes (0,1).", "LIST"),
    Spec(("--memory",), "At most so much memory (500M, 2G); more is ended by the kernel.", "SIZE"),
    Spec(("--memory-swap",), "At most so much memory and swap together.", "SIZE"),
    Spec(("--memory-reservation",), "Memory that is spared while there is other.", "SIZE"),
    Spec(("--pids-limit",), "At most so many processes.", "N", type=_int),
)
