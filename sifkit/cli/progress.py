"""Showing that something takes its time: on a terminal, and only after a moment."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from sifkit.cli.console import CONSOLE, QUIET


@contextlib.contextmanager
def task(text: str) -> Iterator[None]:
    """Show ``text`` with a moving bar while the block runs, if standard error is a terminal; else say it with -v."""
    if CONSOLE.level <= QUIET or not sys.stderr.isatty():
        CONSOLE.info(text)
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(text, total=None)
        yield
