"""How the runtime talks to the person; the command line decides what is shown."""

from __future__ import annotations

from typing import Protocol


class Notify(Protocol):
    """One line each: ``warning`` always (but with -q), ``info`` with -v, ``debug`` with -d."""

    def warning(self, text: str) -> None: ...
    def info(self, text: str) -> None: ...
    def debug(self, text: str) -> None: ...
    def failure(self, failure: Exception) -> None: ...
