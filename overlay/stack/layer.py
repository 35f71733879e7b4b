"""What can be stacked. A root file system is simply the lowest layer.

A layer is a plain record; `overlay.stack.attach` turns those that are images into directories.
"""

from __future__ import annotations

from overlay.records import NamedTuple
from overlay.section import Section


class Directory(NamedTuple):
    """A tree on a mounted file system, used as it is."""

    path: str

    def describe(self) -> str:
        return f"directory {self.path}"


class SquashImage(NamedTuple):
    """A squashfs file system; its top directory is the layer."""

    section: Section

    def describe(self) -> str:
        return f"squashfs {self.section.describe()}"


class ExtImage(NamedTuple):
    """An ext file system; the layer is the directory ``inside`` it ("upper" for an overlay)."""

    section: Section
    inside: str = "upper"

    def describe(self) -> str:
        return f"ext3 {self.section.describe()}"


class Tmpfs(NamedTuple):
    """Memory for a throwaway upper, ``size`` bytes at the most; ``asked``: by the user, not a default."""

    size: int
    asked: bool = False

    def describe(self) -> str:
        return f"tmpfs of {self.size >> 20} MiB, gone at the end"


class Overlay(NamedTuple):
    """The writable directory overlay ``path``, with ``upper/`` and ``work/`` in it."""

    path: str

    @property
    def upper(self) -> str:
        return f"{self.path}/upper"

    @property
    def work(self) -> str:
        return f"{self.path}/work"

    def describe(self) -> str:
        return f"directory {self.path}"


class ExtOverlay(NamedTuple):
    """The writable ext3 overlay in ``section``, with ``upper/`` and ``work/`` in it.

    ``required``: the user asked to write into it; else it is read when others read it at the time. ``fuse``: the user
    wants it written in place, through FUSE.
    """

    section: Section
    required: bool = True
    fuse: bool = False

    @property
    def path(self) -> str:
        return self.section.path

    def describe(self) -> str:
        return f"ext3 {self.section.describe()}"


Lower = Directory | SquashImage | ExtImage
Writable = Overlay | ExtOverlay | Tmpfs


class Stack(NamedTuple):
    """``base``: the root file system. ``lowers``: read-only layers above it, topmost first.

    ``upper``: the one writable layer, on top of all, or None. ``in_place``: write into the base itself.
    """

    base: Lower
    lowers: tuple[Lower, ...] = ()
    upper: Writable | None = None
    in_place: bool = False

    def describe(self) -> list[str]:
        """One line a layer, topmost first."""
        lines = [f"writable   {self.upper.describe()}"] if self.upper else []
        lines += [f"read-only  {layer.describe()}" for layer in self.lowers]
        return [*lines, f"{'writable ' if self.in_place else 'read-only'}  {self.base.describe()} (root)"]


class Arranged(NamedTuple):
    """``lowers``: read-only, topmost first. ``upper``: the writable one. ``warnings``: one line each.

    ``demoted``: one that might have been written is read only, which its user may not have wanted.
    """

    lowers: tuple[Lower, ...]
    upper: Writable | None
    warnings: tuple[str, ...]
    demoted: bool = False
