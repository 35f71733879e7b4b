"""One figure and its peer's."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """``ours`` and ``theirs`` are medians in seconds; ``ok`` is None where no limit is set."""

    name: str
    ours: float
    peer: str
    theirs: float | None
    limit: str
    ok: bool | None
