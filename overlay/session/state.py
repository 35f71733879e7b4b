"""A session: the writable state of one run on an ext3 overlay, kept in a directory until it is in the image.

    SESSION/upper, work    the directories of kernel overlayfs: what the run changed
    SESSION/record         JSON: whose it is, of which image, how far it is (`Record`); replaced, never rewritten
    SESSION/lower          what the image held, where it was unpacked
    SESSION/undo           what a commit overwrites, where that cannot lie beside the image

Its states, in order (docs/staged-writes.md has the drawing):

    open      a run writes into upper/, or did until it was killed; nothing of it is in the image
    intent    a commit began: the undo log takes it back, wherever it was cut off
    done      everything is in the image; the directory only waits to be removed
"""

from __future__ import annotations

import contextlib
import os
import stat
import zlib

from overlay import flatjson, superblock
from overlay.locks import holder as holders
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

    from overlay.section import Section

PREFIX: Final = "sifkit-session-"
RECORD: Final = "record"
OPEN, INTENT, DONE = "open", "intent", "done"
_LARGEST: Final = 1 << 20
_NUMBERS: Final = ("offset", "size", "inode", "uid", "pid", "since", "started")


class Record(NamedTuple):
    """What ``SESSION/record`` says. Paths are absolute, ``offset`` and ``size`` bytes, ``since`` seconds since 1970.

    ``uuid`` and ``superblock``: of the file system as the session knows it (`Identity`). ``inode``: of the image
    file. ``base``: the root that the changes were made on. ``below``: the directories below the overlay, if a later
    process can see them too; NUL between them, topmost first. ``undo``: where a commit of it keeps its undo log.
    ``host`` to ``job``: the process that uses it, as in `overlay.locks.holder.Holder`. ``ids``: of the user namespace
    whose ids count in it, "" for one in which the caller's is what it is.
    """

    name: str
    state: str
    image: str
    offset: int
    size: int
    inode: int
    uuid: str
    superblock: str
    base: str
    below: str
    undo: str
    uid: int
    host: str
    pid: int
    command: str
    since: float
    boot_id: str
    pid_namespace: str
    started: int
    job: str
    ids: str = ""

    @property
    def holder(self) -> holders.Holder:
        """Its process."""
        return holders.Holder(
            self.image, True, self.host, self.pid, self.command, self.since, self.boot_id, self.pid_namespace,
            self.started, self.job,
        )  # fmt: skip

    @property
    def whose(self) -> str:
        """Its run in words: ``process 4711 on node7 (job 99), 2026-01-31 10:00``."""
        import time

        job = f" (job {self.job})" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.since))}"


class Session(NamedTuple):
    """A session that can be reached: its directory ``path``, and what its record says."""

    path: str
    record: Record

    @property
    def upper(self) -> str:
        return f"{self.path}/upper"

    @property
    def work(self) -> str:
        return f"{self.path}/work"

    @property
    def has_changes(self) -> bool:
        """Whether there is any name in its upper, a deleted one too."""
        with os.scandir(self.upper) as found:
            return next(found, None) is not None

    def put(self, *, durable: bool = True, **changes: str | int | float) -> Session:
        """The session with other values in its record, on disk when this returns if ``durable``. Raises OSError."""
        changed = Session(self.path, self.record._replace(**changes))  # type: ignore[arg-type]
        write(changed.path, changed.record, durable=durable)
        return changed


class Caller(NamedTuple):
    """Whose a session is: ``uid`` on the host; ``ids``: as in `Record`."""

    uid: int
    ids: str = ""


class Identity(NamedTuple):
    """Which image, and as of when: the file's ``inode``, the file system's ``uuid`` in hex, and ``superblock``.

    That is a checksum of it with the time of the last write to the file: counts may be the same again, and the time
    in it has whole seconds.
    """

    inode: int
    uuid: str
    superblock: str


def identity(section: Section) -> Identity:
    """Of the image in ``section``, as it is now. Raises OSError, ExtError."""
    fd = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(fd, superblock.SUPERBLOCK_SIZE, section.offset + superblock.SUPERBLOCK_OFFSET)
        found = superblock.parse(data)
        status = os.fstat(fd)
        return Identity(status.st_ino, found.uuid.hex(), f"{zlib.crc32(data):08x}-{status.st_mtime_ns}")
    finally:
        os.close(fd)


def create(root: str, section: Section, base: str, below: str, pid: int, caller: Caller | None = None) -> Session:
    """Make an open session for ``section`` below the directory ``root``, of the process ``pid``.

    ``base`` and ``below``: as in `Record`. ``caller``: when this process is in a namespace of other ids.
    Not flushed to disk: as long as nothing is in it there is nothing to lose.
    Raises OSError, ExtError.
    """
    of = identity(section)
    me = holders.myself(section.path, True)
    caller = caller or Caller(os.geteuid())
    name = f"{me.host}-{pid}-{os.urandom(3).hex()}"
    path = os.path.join(root, PREFIX + name)
    os.mkdir(path, 0o700)
    record = Record(
        name, OPEN, os.path.abspath(section.path), section.offset, section.size, of.inode, of.uuid, of.superblock, base,
        below, "", caller.uid, me.host, pid, me.command, me.since, me.boot_id, me.pid_namespace, holders.started(pid),
        me.job, caller.ids,
    )  # fmt: skip
    try:
        for part in ("upper", "work"):
            os.mkdir(f"{path}/{part}", 0o755)
        write(path, record, durable=False)
    except BaseException:
        remove(path)
        raise
    return Session(path, record)


def write(path: str, record: Record, *, durable: bool) -> None:
    """Replace the record of the session ``path``. Raises OSError."""
    fresh = f"{path}/{RECORD}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, flatjson.encode(record._asdict()) + b"\n")
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(fresh, f"{path}/{RECORD}")
    if durable:
        sync_directory(path)


def sync_directory(path: str) -> None:
    """fsync(2) of a directory: names made, moved and removed in it are on disk then. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def follow(link: str) -> str:
    """Where ``link`` leads, itself when it is none, or is taken away meanwhile: other runs end when they like."""
    try:
        return os.path.realpath(link)
    except FileNotFoundError:  # Python 3.11 looks twice at a link
        return link


def read(path: str) -> Session | None:
    """The session in the directory ``path``; None when there is none that can be understood and trusted.

    Anybody can point at a directory. Only one of the caller's own is believed; root also believes those whose
    owner the record's directory and file agree on.
    """
    try:
        fd = os.open(f"{path}/{RECORD}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            owner = os.fstat(fd).st_uid
            data = os.read(fd, _LARGEST)
        finally:
            os.close(fd)
        if owner not in (os.geteuid(), *([owner] if os.geteuid() == 0 else [])):
            return None
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner:
            return None
        # With --fakeroot its top may be given to a subordinate id, whom nobody but the owner can have made it.
        if not stat.S_ISDIR(os.lstat(f"{path}/upper").st_mode):
            return None
        record = _decode(data)
    except OSError:
        return None
    return None if record is None or record.uid != owner else Session(path, record)


def _decode(data: bytes) -> Record | None:
    try:
        fields = flatjson.decode(data)
        record = Record(**{name: fields[name] for name in Record._fields if name in fields or name != "ids"})
    except (ValueError, TypeError, KeyError):
        return None
    right = all(isinstance(value, (int, float) if name in _NUMBERS else str) for name, value in fields.items())
    return record if right and os.path.isabs(record.image) and record.state in (OPEN, INTENT, DONE) else None


def remove(path: str) -> None:
    """Remove the session's directory, however deep, and whatever the modes in it. What cannot be removed stays.

    The record goes first: what is half removed is no session.
    """
    from overlay import remove as tree

    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.is_dir(follow_symlinks=False))
        for entry in found:
            with contextlib.suppress(OSError):
                tree.remove(entry.path)
        os.rmdir(path)
