"""A command line that cannot be meant. Apart from click, which a start does not load."""

from __future__ import annotations


class UsageError(Exception):
    """One sentence that says so; status 2. Shown as click shows its own."""


def size_of(text: str, option: str, least: int = 0) -> int:
    """Bytes of a size a user wrote (``512M``, ``2G``, bare: MiB), at least ``least``."""
    from overlay.size import parse_size

    try:
        found = parse_size(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    if found < least:
        raise UsageError(f"{option}: {text} is too small")
    return found
