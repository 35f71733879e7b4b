"""Trees of any depth: their paths may be longer than a system call takes (PATH_MAX), so they are opened piecewise."""

from __future__ import annotations

import contextlib
import os
import stat

from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_LONGEST: Final = 4000  # bytes of one piece; PATH_MAX is 4096 with its end
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def pieces(path: bytes) -> list[bytes]:
    """``path`` cut at slashes into pieces that a system call takes."""
    found = []
    while len(path) > _LONGEST:
        cut = path.rindex(b"/", 0, _LONGEST)
        found.append(path[:cut])
        path = path[cut + 1 :]
    return [*found, path]


def open_below(top: int, path: bytes, flags: int = _DIRECTORY) -> int:
    """Open the relative ``path`` below the directory open at ``top``; ``b""`` is that directory itself.

    Raises OSError. The last component is not followed if ``flags`` say so; the others are followed.
    """
    here = top
    parts = pieces(path or b".")
    try:
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            below = os.open(part, flags if last else os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            if here != top:
                os.close(here)
            here = below
    except BaseException:
        if here != top:
            os.close(here)
        raise
    return here


def split(path: bytes) -> tuple[bytes, bytes]:
    """The directory and the last name of a relative ``path``."""
    directory, _, name = path.rpartition(b"/")
    return directory, name


def remove(path: str) -> None:
    """Remove the tree ``path`` of ours, whatever its modes; nothing is no error, nor what vanishes meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        os.chmod(path, 0o700)
        top = os.open(path, _DIRECTORY)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)


def _empty(top: int) -> None:
    directories = [b""]
    for place in directories:  # grows
        here = open_below(top, place)
        try:
            with os.scandir(here) as found:
                entries = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in found]
            for name, is_directory in entries:
                if is_directory:
                    os.chmod(name, stat.S_IRWXU, dir_fd=here)
                    directories.append(place + b"/" + name if place else name)
                else:
                    os.unlink(name, dir_fd=here)
        finally:
            os.close(here)
    for place in reversed(directories[1:]):
        parent, name = split(place)
        here = open_below(top, parent)
        try:
            os.rmdir(name, dir_fd=here)
        finally:
            os.close(here)
