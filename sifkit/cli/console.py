"""What a person sees on standard error, and how much of it. Standard output belongs to results and payloads."""

from __future__ import annotations

import os
import sys

from overlay.failure import OURS, Failure, from_oserror
from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType

SILENT, QUIET, NORMAL, VERBOSE, DEBUG = -2, -1, 0, 1, 2


class Console:
    """Prints lines up to ``level``. Failures are always printed, but by ``--silent``."""

    def __init__(self) -> None:
        self.level = NORMAL

    def failure(self, failure: Exception) -> None:
        if self.level > SILENT:
            self._print("", str(failure))

    def mistake(self, text: str) -> None:
        """What is wrong with the command line, as click says it."""
        self._print("", text, "Error: ")

    def warning(self, text: str) -> None:
        if self.level >= NORMAL:
            self._print("WARNING: ", text)

    def info(self, text: str) -> None:
        if self.level >= VERBOSE:
            self._print("", text)

    def debug(self, text: str) -> None:
        if self.level >= DEBUG:
            self._print("debug: ", text)

    def task(self, text: str) -> AbstractContextManager[Callable[[int], None]]:
        """Show ``text`` with a moving bar while the block runs on, on a terminal; elsewhere say it with -v.

        What it yields shows a number beside it: how much has been done.
        """
        from sifkit.cli import progress

        if self.level > QUIET and sys.stderr.isatty():
            return progress.bar(text)
        self.info(text)
        return progress.unseen()

    def _print(self, kind: str, text: str, who: str = "sifkit: ") -> None:
        # One write: lines of several processes do not mix. Control characters of file names stay text.
        shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
        try:
            os.write(2, f"{who}{kind}{shown}\n".encode("utf-8", "backslashreplace"))
        except OSError:  # standard error is closed: there is nobody to tell
            self.level = SILENT


CONSOLE = Console()


class writing:
    """A context in which standard output is written, and nothing else done: what refuses that is named rightly."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise from_oserror("cannot write standard output", error) from error


class Ended(BaseException):
    """SIGTERM or SIGHUP came: raised where the command is, so that what it has begun is undone, as on Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.status = 128 + number


def undo_when_ended() -> None:
    """Have SIGTERM and SIGHUP raise `Ended`, but where they are ignored (nohup). Not for what forks servers."""
    import signal

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]

    def ended(number: int, frame: object) -> None:
        for each in numbers:  # they come in pairs, from systemd and from terminals; one is enough
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    for number in numbers:
        signal.signal(number, ended)


def end(code: int) -> None:
    """Leave at once with ``code``; nothing of ours needs the interpreter's slow way out."""
    try:
        with writing():
            sys.stdout.flush()
    except BrokenPipeError:
        code = code or 141  # 128 + SIGPIPE, as the shell would report it
    except Failure as failure:
        if code == 0:  # else it is known already
            CONSOLE.failure(failure)
        code = code or OURS
    os._exit(code)


__all__ = ["CONSOLE", "Console", "Ended", "Failure", "end", "undo_when_ended", "writing"]
