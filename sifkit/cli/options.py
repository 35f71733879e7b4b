"""Options that several commands share, each defined once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import click

from sifkit.cli import console, usage

F = TypeVar("F", bound=Callable[..., object])

_LEVELS = (
    ("-q", "--quiet", console.QUIET, "No warnings."),
    ("-s", "--silent", console.SILENT, "Nothing of ours, not even errors; only the exit status."),
    ("-v", "--verbose", console.VERBOSE, "Say what is left out and why."),
    ("-d", "--debug", console.DEBUG, "Say every step as it is done."),
)


def _set_level(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        console.CONSOLE.level = next(level for _, name, level, _ in _LEVELS if name == f"--{parameter.name}")
        if console.CONSOLE.level >= console.VERBOSE:
            ctx.meta["sifkit.verbose"] = True


def _level(names: list[str], text: str) -> click.Option:
    return click.Option(names, is_flag=True, expose_value=False, callback=_set_level, help=text)


# -q, -s, -v, -d: before the command or after it. Made once, shared by every command.
VERBOSITY = tuple(_level([short, long], text) for short, long, _, text in _LEVELS)


def verbosity_without(taken: set[str]) -> list[click.Option]:
    """`VERBOSITY` for a command that has its own meaning for some of the names."""
    if not taken.intersection(name for option in VERBOSITY for name in option.opts):
        return list(VERBOSITY)
    return [_level([name for name in option.opts if name not in taken], option.help or "") for option in VERBOSITY]


def verbosity(function: F) -> F:
    """Decorator that gives a command `VERBOSITY`."""
    return _with(function, VERBOSITY)


def verbosity_but(*taken: str) -> Callable[[F], F]:
    """The same for a command that has its own meaning for the names ``taken``."""
    return lambda function: _with(function, verbosity_without(set(taken)))


def _with(function: F, options: Iterable[click.Option]) -> F:
    for option in reversed(tuple(options)):
        function.__click_params__ = [*getattr(function, "__click_params__", []), option]  # type: ignore[attr-defined]
    return function


def size(text: str, option: str, least: int = 0) -> int:
    """`usage.size_of` for a command of click's."""
    try:
        return usage.size_of(text, option, least)
    except usage.UsageError as error:
        raise click.UsageError(str(error)) from None
