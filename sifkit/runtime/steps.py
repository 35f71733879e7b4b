"""What is done to the new root, one small object each: `describe` for the plan, `apply` for the kernel.

Steps run in the payload's own mount namespace, in order, before the root is entered. A step's
``destination`` is a path of the container; it is opened in the root with the image's own links and mounted
on through the descriptor, so no link of the image leads out.
"""

from __future__ import annotations

import errno
import os
import stat

from overlay import linux
from overlay.failure import Failure, from_oserror
from overlay.records import TYPE_CHECKING, NamedTuple
from sifkit.runtime import bindmount, inroot
from sifkit.runtime.inroot import Root

if TYPE_CHECKING:
    from collections.abc import Callable

    from sifkit.runtime.step import Step


class Bind(NamedTuple):
    """Host path ``source`` at ``destination``, with all that is mounted below it.

    ``devices``: device nodes work there. ``exact``: left out where the image's links lead elsewhere (/var/tmp
    that is /tmp would otherwise cover what is mounted there). ``made``: mode of ``source``, which is made when it is
    missing. ``points``: mount points of other steps, made in it: path below it, and whether it is a directory.
    """

    source: str
    destination: str
    readonly: bool = False
    optional: bool = False
    devices: bool = False
    exact: bool = False
    made: int = 0
    points: tuple[tuple[str, bool], ...] = ()

    def is_directory(self) -> bool:
        return bool(self.made) or os.path.isdir(self.source)

    def describe(self) -> str:
        missing = [path for path, _ in self.points if not os.path.lexists(f"{self.source}/{path}")]
        notes = (
            ("read-only", self.readonly),
            ("if possible", self.optional),
            ("made if missing", self.made),
            (f"for mounting, {', '.join(missing)} is made in it", missing),
        )
        how = [word for word, on in notes if on]
        return f"bind  {self.source} -> {self.destination}" + (f"  ({', '.join(how)})" if how else "")

    def apply(self, root: Root) -> None:
        attributes = linux.MOUNT_ATTR_NOSUID
        attributes |= 0 if self.devices else linux.MOUNT_ATTR_NODEV
        attributes |= linux.MOUNT_ATTR_RDONLY if self.readonly else 0
        if self.made or self.points:
            self._prepare()
        directory = self.is_directory()
        with Target(root, self.destination, directory) as target:
            if self.exact and os.readlink(target) != inroot.within(root.top, self.destination):
                raise OSError(errno.EXDEV, "the image links it to another place", self.destination)
            bindmount.bind(self.source, target, attributes, recursive=True)

    def _prepare(self) -> None:
        if self.made and not os.path.isdir(self.source):
            os.makedirs(os.path.dirname(self.source), 0o750, exist_ok=True)
            os.mkdir(self.source)
            os.chmod(self.source, self.made)
        for path, directory in self.points:
            top = os.open(self.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found, names = inroot.missing(top, path)
                # A link on the way means another place in the container than here.
                if names and "/".join([found, *names]).strip("/") == path:
                    os.close(inroot.create(top, path, directory))
            except OSError:  # mounting there will say that it is missing
                continue
            finally:
                os.close(top)


class Memory(NamedTuple):
    """A new tmpfs at ``destination``; ``mode`` of its top, ``size`` in bytes (0: the kernel's default, half of RAM)."""

    destination: str
    mode: int = 0o755
    size: int = 0
    optional: bool = False

    def is_directory(self) -> bool:
        return True

    def describe(self) -> str:
        return f"tmpfs {self.destination}  (mode {self.mode:04o}" + (f", {self.size >> 20} MiB)" if self.size else ")")

    def apply(self, root: Root) -> None:
        options = f"mode={self.mode:o}" + (f",size={self.size}" if self.size else "")
        with Target(root, self.destination, True) as target:
            linux.mount("tmpfs", target, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
        mounted = inroot.locate(root.fd, self.destination)
        root.own.add(os.fstat(mounted).st_dev)
        os.close(mounted)


class File(NamedTuple):
    """A file with ``content`` at ``destination``, kept in memory; the image's own file is covered, not changed."""

    destination: str
    content: str
    optional: bool = True

    def is_directory(self) -> bool:
        return False

    def describe(self) -> str:
        count = len(self.content.splitlines())
        return f"file  {self.destination}  ({count} line{'' if count == 1 else 's'})"

    def apply(self, root: Root) -> None:
        path = f"{root.files}/{self.destination.strip('/').replace('/', '-')}"
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(self.content)
        attributes = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
        with Target(root, self.destination, False) as target:
            bindmount.bind(path, target, attributes, recursive=False)


class Pseudo(NamedTuple):
    """A new kernel file system (``proc``, ``devpts``, ``mqueue``) at ``destination``."""

    fstype: str
    destination: str
    options: str = ""
    optional: bool = False

    def is_directory(self) -> bool:
        return True

    def describe(self) -> str:
        return f"{self.fstype:5} {self.destination}"

    def apply(self, root: Root) -> None:
        with Target(root, self.destination, True) as target:
            flags = linux.MS_NOSUID | linux.MS_NOEXEC
            linux.mount(self.fstype, target, self.fstype, flags, self.options or None)


class Link(NamedTuple):
    """A symbolic link at ``destination``, inside something that an earlier step mounted."""

    destination: str
    to: str
    optional: bool = False

    def is_directory(self) -> bool:
        return False

    def describe(self) -> str:
        return f"link  {self.destination} -> {self.to}"

    def apply(self, root: Root) -> None:
        parent, name = os.path.split(self.destination)
        directory = inroot.locate(root.fd, parent)
        try:
            os.symlink(self.to, name, dir_fd=directory)
        finally:
            os.close(directory)


class Target:
    """The mount point ``destination`` below ``root``, open, made when missing; as a path the kernel can take."""

    def __init__(self, root: Root, destination: str, directory: bool) -> None:
        self._root, self._destination, self._directory = root, destination, directory

    def __enter__(self) -> str:
        try:
            self._fd = inroot.locate(self._root.fd, self._destination)
        except FileNotFoundError:
            self._fd = self._create()
        if stat.S_ISDIR(os.fstat(self._fd).st_mode) != self._directory:
            os.close(self._fd)
            raise OSError(errno.ENOTDIR, self._mismatch(), self._destination)
        return f"/proc/self/fd/{self._fd}"

    def _create(self) -> int:
        try:
            return inroot.create(self._root.fd, self._destination, self._directory, self._root.own)
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT):
                message = "this mount point does not exist in the container and cannot be made"
                raise OSError(errno.ENOENT, message, self._destination) from None
            raise

    def _mismatch(self) -> str:
        wanted = "a directory" if self._directory else "a file"
        return f"{wanted} is to be mounted, and the image has something else there"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def apply_all(steps: tuple[Step, ...], root: Root, before: Callable[[Step], None]) -> None:
    """Apply ``steps`` in order, each after ``before``; one that is optional and fails leaves a note, else `Failure`."""
    for step in steps:
        before(step)
        try:
            step.apply(root)
        except OSError as error:
            if not step.optional:
                raise explain(step, error) from None
            root.skipped.append(f"left out: {step.describe()} ({error.strerror})")


def explain(step: Step, error: OSError) -> Failure:
    """Why ``step`` could not be done, in words that fit what it was to do."""
    failure = from_oserror(f"cannot set up {step.describe()}", error)
    failure.cause = error.strerror or failure.cause
    if error.errno == errno.ENOENT:
        failure.hint = "make the mount point first, in the image or in the directory of the host that is shown there"
    return failure
