"""What this kernel lets the caller do, tried as a run would, in a child that takes everything along when it ends."""

from __future__ import annotations

import json
import os
import signal
from typing import NamedTuple

from overlay import features, linux
from overlay.failure import Failure
from overlay.features import Features
from sifkit.runtime import children, scratch, userns

SWITCHES = {
    "user.max_user_namespaces": "/proc/sys/user/max_user_namespaces",
    "kernel.unprivileged_userns_clone": "/proc/sys/kernel/unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns": "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "SELinux": "/sys/fs/selinux/enforce",
}


class Kernel(NamedTuple):
    """What a trial run met. The texts are "" when it worked, else they say why not.

    ``namespaces``: entering them. ``tmpfs``: the one that everything is built on. ``features``: None when one
    of those failed. ``fuse_mount``: mounting a FUSE file system, which a host may forbid with /dev/fuse open.
    """

    privileged: bool
    namespaces: str = ""
    tmpfs: str = ""
    features: Features | None = None
    fuse_mount: str = ""


def switch(name: str) -> str:
    """The value of a switch of `SWITCHES`; "" on a host that does not have it."""
    try:
        with open(SWITCHES[name], encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:  # not in this kernel, or the module is not loaded
        return ""


def look(uid: int, gid: int) -> Kernel:
    """Try in a child what a run of user ``uid`` would do; never raises for what the host refuses."""
    privileged = userns.privileged()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _report(writing, uid, gid, privileged)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if not said:
        return Kernel(privileged, f"the trial ended with status {children.exit_code(status)} and said nothing")
    facts = json.loads(said)
    if facts.get("features"):
        facts["features"] = Features(**facts["features"])
    return Kernel(privileged, **facts)


def _report(pipe: int, uid: int, gid: int, privileged: bool) -> None:
    try:
        linux.die_with_parent(signal.SIGKILL)
        facts = _try(uid, gid, privileged)
        os.write(pipe, json.dumps(facts).encode())
    finally:
        os._exit(0)


def _try(uid: int, gid: int, privileged: bool) -> dict[str, object]:
    try:
        userns.enter(uid, gid, privileged)
    except Failure as failure:
        return {"namespaces": failure.cause}
    place = f"{scratch.SCRATCH}/probe"
    try:
        linux.mount("sifkit", scratch.SCRATCH, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755,size=1048576")
        os.mkdir(place, 0o755)
        found = features.probe(place, privileged, data_layers=True)
    except OSError as error:
        return {"tmpfs": error.strerror or str(error)}
    return {"features": found._asdict(), "fuse_mount": _try_fuse(f"{scratch.SCRATCH}/fuse") if found.fuse else ""}


def _try_fuse(point: str) -> str:
    """Mount a FUSE file system that nobody serves (mount(8), fuse(4)); nothing may look into it."""
    try:
        os.mkdir(point, 0o755)
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        linux.mount("sifkit", point, "fuse", linux.MS_NOSUID | linux.MS_NODEV, options)
    except OSError as error:
        return error.strerror or str(error)
    return ""
