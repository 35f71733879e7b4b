"""Directory overlays with files of the caller's subordinate ids, which only a namespace lets them read.

--fakeroot runs leave them, Apptainer's too. A command on such an overlay enters the namespace of a --fakeroot run
itself: nobody has to run it in one. Ids that it shows and writes are then those of the inside.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sifkit.runtime.idmap import IdMap

# Commands that look at no overlay, or make one; and those that ask themselves, for the answer seldom matters to them.
EXEMPT: Final = ("create", "import", "ps", "resize", "cat", "diff", "ls")
ENTERED: Final = "sifkit.subids"  # where the context of a command keeps what `enter_for` returned


def enter_for(words: Iterable[str]) -> IdMap | None:
    """Enter the namespace when one of ``words`` of a command line needs it; its ids then. `Failure` when refused."""
    if os.geteuid() == 0:
        return None
    places = [place for word in words for place in _overlays(word)]
    if not places:
        return None
    from sifkit.runtime import identity, idmap, userns

    who = identity.caller()
    ids = idmap.of_root(who.name, who.uid, who.gid)
    if not ids.ranges or not any(_has_others(place, ids) for place in places):
        return None
    userns.enter(who.uid, who.gid, False, ids)
    return ids


def _overlays(word: str) -> Iterator[str]:
    """The directory overlays that ``word`` may name: all of it, or what is before ``:/``."""
    at = len(word)
    while at > 0:
        if os.path.isdir(f"{word[:at]}/upper"):
            yield word[:at]
            return
        at = word.rfind(":/", 0, at)


def _has_others(place: str, ids: IdMap) -> bool:
    """Whether a subordinate id owns anything in the overlay ``place``."""
    waiting = [f"{place}/upper", f"{place}/work"]
    while waiting:
        path = waiting.pop()
        try:
            if _of_others(os.lstat(path), ids):
                return True
            with os.scandir(path) as entries:
                for entry in entries:
                    if _of_others(entry.stat(follow_symlinks=False), ids):
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:  # somebody else's, or just gone: who looks for more than owners will say so
            continue
    return False


def _of_others(found: os.stat_result, ids: IdMap) -> bool:
    mine = found.st_uid == ids.uids[0].outside and found.st_gid == ids.gids[0].outside
    return not mine and (
        (ids.outside_uid(found.st_uid) and found.st_uid != ids.uids[0].outside)
        or (ids.outside_gid(found.st_gid) and found.st_gid != ids.gids[0].outside)
    )  # fmt: skip
