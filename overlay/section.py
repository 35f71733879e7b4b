"""Where the bytes of a file system lie in a file: the one seam between `sifkit` and `overlay`."""

from __future__ import annotations

from overlay.records import NamedTuple


class Section(NamedTuple):
    """``size`` bytes of ``path`` from ``offset`` on. A bare image is the section that is the whole file."""

    path: str
    offset: int
    size: int

    @property
    def spec(self) -> str:
        """``path`` or ``path?offset=N``, as debugfs, e2fsck and dumpe2fs take it (resize2fs does not)."""
        return f"{self.path}?offset={self.offset}" if self.offset else self.path

    def describe(self) -> str:
        return f"{self.path} (at byte {self.offset})" if self.offset else self.path
