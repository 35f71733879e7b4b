"""The one error a person sees: what happened, why, and what to try.

Library code raises ``OSError`` with the file's name, or its own format error. The level that knows
what the user wanted turns that into a `Failure`, with a hint where there is one.
"""

from __future__ import annotations

import errno
import os

USAGE = 2
OURS = 255


class Failure(Exception):
    """A failure worded for a person: ``brief`` (what), ``cause`` (why), ``hint`` (what to try)."""

    def __init__(self, brief: str, cause: str = "", hint: str = "", exit_code: int = OURS) -> None:
        super().__init__(brief, cause, hint, exit_code)
        self.brief = brief
        self.cause = cause
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        text = f"{self.brief}: {self.cause}" if self.cause else self.brief
        return f"{text}\n  try: {self.hint}" if self.hint else text


# What these numbers mean when a user asked for a file, a mount or a process (mount(2), clone(2), open(2)).
ADVICE = {
    errno.EACCES: "check the permissions of the file and of every directory above it",
    errno.ENOSPC: "free space there, or use another place",
    errno.EDQUOT: "your quota is used up there; free space, or use another place",
    errno.EROFS: "the file system is mounted read-only; use another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "this host has too many files open",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or end some of yours",
    errno.ENOMEM: "free memory, or raise the job's memory limit",
    errno.ESTALE: "the file system changed under us; run again",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ELOOP: "a symbolic link points at itself, or an autofs mount is not there yet: list it once, run again",
}


def from_oserror(brief: str, error: OSError, hint: str = "", exit_code: int = OURS) -> Failure:
    """A `Failure` that says what ``error`` means; ``hint`` wins over the table's advice."""
    cause = os.strerror(error.errno) if error.errno else str(error)
    if error.filename is not None:
        name = error.filename if isinstance(error.filename, str) else os.fsdecode(error.filename)
        if name not in brief:
            cause = f"{name}: {cause}"
    return Failure(brief, cause, hint or ADVICE.get(error.errno or 0, ""), exit_code)


def of_path(brief: str, error: OSError) -> Failure:
    """As `from_oserror`, for a path that a user wrote: says how much of it is there.

    Not for names below a descriptor, nor for those in a container or an image: they are looked up on the host.
    """
    if error.errno not in (errno.ENOENT, errno.ENOTDIR) or error.filename is None:
        return from_oserror(brief, error)
    path = there = os.path.abspath(os.fsdecode(error.filename))
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.exists(there):
        return Failure(brief, f"{there} is a symbolic link to {os.readlink(there)}, which is not there")
    if os.path.isdir(there):
        return from_oserror(brief, error, "" if there == path else last_directory(path))
    hint = "leave out the / at its end" if there == path else ""
    return Failure(brief, f"{there} is a file, not a directory", hint)


def last_directory(path: str) -> str:
    """The hint for an absolute ``path`` that is not there: how far it leads."""
    parent = os.path.dirname(path)
    while parent != "/" and not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    if parent.startswith("/cvmfs") or path.startswith("/cvmfs"):
        return "check that the CVMFS repository is mounted: ls " + "/".join(path.split("/")[:3])
    return f"{parent} is the last directory of that path that exists"


def defect(error: Exception) -> Failure:
    """What a person is told of an exception that should not be: a mistake of ours."""
    hint = "run it again with --debug, and report what it prints"
    return Failure("a defect in sifkit", f"{type(error).__name__}: {error}", hint)
