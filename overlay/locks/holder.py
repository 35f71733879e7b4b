"""Who holds a lock: the records beside locks, and what /proc says of the processes of this host.

The kernel does not tell (F_OFD_GETLK answers pid -1), so every holder writes a record, three times over:
a JSON file of its own in a per-user directory (`ps` lists those); a writer also where others and other hosts
can read it: an image in the attribute ``user.sifkit.lock.OFFSET``, a directory in its lock file. Records are
only ever informative: they are written after the lock is taken, may be missing, and prove nothing alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from overlay import flatjson
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

_LONGEST_COMMAND: Final = 200
_LARGEST_RECORD: Final = 4096
_LATEST: Final = 2**40  # seconds since 1970; time.localtime fails for absurd ones
_JOB_VARIABLES: Final = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "OAR_JOB_ID")


class Key(NamedTuple):
    """What is locked, whatever its name: device and inode of the locked file, and the first byte locked."""

    device: int
    inode: int
    offset: int


class Holder(NamedTuple):
    """A process that holds, or held, a lock. ``since``: seconds since 1970; ``started``: ticks since boot."""

    path: str
    exclusive: bool
    host: str
    pid: int
    command: str
    since: float
    boot_id: str = ""
    pid_namespace: str = ""
    started: int = 0
    job: str = ""

    @property
    def alive(self) -> bool | None:
        """Whether that very process still lives; None when it cannot be told from here (another host)."""
        if self.host != host():
            return None
        if self.boot_id != boot_id():
            return False
        if self.pid_namespace != _pid_namespace():
            return None
        return self.started != 0 and started(self.pid) == self.started

    def describe(self) -> str:
        """``pid 4711 on node7 (job 99) since 2026-01-31 10:00:00: sifkit exec ...``"""
        job = f" (job {self.job})" if self.job else ""
        when = time.strftime(" since %Y-%m-%d %H:%M:%S", time.localtime(self.since)) if self.since else ""
        command = "".join(c if c.isprintable() else "?" for c in self.command)
        return f"pid {self.pid} on {self.host}{job}{when}: {command}"


def host() -> str:
    """This host's name. ``SIFKIT_DEBUG_HOST`` makes it another one, with a boot of its own."""
    return os.environ.get("SIFKIT_DEBUG_HOST") or os.uname().nodename


def boot_id() -> str:
    """This boot of this host (random(4)); empty where /proc does not tell."""
    return os.environ.get("SIFKIT_DEBUG_HOST") or _text("/proc/sys/kernel/random/boot_id")


def myself(path: str, exclusive: bool) -> Holder:
    """The record of the calling process."""
    pid = os.getpid()
    job = next((os.environ[name] for name in _JOB_VARIABLES if name in os.environ), "")
    return Holder(
        os.path.abspath(path), exclusive, host(), pid, _command(pid), time.time(),
        boot_id(), _pid_namespace(), started(pid), job,
    )  # fmt: skip


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST_RECORD).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _command(pid: int) -> str:
    return _text(f"/proc/{pid}/cmdline").replace("\0", " ").strip()[:_LONGEST_COMMAND]


def started(pid: int) -> int:
    """Field 22 of /proc/PID/stat (proc(5)): ticks after boot; 0 when there is no such process."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] not in "ZX" else 0


def parent(pid: int) -> int:
    """Field 4 of /proc/PID/stat (proc(5)), the parent's pid; 0 when there is no such process."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def encode(holder: Holder) -> bytes:
    """``holder`` as one JSON object."""
    return flatjson.encode(holder._asdict())


def decode(data: bytes) -> Holder | None:
    """The record in ``data``; None when it is none (anybody can write there)."""
    try:
        fields = flatjson.decode(data)
        holder = Holder(**{name: fields[name] for name in Holder._fields if name in fields})
    except (ValueError, TypeError):
        return None
    texts = (holder.path, holder.host, holder.command, holder.boot_id, holder.pid_namespace, holder.job)
    numbers = (holder.pid, holder.started, holder.since)
    right = all(isinstance(text, str) for text in texts) and all(type(n) in (int, float) for n in numbers)
    return holder if right and abs(holder.since) < _LATEST else None


def _directories() -> list[str]:
    """Where records may lie: the runtime directory is fast and local, the cache directory always there."""
    places = []
    if os.environ.get("XDG_RUNTIME_DIR"):
        places.append(os.environ["XDG_RUNTIME_DIR"])
    home = os.environ.get("HOME", "")
    cache = os.environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home else "")
    if cache:
        places.append(cache)
    return [os.path.join(place, "sifkit", "locks") for place in places if os.path.isabs(place)]


def write_record(key: Key, holder: Holder, *, for_other_hosts: bool) -> str | None:
    """Write ``holder``'s own file; its path, or None where none of the directories can be written.

    ``for_other_hosts``: rather into the cache directory, below the home that the hosts of a cluster share.
    """
    name = f"{key.device:x}-{key.inode}-{key.offset}-{holder.pid}-{os.urandom(4).hex()}.json"
    places = _directories()
    for directory in reversed(places) if for_other_hosts else places:
        path = os.path.join(directory, name)
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        except OSError:  # informative only: a full or read-only home must not stop a run
            continue
        with os.fdopen(fd, "wb") as file, contextlib.suppress(OSError):
            file.write(encode(holder))
        return path
    return None


def _read_record(path: str) -> Holder | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return decode(os.read(fd, _LARGEST_RECORD))
    except OSError:
        return None
    finally:
        os.close(fd)


def records(key: Key | None = None, path: str = "") -> Iterator[Holder]:
    """The caller's own records, of ``key`` or of everything; those of dead processes are cleared away.

    Another host numbers its devices in its own way: its records are told by inode, offset and ``path``.
    """
    here = host()
    prefix = f"{key.device:x}-" if key else ""
    rest = f"-{key.inode}-{key.offset}-" if key else ""
    for directory in _directories():
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in names:
            if rest not in name or not name.endswith(".json"):
                continue
            holder = _read_record(os.path.join(directory, name))
            if holder is None:
                continue
            if holder.alive is False:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(directory, name))
            elif not key or (name.startswith(prefix) if holder.host == here else holder.path == path):
                yield holder


def processes(locked: os.stat_result, offset: int) -> Iterator[Holder]:
    """The processes of this host that hold a lock on that file at ``offset``, as far as the caller may see.

    From the ``lock:`` lines of /proc/PID/fdinfo (proc(5)). Finds holders that write no records too, such as a
    FUSE server that outlived Apptainer.
    """
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
            for name in os.listdir(f"/proc/{entry}/fdinfo"):
                mode = _locks(f"/proc/{entry}/fdinfo/{name}", locked.st_ino, offset)
                if mode and os.path.samestat(os.stat(f"/proc/{entry}/fd/{name}"), locked):
                    yield _seen(int(entry), f"/proc/{entry}/fd/{name}", mode == "WRITE")
                    break


def _locks(fdinfo: str, inode: int, offset: int) -> str:
    """READ or WRITE when the descriptor holds a lock on ``inode`` that covers byte ``offset``."""
    for line in _text(fdinfo).splitlines():
        words = line.split()
        if len(words) >= 9 and words[0] == "lock:" and words[6].rpartition(":")[2] == str(inode):
            start, end = words[7], words[8]
            if int(start) <= offset and (end == "EOF" or offset <= int(end)):
                return words[4]
    return ""


def _seen(pid: int, link: str, exclusive: bool) -> Holder:
    path = os.readlink(link)
    return Holder(path, exclusive, host(), pid, _command(pid), 0.0, boot_id(), _pid_namespace(), started(pid))
