"""From the options about isolation to `Namespaces`, `Limits` and `Privileges`."""

from __future__ import annotations

from overlay.failure import USAGE, Failure
from overlay.records import TYPE_CHECKING
from sifkit.cli.usage import UsageError, size_of
from sifkit.runtime import userns
from sifkit.runtime.request import Namespaces

if TYPE_CHECKING:
    from sifkit.cli.spec import Given
    from sifkit.runtime.capabilities import Privileges
    from sifkit.runtime.cgroup import Limits

_HOSTNAME = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?"  # hostname(7); the kernel takes 64 bytes
_LIMITS = (
    "cpus", "cpu_shares", "cpuset_cpus", "cpuset_mems", "memory", "memory_swap", "memory_reservation", "pids_limit",
)  # fmt: skip


def _is_hostname(text: str) -> bool:
    import re

    return re.fullmatch(_HOSTNAME, text) is not None


def namespaces(given: Given) -> Namespaces:
    """What the container is to have of its own."""
    whole = given["containall"]
    name = given["hostname"] or ""
    if name and not _is_hostname(name):
        raise UsageError(f"--hostname {name}: letters, digits, '-' and '.', at most 64")
    network = given["network"]
    if network not in (None, "none"):
        raise UsageError(f"--network {network}: only 'none' is there; others need root's set-up of the host")
    if network and not given["net"]:
        raise UsageError("--network goes with --net")
    return Namespaces(
        pid=bool((given["pid"] or whole) and not given["no_pid"]),
        init=not given["no_init"],
        ipc=bool(given["ipc"] or whole),
        uts=bool(given["uts"]),
        hostname=name,
        net=bool(given["net"]),
        userns=bool(given["userns"]),
        fakeroot=bool(given["fakeroot"]),
    )


def limits(given: Given) -> Limits | None:
    """What it may use; None for no limit."""
    if all(given[name] is None for name in _LIMITS):
        return None
    from sifkit.runtime.cgroup import Limits

    _at_least(given, "cpus", 0.01)
    _at_least(given, "cpu_shares", 2, 262144)
    _at_least(given, "pids_limit", 1)
    memory, swap = _size(given, "memory"), _size(given, "memory_swap")
    if swap and (not memory or swap < memory):
        raise UsageError("--memory-swap is memory and swap together: give --memory too, and not more than that")
    return Limits(
        cpus=given["cpus"] or 0.0,
        shares=given["cpu_shares"] or 0,
        cpuset=given["cpuset_cpus"] or "",
        nodes=given["cpuset_mems"] or "",
        memory=memory,
        swap=swap,
        reservation=_size(given, "memory_reservation"),
        pids=given["pids_limit"] or 0,
    )


def privileges(given: Given) -> Privileges | None:
    """What changes the payload's capabilities; None for nothing."""
    for option in ("keep_privs", "allow_setuid"):
        if given[option] and not userns.privileged():
            name = "--" + option.replace("_", "-")
            raise Failure(f"{name} is root's", "there is nothing to keep", "leave it out", USAGE)
    if given["keep_privs"] and given["no_privs"]:
        raise UsageError("--keep-privs and --no-privs exclude each other")
    if not (given["no_privs"] or given["add_caps"] or given["drop_caps"]):
        return None
    from sifkit.runtime import capabilities

    return capabilities.Privileges(
        none=bool(given["no_privs"]),
        added=capabilities.parse("--add-caps", given["add_caps"]) if given["add_caps"] else 0,
        dropped=capabilities.parse("--drop-caps", given["drop_caps"]) if given["drop_caps"] else 0,
    )


def _at_least(given: Given, name: str, least: float, most: float = float("inf")) -> None:
    if given[name] is not None and not least <= given[name] <= most:
        option = "--" + name.replace("_", "-")
        limit = "" if most == float("inf") else f", at most {most}"
        raise UsageError(f"{option} {given[name]}: at least {least}{limit}")


def _size(given: Given, name: str) -> int:
    if given[name] is None:
        return 0
    return size_of(given[name], "--" + name.replace("_", "-"))
