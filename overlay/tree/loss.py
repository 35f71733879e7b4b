"""What could not be kept when a tree was written: every kind of loss, how often, and where first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

_EXAMPLES: Final = 5

# (path of an entry, what of it could not be kept, and why)
Report = Callable[[bytes, str], None]


class Loss(NamedTuple):
    """``what``, as in "owners, which only root may give away"; of ``number`` entries; ``paths``: the first of them."""

    what: str
    number: int
    paths: tuple[bytes, ...]


class Losses:
    """Call it as a `Report`; memory does not grow with the number of entries."""

    def __init__(self, each: Report | None = None) -> None:
        """``each`` is told of every single one as well."""
        self._found: dict[str, tuple[int, tuple[bytes, ...]]] = {}
        self._each = each

    def __call__(self, path: bytes, what: str) -> None:
        count, paths = self._found.get(what, (0, ()))
        self._found[what] = (count + 1, paths if len(paths) == _EXAMPLES else (*paths, path))
        if self._each is not None:
            self._each(path, what)

    def __iter__(self) -> Iterator[Loss]:
        return (Loss(what, count, paths) for what, (count, paths) in self._found.items())
