"""Whether a base belongs to somebody whom a user namespace cannot stand for."""

from __future__ import annotations

import os

from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from sifkit.runtime.idmap import IdMap


def owner(path: str, uid: int, gid: int, ids: IdMap | None = None) -> str:
    """Who owns what user ``uid`` of group ``gid`` could not change in the tree ``path``; "" if nobody.

    Through kernel overlayfs, that is: only these two are mapped in the namespace, or ``ids``, and a copy of a file of
    another user, or of the user's own with another group, is EACCES or EOVERFLOW. The top directory and its entries are
    looked at: below them owners rarely differ, and a look at everything would cost more than the run.
    """
    found = [os.stat(path)]
    with os.scandir(path) as entries:
        found += [entry.stat(follow_symlinks=False) for entry in entries if not entry.is_symlink()]
    users = sorted({entry.st_uid for entry in found} - {uid})
    groups = sorted({entry.st_gid for entry in found} - {gid})
    if ids is not None:
        users = [user for user in sorted({entry.st_uid for entry in found}) if not ids.outside_uid(user)]
        groups = [group for group in sorted({entry.st_gid for entry in found}) if not ids.outside_gid(group)]
    if users:
        return _user(users[0])
    return f"group {_group(groups[0])}" if groups else ""


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
