"""Options of exec, shell and run made into click's, and of those only what the command line mentions.

``--help`` and whatever looks at a command from outside sees all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from sifkit.cli.spec import Given, specs, tables

_CHOSEN = "sifkit.options"


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
