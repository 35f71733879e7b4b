"""What init has built: the root, and what it is made of."""

from __future__ import annotations

from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from overlay.section import Section
    from overlay.session.state import Session
    from overlay.stack.content import Content
    from overlay.stack.driver import Decision
    from overlay.stack.fuse import Server
    from overlay.stack.layer import Stack


class Staged(NamedTuple):
    """An open session, the ``stack`` that stands for the plan's, and what the image held before."""

    session: Session
    section: Section
    stack: Stack
    content: Content


class Assembled(NamedTuple):
    """``root``: where the new root is mounted. ``files``: place for generated files. ``servers``: to be stopped.

    ``lowers``: directories of all read-only layers, topmost first; the first ``topmost`` are of one layer.
    ``staged``: the session that takes the writes of an ext3 overlay.
    """

    root: str
    files: str
    servers: tuple[Server, ...]
    decision: Decision
    disk_scratch: str = ""
    lowers: tuple[str, ...] = ()
    topmost: int = 0
    staged: Staged | None = None
