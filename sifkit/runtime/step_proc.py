"""The step that mounts /proc for a PID namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from overlay import linux
from sifkit.runtime import bindmount
from sifkit.runtime.steps import Target

if TYPE_CHECKING:
    from sifkit.runtime.inroot import Root


class Proc(NamedTuple):
    """A /proc of the payload's PID namespace.

    The kernel refuses one to ordinary users where the host's own is partly covered, as inside other containers.
    Then it is the host's, and numbers in it are the host's.
    """

    destination: str = "/proc"
    optional: bool = False

    def is_directory(self) -> bool:
        return True

    def describe(self) -> str:
        return f"proc  {self.destination}  (of the PID namespace)"

    def apply(self, root: Root) -> None:
        flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        with Target(root, self.destination, True) as target:
            try:
                linux.mount("proc", target, "proc", flags)
            except PermissionError:
                bindmount.bind("/proc", target, linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV, recursive=True)
                root.skipped.append("/proc is the host's: none can be mounted in a container with a masked /proc")
