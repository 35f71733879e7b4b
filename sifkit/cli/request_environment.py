"""From the options about the environment to `Variables`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sifkit.runtime import environ
from sifkit.runtime.request import Variables

if TYPE_CHECKING:
    from sifkit.cli.run_option import Given


def variables(given: Given) -> Variables:
    """What of the environment the command line asks for."""
    return Variables(given=_assignments(given["env"] or ()), clean=bool(given["cleanenv"]))


def _assignments(texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(environ.parse_assignment(text) for text in texts)
    except ValueError as error:
        raise click.UsageError(f"--env: {error}") from None
