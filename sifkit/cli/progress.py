"""Showing that something takes its time: on a terminal, and only after a moment."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from sifkit.cli.console import CONSOLE, QUIET


@contextlib.contextmanager
def task(text: str) -> Iterator[Callable[[int], None]]:
    """Show ``text`` with a moving bar while the block runs, if standard error is a terminal; else say it with -v.

    What is yielded shows a number beside it: how much has been done.
    """
    if CONSOLE.level <= QUIET or not sys.stderr.isatty():
        CONSOLE.info(text)
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        shown = progress.add_task(text, total=None)
        yield lambda done: progress.update(shown, description=f"{text}: {done}")
