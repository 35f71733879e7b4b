"""What every step is. Imported by type checkers only: a Protocol costs a start more than all steps together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sifkit.runtime.inroot import Root


class Step(Protocol):
    """One thing done to the new root; the kinds of it are in `sifkit.runtime.steps`."""

    @property
    def destination(self) -> str: ...
    @property
    def optional(self) -> bool: ...
    def is_directory(self) -> bool: ...
    def describe(self) -> str: ...
    def apply(self, root: Root) -> None: ...
