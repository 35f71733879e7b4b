"""A layer that has become a directory, and whom its files belong to there."""

from __future__ import annotations

from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from overlay.stack.fuse import Server


class Owner(NamedTuple):
    """Whom the files of an image shall belong to as seen inside; None where the image's own owners count."""

    uid: int
    gid: int


class Attached(NamedTuple):
    """Where a layer is now. ``server`` runs when FUSE serves it; ``how`` is for people."""

    path: str
    how: str
    server: Server | None = None
