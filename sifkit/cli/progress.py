"""Showing that something takes its time: on a terminal, and only after a moment."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

MOMENT = 1.0  # seconds


@contextlib.contextmanager
def unseen() -> Iterator[Callable[[int], None]]:
    """As `bar`, where nothing is to be seen of it."""
    yield lambda done: None


@contextlib.contextmanager
def bar(text: str) -> Iterator[Callable[[int], None]]:
    """Show ``text`` with a moving bar while the block runs on.

    What is yielded shows a number beside it: how much has been done.
    """
    shown: list[Progress] = []
    timer = threading.Timer(MOMENT, lambda: shown.append(_show(text)))
    timer.daemon = True
    timer.start()

    def update(done: int) -> None:
        for progress in shown:
            progress.update(progress.task_ids[0], description=f"{text}: {done}")

    try:
        yield update
    finally:
        timer.cancel()
        timer.join()
        for progress in shown:
            progress.stop()


def _show(text: str) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    progress.add_task(text, total=None)
    progress.start()
    return progress
