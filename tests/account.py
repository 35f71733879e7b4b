"""The ordinary user as whom root runs the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

NAME = "sifkit-test"
SUBORDINATE = 65536


def ensure() -> pwd.struct_passwd:
    """The account, made when it is missing, with subordinate ids. Only root can make it."""
    try:
        user = pwd.getpwnam(NAME)
    except KeyError:
        print(f"set-up: making the user {NAME}")
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", NAME], check=True)
        user = pwd.getpwnam(NAME)
    # A second group, as people on clusters have: its files cannot be mapped in their user namespaces.
    subprocess.run(["usermod", "--append", "--groups", "users", NAME], check=True)
    for table, option in (("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")):
        ensure_range(Path(table), option)
    if not Path(user.pw_dir).is_dir():
        Path(user.pw_dir).mkdir(mode=0o755)
        os.chown(user.pw_dir, user.pw_uid, user.pw_gid)
    return user


def ensure_range(table: Path, option: str) -> None:
    """A range in /etc/subuid or /etc/subgid (subuid(5)), behind all others."""
    lines = table.read_text().splitlines() if table.exists() else []
    ranges = [line.split(":") for line in lines if line.count(":") == 2]
    if any(name == NAME for name, _, _ in ranges):
        return
    first = max([100000, *(int(start) + int(count) for _, start, count in ranges)])
    table.touch()
    print(f"set-up: giving {NAME} the subordinate ids {first} to {first + SUBORDINATE - 1} ({table})")
    subprocess.run(["usermod", option, f"{first}-{first + SUBORDINATE - 1}", NAME], check=True)


def become(user: pwd.struct_passwd) -> list[str]:
    """The words before a command that run it as ``user``: none when that is the caller."""
    if user.pw_uid == os.geteuid():
        return []
    setpriv = shutil.which("setpriv") or "/usr/bin/setpriv"
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
    return [setpriv, *ids, "--inh-caps=-all", "--"]
