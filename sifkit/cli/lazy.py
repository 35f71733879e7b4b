"""Groups of commands of which only the one that is asked for is imported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click

# Grouped by what people come for: heading -> (name, module of sifkit.cli, summary).
Table = Mapping[str, tuple[tuple[str, str, str], ...]]


class LazyGroup(click.Group):
    """A group whose commands are those of ``table``: ``--help`` and every start import as little as can be."""

    table: Table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for rows in self.table.values() for name, _, _ in rows]

    def module_of(self, name: str) -> str | None:
        """The module that has the command ``name``; None where there is no such command."""
        return next((module for rows in self.table.values() for known, module, _ in rows if known == name), None)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = self.module_of(cmd_name)
        if module is None:
            return None
        home, attribute = import_module(f"sifkit.cli.{module}"), cmd_name.replace("-", "_")
        # Words that are Python's own have an underscore behind them.
        found = getattr(home, f"{attribute}_", None) or getattr(home, attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, rows in self.table.items():
            with formatter.section(heading):
                formatter.write_dl([(name, summary) for name, _, summary in rows])
