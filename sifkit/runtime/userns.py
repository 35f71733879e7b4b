"""Namespaces of a run, and what it means when the host refuses them."""

from __future__ import annotations

import errno
import os

from overlay import linux as mounts
from overlay.failure import Failure
from overlay.features import without
from overlay.records import TYPE_CHECKING
from sifkit.runtime import linux

if TYPE_CHECKING:
    from sifkit.runtime.idmap import IdMap


def privileged() -> bool:
    """Whether we are real root here: uid 0 with CAP_SYS_ADMIN, and mount namespaces are allowed (containers)."""
    if os.geteuid() != 0 or without("root"):
        return False
    return _capable(linux.CAP_SYS_ADMIN)


def _capable(capability: int) -> bool:
    with open("/proc/self/status", encoding="utf-8") as file:
        effective = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)


def enter(uid: int, gid: int, real_root: bool, ids: IdMap | None = None) -> None:
    """Enter a mount namespace, and unless ``real_root`` a user namespace with ``ids``; None: the caller's, as they are.

    `Failure` when the host refuses.
    """
    # user_namespaces(7), since Linux 5.12; afterwards we have every capability, in there.
    unmappable = uid == 0 and not real_root and not _capable(linux.CAP_SETFCAP)
    try:
        if ids is not None and not real_root:
            _enter_mapped(ids)
        else:
            linux.unshare(linux.CLONE_NEWNS if real_root else linux.CLONE_NEWNS | linux.CLONE_NEWUSER)
            if not real_root:
                _map(f"{uid} {uid} 1", f"{gid} {gid} 1")
        # Changes of the host (autofs, CVMFS) are to be seen here, ours never there.
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_SLAVE)
    except OSError as error:
        if unmappable:
            cause = "root without CAP_SETFCAP may not be mapped into one; an ordinary user may"
            raise Failure("this host does not let you make namespaces", cause, "run it as an ordinary user") from None
        raise refused(error) from None


def _enter_mapped(ids: IdMap) -> None:
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWUSER
    if not ids.ranges:
        linux.unshare(flags)
        _map(f"0 {ids.uids[0].outside} 1", f"0 {ids.gids[0].outside} 1")
        return
    from sifkit.runtime import idmap

    mapper = idmap.start(ids)
    try:
        linux.unshare(flags)
    except OSError:
        idmap.abandon(mapper)
        raise
    idmap.finish(mapper)


def _map(uids: str, gids: str) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", uids), ("gid_map", gids)):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def refused(error: OSError) -> Failure:
    """Why unshare(2) failed, as far as its number and the host's switches tell."""
    switches = {
        "/proc/sys/kernel/unprivileged_userns_clone": "kernel.unprivileged_userns_clone is 0",
        "/proc/sys/user/max_user_namespaces": "user.max_user_namespaces is 0",
    }
    causes = [text for path, text in switches.items() if _reads_zero(path)]
    if error.errno in (errno.EPERM, errno.EACCES) and not causes:
        causes = ["a security module or the container around us forbids them"]
    if error.errno in (errno.ENOSPC, errno.EUSERS) and not causes:
        causes = ["the limit of namespaces is used up (user.max_user_namespaces), or they are nested 32 deep"]
    if error.errno == errno.EINVAL:
        causes = ["this kernel has no user namespaces, or another thread runs in this process"]
    cause = f"{os.strerror(error.errno or 0)}: {causes[0]}" if causes else os.strerror(error.errno or 0)
    hint = "sifkit doctor says what is set and what to change"
    return Failure("this host does not let you make namespaces", cause, hint)


def _reads_zero(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip() == "0"
    except OSError:  # this kernel does not have the switch
        return False
