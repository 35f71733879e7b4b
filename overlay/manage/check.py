"""Is an ext2/3/4 image sound, and mending it when it is not: e2fsck, its verdict in plain words.

The caller holds the image's lock: exclusively to mend it.
"""

from __future__ import annotations

import enum
import os

from overlay import e2fsprogs, superblock
from overlay.manage import edit_log
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.section import Section

if TYPE_CHECKING:
    from typing import Final

# What e2fsck asks, and answers itself under -n; and lines that say nothing about this image's health.
_QUESTION: Final = r" *[A-Z][-a-z ]*\? (no|yes)$"
_NOISE: Final = r"^Pass |^e2fsck 1\.|\d/\d+ files\b|\*\*\*|skipping journal recovery"

_JOURNAL_MAGIC: Final = bytes.fromhex("c03b3998")  # big endian, as all of jbd2
_JOURNAL_START: Final = 28


class Outcome(enum.Enum):
    CLEAN = "clean"
    MENDED = "mended"
    DAMAGED = "damaged"  # errors are left, that only e2fsck run by a person may decide on
    FAILED = "not checked"  # e2fsck itself could not do its work


class Verdict(NamedTuple):
    """``summary`` is a sentence without full stop, ``details`` what e2fsck did or found, ``command`` what to run."""

    outcome: Outcome
    summary: str
    details: tuple[str, ...] = ()
    command: str = ""

    @property
    def usable(self) -> bool:
        return self.outcome in (Outcome.CLEAN, Outcome.MENDED)


def needs_check(section: Section) -> bool:
    """Whether its last writer did not end properly, as the superblock or an undo log says. Raises OSError, ExtError."""
    if edit_log.cut_off(section):
        return True
    fd = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not superblock.read(fd, section.offset).clean
    finally:
        os.close(fd)


def check(section: Section, mend: bool, *, force: bool = False) -> Verdict:
    """Check the image; with ``mend`` replay its journal and mend what is safe to mend (``e2fsck -p``).

    Without ``mend`` nothing is written, and the whole image is read (``e2fsck -fn``). With it, an image that
    was left properly is believed unless ``force``. Raises Failure when e2fsck is missing; never for a verdict.
    """
    taken = _take_back(section) if mend else ()
    taken_back = mend and edit_log.cut_off(section)
    if taken_back:
        edit_log.take_back(section)
    options = (["-p", "-f"] if force else ["-p"]) if mend else ["-fn"]
    recovery = mend and _needs_recovery(section)
    done = e2fsprogs.e2fsck(section, *options, write=mend)
    if recovery and section.offset and done.status & e2fsprogs.FSCK_BROKEN_OFF and _journal_is_empty(section):
        done = _after_replay(section)
    details = _details(section, done.said)
    command = f"e2fsck -f {_quoted(section.spec)}"
    if done.status < 0:
        return Verdict(Outcome.FAILED, f"e2fsck was killed by signal {-done.status}", details, command)
    if done.status & (e2fsprogs.FSCK_BROKEN_OFF | 16 | 32 | 128):
        cause = details[-1] if details else f"exit status {done.status}"
        return Verdict(Outcome.FAILED, f"it could not be checked: {cause}", details, command)
    if done.status & e2fsprogs.FSCK_LEFT:
        return Verdict(Outcome.DAMAGED, _damage(section, mend), details, command)
    if taken_back:
        return Verdict(Outcome.MENDED, "an edit of it was cut off, and has been taken back", details)
    if done.status & (e2fsprogs.FSCK_MENDED | e2fsprogs.FSCK_REBOOT) or recovery:
        return Verdict(Outcome.MENDED, _mended(recovery, details), details)
    if taken:
        return Verdict(Outcome.MENDED, "; ".join(taken), details)
    return Verdict(Outcome.CLEAN, _clean(section, mend, force), details)


def _take_back(section: Section) -> tuple[str, ...]:
    """Commits that were cut off are undone first: what e2fsck changes would not fit the undo log any more."""
    from overlay.session import pending as session_pending

    return tuple(session_pending.take_back(section))


def _needs_recovery(section: Section) -> bool:
    fd = os.open(section.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return superblock.read(fd, section.offset).needs_recovery
    except superblock.ExtError:
        return False  # e2fsck will say it, and may know a backup of the superblock
    finally:
        os.close(fd)


def _journal_is_empty(section: Section) -> bool:
    """Whether the journal's own superblock says that nothing in it waits (jbd2's s_start is 0)."""
    from overlay.extread.reader import ExtError, ExtReader

    try:
        with ExtReader(section) as reader:
            first = next(reader.extents(reader.inode(reader.superblock.journal_inode)))
            head = os.pread(reader.fileno(), _JOURNAL_START + 4, first.place)
    except (ExtError, StopIteration):
        return False
    return head[:4] == _JOURNAL_MAGIC and head[_JOURNAL_START:] == bytes(4)


def _after_replay(section: Section) -> e2fsprogs.Fsck:
    """Go on where e2fsck loses its way at an offset.

    Having replayed the journal and emptied it, e2fsck opens the file system again, forgets the offset and gives
    up with "Bad magic number" before it clears the needs_recovery flag (1.47.0, 1.47.4). All that is missing
    then is the flag; the full check follows.
    """
    e2fsprogs.debugfs(section, [[b"feature", b"-needs_recovery"]], write=True)
    return e2fsprogs.e2fsck(section, "-p", "-f", write=True)


def _clean(section: Section, mend: bool, force: bool) -> str:
    if mend:
        return "no errors found" if force else "left properly"
    waiting = _needs_recovery(section)
    return "no errors found" + (", but its journal holds writes to replay" if waiting else "")


def _damage(section: Section, mend: bool) -> str:
    if mend:
        return "damaged: some errors cannot be mended without a decision of yours"
    if _needs_recovery(section):
        return "its journal holds writes to replay; what looks wrong may be right after that"
    return "damaged: errors were found"


def _mended(recovery: bool, details: tuple[str, ...]) -> str:
    """What happened to the image, for a person who wants to go on."""
    acts = [line for line in details if "check forced" not in line and "recovering journal" not in line]
    parts = ["its last writer was killed"]
    if recovery:
        parts.append("the journal was replayed")
    if acts:
        parts.append(f"{len(acts)} thing{'s' if len(acts) > 1 else ''} mended ({acts[0]})")
    elif not recovery:
        parts.append("its counters were mended")
    return "; ".join(parts)


def _details(section: Section, said: str) -> tuple[str, ...]:
    """e2fsck's lines without its name, the image's name, its questions and the closing statistics."""
    import re

    lines = []
    for line in said.splitlines():
        text = line.strip().removeprefix("e2fsck: ").removeprefix(section.spec).removeprefix(section.path)
        text = re.sub(_QUESTION, "", text.lstrip(": ")).strip()
        if text and not re.search(_NOISE, text) and text not in lines:
            lines.append(text)
    return tuple(lines)


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
