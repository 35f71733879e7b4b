"""What was asked for, by subject, with images and overlays already found. Container paths are absolute."""

from __future__ import annotations

from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.stack.layer import Lower, Writable
from sifkit.runtime.environ import Variables
from sifkit.runtime.steps import Bind

if TYPE_CHECKING:
    from sifkit.runtime.capabilities import Privileges
    from sifkit.runtime.cgroup import Limits
    from sifkit.runtime.data_image import DataImage


class OnBase(NamedTuple):
    """Layers of our own on the base. ``foreign``: how to write over somebody else's, `auto` or one of `driver.WAYS`.

    ``build``: make a metadata layer even where nothing of somebody else's is written. ``most_bytes``: of their cache.
    """

    foreign: str = "auto"
    build: bool = False
    most_bytes: int = 2 << 30


class Staging(NamedTuple):
    """How changes to an ext3 overlay are staged. ``directory``: for the session, "" for the first that serves.

    ``grow``: the image may grow when they do not fit, to ``most`` bytes (0: by half of what is free there).
    """

    directory: str = ""
    grow: bool = True
    most: int = 0


class Layers(NamedTuple):
    """The root: ``base``, read-only layers above it (topmost first), and what takes the writes.

    ``in_place``: that is the base itself. ``create_dirs``: directories to be made in the upper. ``on_base``: what of
    our own is put on the base.
    """

    base: Lower
    lowers: tuple[Lower, ...] = ()
    upper: Writable | None = None
    in_place: bool = False
    create_dirs: tuple[str, ...] = ()
    on_base: OnBase = OnBase()
    staging: Staging = Staging()


class Home(NamedTuple):
    """``shown``: whether it is. ``source``: of the host, and ``destination`` when they are not the account's."""

    shown: bool = True
    source: str = ""
    destination: str = ""


class Mounts(NamedTuple):
    """What of the host is seen. ``contain``: a minimal /dev, and nothing of its temporary directories and home.

    ``scratch``: empty directories. ``workdir``: host directory that holds them and what ``contain`` makes empty, ""
    for memory. ``without``: what is left out, by name or path. ``dns``: addresses. ``shown``: as APPTAINER_BIND has it.
    """

    binds: tuple[Bind | DataImage, ...] = ()
    contain: bool = False
    home: Home = Home()
    scratch: tuple[str, ...] = ()
    workdir: str = ""
    without: frozenset[str] = frozenset()
    dns: tuple[str, ...] = ()
    shown: str = ""


class Namespaces(NamedTuple):
    """What the container does not share with the host, besides its mounts.

    ``init``: process 1 of the PID namespace is ours, not the payload. ``hostname``: "" for the host's.
    ``userns``: a user namespace for root, too. ``fakeroot``: the payload is root, of a user namespace.
    """

    pid: bool = False
    init: bool = True
    ipc: bool = False
    uts: bool = False
    hostname: str = ""
    net: bool = False
    userns: bool = False
    fakeroot: bool = False

    def describe(self) -> list[str]:
        """Their names."""
        on = {"pid": self.pid, "ipc": self.ipc, "uts": self.uts or self.hostname, "network": self.net}
        return [name for name, there in on.items() if there]


class Request(NamedTuple):
    """A run. ``args``: of the verb. ``shell``: the program for ``shell``, "" for the usual.

    ``app``: the SCIF app that is meant, "" for the image. ``wait``: at the end, for processes left behind.
    ``umask``: of the payload; None for the caller's. ``privileges``: None for the usual.
    """

    verb: str
    image: str
    layers: Layers
    args: tuple[str, ...]
    variables: Variables = Variables()
    mounts: Mounts = Mounts()
    namespaces: Namespaces = Namespaces()
    limits: Limits | None = None
    privileges: Privileges | None = None
    cwd: str = ""
    shell: str = ""
    app: str = ""
    wait: bool = False
    umask: int | None = None
