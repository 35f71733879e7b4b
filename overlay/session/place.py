"""Where a session's directory may lie: the first place that serves, and what is to be said of it.

An upper directory needs a file system that kernel overlayfs is known to be safe on; unknown network file systems
have crashed kernels under it. So a list comes first, and a trial with a session of our own second.
"""

from __future__ import annotations

import errno
import os
import stat

from overlay import linux
from overlay.features import takes_xattr
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.stack import driver

if TYPE_CHECKING:
    from typing import Final

    from overlay.section import Section

VARIABLE: Final = "SIFKIT_SESSION_DIR"
_ENOUGH: Final = 16 << 20  # bytes free: less serves nobody


class Place(NamedTuple):
    """``root``: the directory to make the session in; "" when none serves, and ``why_not``.

    ``fstype``: of its file system. ``volatile``: why it may be gone before its changes are in the image, else "".
    """

    root: str
    fstype: str = ""
    volatile: str = ""
    why_not: str = ""


class _Candidate(NamedTuple):
    root: str
    what: str  # as a person would call it
    make: bool = False  # it may be made where it is missing
    local: bool = False  # it lies on this host alone, for all we know


def roots(image: str = "") -> list[str]:
    """Every directory that may hold sessions (of ``image``), in the order in which they are tried."""
    return list(dict.fromkeys(candidate.root for candidate in _candidates(image)))


def state_directory() -> str:
    """Where sessions of this user lie that lie nowhere else, and links to those that do; "" without a home."""
    home = os.environ.get("HOME", "")
    state = os.environ.get("XDG_STATE_HOME") or (f"{home}/.local/state" if home else "")
    return f"{state}/sifkit/sessions" if os.path.isabs(state) else ""


def _candidates(image: str) -> list[_Candidate]:
    found = []
    if given := os.environ.get(VARIABLE):
        found.append(_Candidate(os.path.abspath(given), VARIABLE))
    if image:
        found.append(_Candidate(os.path.dirname(os.path.abspath(image)), "beside the image"))
    if state := state_directory():
        found.append(_Candidate(state, "XDG_STATE_HOME", make=True))
    found.append(_Candidate(os.environ.get("TMPDIR") or "/tmp", "TMPDIR", local=True))
    return found


def choose(section: Section, required: str = "") -> Place:
    """The place for a session of ``section``: ``required`` (--session-dir) if given, else the first that serves."""
    candidates = [_Candidate(os.path.abspath(required), "--session-dir")] if required else _candidates(section.path)
    refusals = []
    for candidate in candidates:
        place = _try(candidate)
        if place.root:
            return place
        refusals.append(f"{candidate.root} ({candidate.what}): {place.why_not}")
    return Place("", why_not="; ".join(refusals))


def _try(candidate: _Candidate) -> Place:
    root = candidate.root
    try:
        if candidate.make:
            os.makedirs(root, 0o700, exist_ok=True)
        if not os.access(root, os.W_OK | os.X_OK):
            missing = not os.path.isdir(root)
            return Place("", why_not="there is no such directory" if missing else "you may not write there")
        fstype = driver.file_system(root)
        if fstype not in driver.KNOWN_UPPERS:
            return Place("", why_not=f"{fstype or 'an unknown file system'} is not known to be safe under overlayfs")
        space = os.statvfs(root)
        if space.f_bavail * space.f_frsize < _ENOUGH:
            return Place("", why_not="it is full")
        if refusal := _trial(root):
            return Place("", why_not=refusal)
    except OSError as error:
        return Place("", why_not=error.strerror or str(error))
    volatile = "in memory" if fstype == "tmpfs" else "on this host's temporary disk" if candidate.local else ""
    return Place(root, fstype, volatile)


def _trial(root: str) -> str:
    """What ``root`` lacks of what overlayfs needs of an upper: user attributes, whiteouts, renames that leave one."""
    trial = f"{root}/.sifkit-trial-{os.urandom(6).hex()}"
    os.mkdir(trial, 0o700)
    try:
        if not takes_xattr(trial):
            return "it takes no user extended attributes"
        os.mknod(f"{trial}/one", stat.S_IFCHR, os.makedev(0, 0))
        linux.rename_whiteout(f"{trial}/one", f"{trial}/two")
    except OSError as error:
        if error.errno == errno.ENOSYS:  # a filter that does not know the call; the mount will tell
            return ""
        return f"deleted names cannot be marked there ({error.strerror})"
    finally:
        for name in ("one", "two"):
            if os.path.lexists(f"{trial}/{name}"):
                os.unlink(f"{trial}/{name}")
        os.rmdir(trial)
    return ""
