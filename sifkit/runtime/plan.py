"""The frozen decision of a run. Nothing has happened when a plan exists; ``--dry-run`` prints it and stops."""

from __future__ import annotations

import os

from overlay import revision
from overlay.failure import USAGE, Failure
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.stack.layer import Directory, Overlay, Stack
from sifkit.runtime import defaults, environ, foreign, linux
from sifkit.runtime.identity import Identity
from sifkit.runtime.steps import Bind

if TYPE_CHECKING:
    from overlay.revision import Revision
    from sifkit.runtime.cgroup import Limits
    from sifkit.runtime.data_image import DataImage
    from sifkit.runtime.idmap import IdMap
    from sifkit.runtime.request import Layers, Namespaces, OnBase, Request, Staging
    from sifkit.runtime.step import Step

RUNSCRIPTS = ("/.singularity.d/runscript", "/singularity")
TESTS = ("/.singularity.d/test",)
NOTHING: tuple[str, ...] = ()  # as a command: there is nothing to run, and that is no error
SHELLS = (("/bin/bash", "--norc"), ("/usr/bin/bash", "--norc"), ("/bin/sh",), ("/usr/bin/sh",))


class Plan(NamedTuple):
    """Everything a run will do. ``commands``: the first whose program exists in the container is run.

    ``app``: a SCIF app that must be there, "" when none is meant.

    ``cwds``: the first that can be entered; ``cwd_required``: it must be the first. ``privileged``: real root,
    no user namespace. ``foreign_base``: owner of a base that the caller could not change, else "". ``on_base``: what
    of our own may be put on it. ``revision``: of the repository that it lies in. ``images``: those of which a step
    shows something. ``capabilities``: those the payload keeps, as bits. ``cgroup``: made for ``limits`` when the run
    begins. ``ids``: what those of --fakeroot stand for.
    """

    verb: str
    image: str
    stack: Stack
    steps: tuple[Step, ...]
    who: Identity
    privileged: bool
    foreign_base: str
    on_base: OnBase
    revision: Revision | None
    commands: tuple[tuple[str, ...], ...]
    app: str
    environment: environ.Environment
    cwds: tuple[str, ...]
    cwd_required: bool
    create_dirs: tuple[str, ...]
    umask: int
    namespaces: Namespaces
    images: tuple[DataImage, ...]
    wait: bool
    staging: Staging
    limits: Limits | None
    capabilities: int
    cgroup: str = ""
    ids: IdMap | None = None


def build(request: Request, who: Identity, host: dict[str, str], privileged: bool) -> Plan:
    """Make the plan of ``request`` for the caller ``who`` with the environment ``host``. Changes nothing."""
    layers = request.layers
    _check(request.image, layers)
    if request.cwd and not os.path.isabs(request.cwd):
        raise Failure(f"--cwd {request.cwd}", "it must be an absolute path of the container", "", USAGE)
    ids: IdMap | None = None
    if request.namespaces.fakeroot and not privileged:
        from sifkit.runtime import fakeroot, idmap

        ids = idmap.of_root(who.name, who.uid, who.gid)
        request, who = fakeroot.of(request, who)
    home = request.mounts.home.destination or (who.home if os.path.isabs(who.home) else "/")
    who = who._replace(home=home)
    cwd = _host_cwd()
    writable_root = (privileged or ids is not None) and (layers.in_place or layers.upper is not None)
    steps = defaults.steps(who, cwd, request, accounts=not writable_root)
    base = layers.base.path if isinstance(layers.base, Directory) else ""
    return Plan(
        verb=request.verb,
        image=request.image,
        stack=Stack(layers.base, layers.lowers, layers.upper, layers.in_place),
        steps=steps,
        who=who,
        privileged=privileged,
        foreign_base="" if privileged or not base else foreign.owner(base, who.uid, who.gid, ids),
        on_base=layers.on_base,
        revision=revision.of(base) if base else None,
        commands=commands(request),
        app=_app(request.app),
        environment=environ.build(
            host, request.image, request.verb, home, request.variables, request.mounts.shown, request.app
        ),
        cwds=_cwds(request, home, cwd),
        cwd_required=bool(request.cwd),
        create_dirs=layers.create_dirs,
        umask=_umask() if request.umask is None else request.umask,
        namespaces=request.namespaces,
        images=_images(request),
        wait=request.wait,
        staging=layers.staging,
        limits=request.limits,
        capabilities=_capabilities(request, privileged or ids is not None),
        ids=ids,
    )


def _check(image: str, layers: Layers) -> None:
    if layers.in_place and (layers.upper is not None or layers.lowers):
        raise Failure(
            "--writable excludes overlays",
            "it writes into the image directory itself",
            "leave out --writable to write into the overlay",
            USAGE,
        )
    if layers.in_place and not isinstance(layers.base, Directory):
        raise Failure(
            f"--writable: {image} cannot be written",
            "a squashfs image is read-only by nature",
            "use --overlay DIR/ to keep the changes, or --writable-tmpfs to throw them away",
        )
    if layers.in_place and isinstance(layers.base, Directory) and not os.access(layers.base.path, os.W_OK):
        raise Failure(
            f"--writable: you may not write in {image}",
            "the directory belongs to somebody else or lies on a read-only file system",
            "use --overlay DIR/ to keep the changes beside it",
        )
    if layers.create_dirs and layers.upper is None:
        hint = "add --overlay DIR/ or --writable-tmpfs"
        raise Failure("--create-dir needs a writable overlay", "there is none to make it in", hint, USAGE)
    for path in layers.create_dirs:
        if ".." in path.split("/") or not path.strip("/"):
            raise Failure(f"--create-dir {path}", "it must be a path inside the container, without '..'", "", USAGE)


def commands(request: Request) -> tuple[tuple[str, ...], ...]:
    """What may be run, best first, for the verb of ``request``."""
    if request.verb == "exec":
        return (request.args,)
    if request.app and request.verb in ("run", "test"):
        script = "runscript" if request.verb == "run" else "test"
        return ((f"/scif/apps/{request.app}/scif/{script}", *request.args),)
    if request.verb == "test":
        return (*((script, *request.args) for script in TESTS), NOTHING)
    shells = tuple((*shell, *request.args) for shell in SHELLS)
    if request.verb == "run":
        return (*((script, *request.args) for script in RUNSCRIPTS), *shells)
    return ((request.shell, *request.args),) if request.shell else shells


def _app(name: str) -> str:
    if "/" in name or name in (".", ".."):
        hint = "sifkit inspect --list-apps IMAGE lists them"
        raise Failure(f"--app {name}", "it is the name of an app, not a path", hint, USAGE)
    return name


def _host_cwd() -> str:
    try:
        return os.getcwd()
    except OSError:  # removed, or above it a directory that may not be read: no reason to fail
        return ""


def _cwds(request: Request, home: str, cwd: str) -> tuple[str, ...]:
    if request.cwd:
        return (request.cwd,)
    fallback = (home, "/") if request.mounts.home.shown else ("/",)
    return fallback if request.mounts.contain or not cwd else (cwd, *fallback)


def _images(request: Request) -> tuple[DataImage, ...]:
    if all(isinstance(entry, Bind) for entry in request.mounts.binds):
        return ()
    from sifkit.runtime.data_image import DataImage

    return tuple(entry for entry in request.mounts.binds if isinstance(entry, DataImage))


def _capabilities(request: Request, root: bool) -> int:
    """``root``: it is that, of the host or of a namespace."""
    if request.privileges:
        return request.privileges.of(root)
    return linux.ALL_CAPABILITIES if root else 0


def _umask() -> int:
    umask = os.umask(0o022)
    os.umask(umask)
    return umask


def writable_directory(plan: Plan) -> Overlay | None:
    """The directory overlay that ``plan`` writes into, which must be locked and prepared; else None."""
    return plan.stack.upper if isinstance(plan.stack.upper, Overlay) else None
