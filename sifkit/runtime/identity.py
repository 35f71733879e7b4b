"""Who runs: the caller as the host knows them, and the passwd and group lines the container gets."""

from __future__ import annotations

import os

from overlay.records import NamedTuple


class Identity(NamedTuple):
    """The caller. ``home`` and ``shell`` come from the account, and from $HOME where there is no account."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str
    shell: str
    gecos: str = ""


def caller() -> Identity:
    """The calling user; who has no passwd entry gets a name made of the number."""
    import pwd

    uid, gid = os.getuid(), os.getgid()
    groups = tuple(sorted({gid, *os.getgroups()}))
    home = os.environ.get("HOME", "")
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Identity(uid, gid, groups, f"user{uid}", home or "/", "/bin/sh")
    return Identity(uid, gid, groups, entry.pw_name, home or entry.pw_dir, entry.pw_shell or "/bin/sh", entry.pw_gecos)


def root(who: Identity) -> Identity:
    """The caller ``who`` as root of a namespace."""
    return who._replace(uid=0, gid=0, groups=(0,), name="root", home="/root", gecos="root")


def passwd(image: str, who: Identity) -> str:
    """``image``'s /etc/passwd with the caller's line replaced or appended (passwd(5))."""
    line = f"{who.name}:x:{who.uid}:{who.gid}:{who.gecos}:{who.home}:{who.shell}"
    kept = [old for old in image.splitlines() if not _is(old, who.name, who.uid)]
    return "\n".join([*kept, line]) + "\n"


def group(image: str, who: Identity) -> str:
    """``image``'s /etc/group with a line for each of the caller's groups that it lacks (group(5))."""
    import grp

    lines = image.splitlines()
    known = {old.split(":")[2] for old in lines if old.count(":") >= 3}
    for gid in who.groups:
        if str(gid) in known:
            continue
        try:
            name = grp.getgrgid(gid).gr_name
        except KeyError:
            name = f"group{gid}"
        lines.append(f"{name}:x:{gid}:{who.name}")
    return "\n".join(lines) + "\n"


def _is(line: str, name: str, uid: int) -> bool:
    fields = line.split(":")
    return fields[0] == name or (len(fields) > 2 and fields[2] == str(uid))
