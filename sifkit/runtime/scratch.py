"""The scratch tmpfs: where init builds the container, in namespaces of its own.

It is mounted over a directory of our own package, so that no directory of the host is hidden and none has to
be made or removed:

    images/N   image N, mounted        points/   mount points that the base lacks (the lowest layer)
    upper/     tmpfs of --writable-tmpfs    image/    the ext3 image that is written
    files/     generated files         links/    plain names for odd paths        root/   the new root
"""

from __future__ import annotations

import os

from overlay import linux
from overlay.failure import from_oserror
from overlay.records import TYPE_CHECKING
from sifkit.runtime import userns

if TYPE_CHECKING:
    from sifkit.runtime.identity import Identity
    from sifkit.runtime.idmap import IdMap

SCRATCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scratch")
_BYTES = 64 << 20


def enter(who: Identity, privileged: bool, ids: IdMap | None) -> None:
    """Enter the namespaces of a run, as `userns.enter` does, and mount the empty tmpfs."""
    userns.enter(who.uid, who.gid, privileged, ids)
    try:
        linux.mount("sifkit", SCRATCH, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"mode=0755,size={_BYTES}")
        for name in ("images", "points", "files", "root", "links", "probe"):
            os.mkdir(f"{SCRATCH}/{name}", 0o755)
    except OSError as error:
        raise from_oserror("cannot mount a tmpfs to build the container on", error) from None


def on_disk(monitor: int) -> tuple[str, str]:
    """Where the throwaway layer of the process ``monitor`` lies if not in memory, and how its name begins."""
    import tempfile

    return os.environ.get("SIFKIT_SESSION_DIR") or tempfile.gettempdir(), f"sifkit-{os.uname().nodename}-{monitor}-"
