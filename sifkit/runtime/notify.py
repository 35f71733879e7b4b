"""How the runtime talks to the person; the command line decides what is shown."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class Notify(Protocol):
    """One line each: ``warning`` always (but with -q), ``info`` with -v, ``debug`` with -d.

    ``task``: something that may take its time; what it yields is told how far it has come.
    """

    def warning(self, text: str) -> None: ...
    def info(self, text: str) -> None: ...
    def debug(self, text: str) -> None: ...
    def failure(self, failure: Exception) -> None: ...
    def task(self, text: str) -> AbstractContextManager[Callable[[int], None]]: ...
