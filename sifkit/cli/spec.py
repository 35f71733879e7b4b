"""Options of exec, shell, run and test as plain records, in tables by subject (``options_*``), and what was given.

A click option costs a start its making and its handling, given or not; sixty of them cost more than the kernel's
work, and click itself costs more than all of our modules. So these know nothing of click.
"""

from __future__ import annotations

from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import click

# Heading in --help -> module with its table, OPTIONS.
SUBJECTS = {
    "Layers": "options_layers",
    "What is shown": "options_mount",
    "Environment": "options_environment",
    "Isolation": "options_namespace",
    "The run": "options_run",
}
_PLAIN = frozenset({"image", "command", "args", "overlay", "writable_tmpfs", "tmpfs_size", "writable", "create_dir"})

if TYPE_CHECKING:
    _Dictionary = dict[str, Any]
else:
    _Dictionary = dict


class Spec(NamedTuple):
    """One option. Without ``metavar`` it is a flag; with ``many`` it can be repeated, and the values are a tuple.

    ``field``: its key among what was given, by default its last name with ``_`` for ``-``. ``twins``: names of
    variables behind ``SIFKIT_``, ``APPTAINER_`` and ``SINGULARITY_`` that stand for it, by default its field.
    ``separator``: what divides several values in such a variable. ``type``: makes click's type of a value that is
    not any text.
    """

    names: tuple[str, ...]
    help: str
    metavar: str = ""
    many: bool = False
    field: str = ""
    twins: tuple[str, ...] | None = None
    separator: str = ""
    type: Callable[[], click.ParamType[Any]] | None = None
    verbs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.field or self.names[-1].lstrip("-").replace("-", "_")

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.key.upper(),) if self.twins is None else self.twins

    def option(self) -> click.Option:
        """It as click wants it. Not given it leaves no trace, so that what a variable says can come in."""
        import click  # not for a start (`sifkit.cli.start`)

        names = [*self.names, self.key]
        if not self.metavar:
            return click.Option(names, is_flag=True, help=self.help)
        kind = self.type() if self.type else None
        return click.Option(names, multiple=self.many, metavar=self.metavar, type=kind, help=self.help)


class Given(_Dictionary):
    """What was given, by field; None for what was not."""

    @property
    def plain(self) -> bool:
        """Whether there is no option, but for those about layers."""
        return not self.keys() - _PLAIN

    def __missing__(self, key: str) -> None:
        return None


def tables() -> dict[str, tuple[Spec, ...]]:
    """Every option, by heading."""
    from importlib import import_module

    return {heading: import_module(f"sifkit.cli.{name}").OPTIONS for heading, name in SUBJECTS.items()}


def specs(verb: str) -> list[Spec]:
    """The options of ``verb``."""
    return [spec for table in tables().values() for spec in table if not spec.verbs or verb in spec.verbs]
