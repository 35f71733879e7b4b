"""How much memory a throwaway overlay may take: what the job or the host leaves, not a fixed 64 MiB."""

from __future__ import annotations

MOST = 1 << 30
LEAST = 1 << 26


def tmpfs_default() -> int:
    """Bytes for ``--writable-tmpfs``: 1 GiB, or half of what is left if that is less; at least 64 MiB."""
    return max(LEAST, min(MOST, left() // 2))


def left() -> int:
    """Bytes this process may still use: MemAvailable, or less if its control group allows less."""
    limits = [_available()]
    for directory, limit, usage in _cgroups():
        most, used = _number(f"{directory}/{limit}"), _number(f"{directory}/{usage}")
        if most is not None and used is not None:
            limits.append(max(0, most - used))
    return min(limits)


def _available() -> int:
    with open("/proc/meminfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return MOST


def _cgroups() -> list[tuple[str, str, str]]:
    """The memory control groups of this process: directory, name of the limit, name of the usage file."""
    found = []
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if not controllers:
                found.append((f"/sys/fs/cgroup{path}", "memory.max", "memory.current"))
            elif "memory" in controllers.split(","):
                place = f"/sys/fs/cgroup/memory{path}"
                found.append((place, "memory.limit_in_bytes", "memory.usage_in_bytes"))
    return found


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="utf-8") as file:
            return int(file.read())
    except (OSError, ValueError):  # no such controller, or "max"
        return None
