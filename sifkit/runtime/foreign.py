"""Whether a base belongs to somebody whom a user namespace cannot stand for."""

from __future__ import annotations

import os


def owner(path: str, uid: int) -> str:
    """Who owns what user ``uid`` could not change in the tree ``path`` through kernel overlayfs; "" if nobody.

    The top directory and its entries are looked at: below them owners rarely differ, and a look at
    everything would cost more than the run.
    """
    owners = {os.stat(path).st_uid}
    with os.scandir(path) as entries:
        owners |= {entry.stat(follow_symlinks=False).st_uid for entry in entries if not entry.is_symlink()}
    others = sorted(owners - {uid})
    return _name(others[0]) if others else ""


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
