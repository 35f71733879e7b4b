"""``--create-dir``: directories of the caller in the writable layer, where the links of the image lead."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from overlay.failure import Failure, from_oserror
from sifkit.runtime import inroot

_MOST_LINKS = 40  # MAXSYMLINKS of the kernel


def make(upper: str, lowers: Sequence[str], path: str) -> None:
    """Make container path ``path`` in ``upper``, which lies on ``lowers`` (topmost first); `Failure` if it cannot be.

    Not through the mounted stack: there the directories of a foreign base could not be added to.
    """
    top = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(inroot.create(top, _resolve((upper, *lowers), path), directory=True))
    except NotADirectoryError as error:
        cause = f"{error.filename} is not a directory there, or was deleted in this overlay"
        raise Failure(f"cannot make --create-dir {path}", cause, "make it in the container with mkdir") from None
    except OSError as error:
        raise from_oserror(f"cannot make --create-dir {path} in the overlay", error) from None
    finally:
        os.close(top)


def _resolve(layers: Sequence[str], path: str) -> str:
    """What ``path`` means in the stack of ``layers``: a directory made beside a link would hide it, /bin for one."""
    names, done, links = path.split("/")[::-1], "", 0
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        if name == "..":  # of a link's target
            done = os.path.dirname(done)
            continue
        place = f"{done}/{name}"
        layer, mode = _look(layers, place)
        if stat.S_ISLNK(mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(inroot.within(layer, place))
            done = "" if target.startswith("/") else done
            names += target.split("/")[::-1]
            continue
        if mode and not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), place)
        done = place
    return done


def _look(layers: Sequence[str], place: str) -> tuple[str, int]:
    """The topmost of ``layers`` that has ``place``, and the mode of that; 0 when none has."""
    for layer in layers:
        try:
            return layer, os.lstat(inroot.within(layer, place)).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
    return "", 0
