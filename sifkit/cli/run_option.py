"""Options of exec, shell and run as plain records, made into click's only when the command line mentions them.

A click option costs a start its making and its handling, given or not; sixty of them cost more than the kernel's
work. So the tables (``options_*``) are imported, and options made, for those that are used. ``--help`` and
whatever looks at a command from outside sees all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import click

from overlay.records import NamedTuple

# Heading in --help -> module with its table, OPTIONS.
SUBJECTS = {
    "Layers": "options_layers",
    "What is shown": "options_mount",
    "Environment": "options_environment",
    "Isolation": "options_namespace",
    "The run": "options_run",
}
_CHOSEN = "sifkit.options"
_PLAIN = frozenset({"image", "command", "args", "overlay", "writable_tmpfs", "tmpfs_size", "writable", "create_dir"})


class Spec(NamedTuple):
    """One option. Without ``metavar`` it is a flag; with ``many`` it can be repeated, and the values are a tuple.

    ``field``: its key among what was given, by default its last name with ``_`` for ``-``. ``twins``: names of
    variables behind ``SIFKIT_``, ``APPTAINER_`` and ``SINGULARITY_`` that stand for it, by default its field.
    ``separator``: what divides several values in such a variable.
    """

    names: tuple[str, ...]
    help: str
    metavar: str = ""
    many: bool = False
    field: str = ""
    twins: tuple[str, ...] | None = None
    separator: str = ""
    type: click.ParamType[Any] | None = None
    verbs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.field or self.names[-1].lstrip("-").replace("-", "_")

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.key.upper(),) if self.twins is None else self.twins

    def option(self) -> click.Option:
        """It as click wants it. Not given it leaves no trace, so that what a variable says can come in."""
        names = [*self.names, self.key]
        if not self.metavar:
            return click.Option(names, is_flag=True, help=self.help)
        return click.Option(names, multiple=self.many, metavar=self.metavar, type=self.type, help=self.help)


class Given(dict[str, Any]):
    """What was given, by field; None for what was not."""

    @property
    def plain(self) -> bool:
        """Whether there is no option, but for those about layers."""
        return not self.keys() - _PLAIN

    def __missing__(self, key: str) -> None:
        return None


def tables() -> dict[str, tuple[Spec, ...]]:
    """Every option, by heading."""
    return {heading: import_module(f"sifkit.cli.{name}").OPTIONS for heading, name in SUBJECTS.items()}


def specs(verb: str) -> list[Spec]:
    """The options of ``verb``."""
    return [spec for table in tables().values() for spec in table if not spec.verbs or verb in spec.verbs]


class RunCommand(click.Command):
    """A command with the options of every run. ``function`` is called with a `Given` and the arguments."""

    def __init__(
        self, verb: str, function: Callable[[Given], int], arguments: list[click.Parameter], text: str
    ) -> None:
        settings = {"allow_interspersed_args": False}
        super().__init__(verb, params=arguments, help=text, context_settings=settings)
        self._verb, self._function = verb, function

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        chosen = ctx.meta.get(_CHOSEN)
        options = [option for _, option in self._all()] if chosen is None else chosen
        return [*options, *super().get_params(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # A first word that is no option is IMAGE, and what follows belongs to the payload.
        if not ctx.resilient_parsing:  # completing: any of them may be what is wanted
            ctx.meta[_CHOSEN] = self._mentioned(args) if args and args[0].startswith("-") else []
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> int:
        return self._function(Given({name: value for name, value in ctx.params.items() if _is_given(ctx, name)}))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for heading, option in self._all():
            if record := option.get_help_record(ctx):
                sections.setdefault(heading, []).append(record)
        help_option = self.get_help_option(ctx)
        if help_option and (record := help_option.get_help_record(ctx)):
            sections.setdefault("Messages", []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def _all(self) -> list[tuple[str, click.Option]]:
        from sifkit.cli import options

        found = [
            (heading, spec.option())
            for heading, table in tables().items()
            for spec in table
            if not spec.verbs or self._verb in spec.verbs
        ]
        taken = {name for _, option in found for name in option.opts}
        return [*found, *(("Messages", option) for option in options.verbosity_without(taken))]

    def _mentioned(self, args: list[str]) -> list[click.Option]:
        """The options that ``args`` name; all of them when a word is none of ours: click then says what is wrong."""
        known = {name: spec for spec in specs(self._verb) for name in spec.names}
        from sifkit.cli import options

        messages = {name: option for option in options.verbosity_without(set(known)) for name in option.opts}
        found: dict[str, click.Option] = {}
        words = iter(args)
        for word in words:
            if word == "--" or not word.startswith("-"):
                break
            value_follows = False
            for name in _names(word):
                spec = known.get(name)
                if spec:
                    found.setdefault(spec.key, spec.option())
                elif name in messages:
                    found[name] = messages[name]
                else:
                    return [option for _, option in self._all()]
                if spec and spec.metavar:
                    value_follows = word == name or (word[1] != "-" and word.endswith(name[1]))
                    break
            if value_follows:
                next(words, None)
        return list(found.values())


def _names(word: str) -> Iterable[str]:
    """The options in ``word``: one long, or short ones in a row (of which the first with a value ends the row)."""
    if word.startswith("--"):
        return (word.partition("=")[0],)
    return tuple(f"-{letter}" for letter in word[1:])


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
