"""``sifkit exec``, ``shell``, ``run`` and ``test`` for click; `sifkit.cli.start` spares a usual start it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import cleandoc
from typing import TYPE_CHECKING

import click

from sifkit.cli.carry_out import carry_out
from sifkit.cli.run_option import RunCommand
from sifkit.cli.spec import Given

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _command(function: Callable[[Given], int], *parameters: click.Parameter) -> click.Command:
    """``function`` as a command with the options of every run."""
    verb = function.__name__.strip("_")
    return RunCommand(verb, function, list(parameters), cleandoc(function.__doc__ or ""))


def _exec(given: Given) -> int:
    """Run COMMAND in IMAGE: a directory that holds a root file system, a SIF image or a squashfs file.

    What follows IMAGE belongs to the command. The exit status is the command's own.

    \b
    sifkit exec image/ python3 --version
    sifkit exec --overlay changes/ image/ pip install numpy
    """
    return carry_out("exec", given)


def _shell(given: Given) -> int:
    """Open a shell in IMAGE: bash when it is there, else sh; ARGS are handed to it.

    \b
    sifkit shell --overlay changes/ image/
    sifkit shell --writable-tmpfs image.sqfs
    """
    return carry_out("shell", given)


def _run(given: Given) -> int:
    """Run what IMAGE was made to run: its runscript with ARGS, or a shell when it has none.

    \b
    sifkit run image/ --input data.root
    """
    return carry_out("run", given)


def _test(given: Given) -> int:
    """Run the test that the builder of IMAGE wrote for it, with ARGS. An image without one passes.

    \b
    sifkit test image.sif
    """
    return carry_out("test", given)


def _programs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    from sifkit.cli import completion

    return completion.programs(ctx, param, incomplete)


_IMAGE = click.Argument(["image"])
_ARGS = click.Argument(["args"], nargs=-1, type=click.UNPROCESSED)

_COMMAND = click.Argument(
    ["command"], nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=_programs
)  # fmt: skip

exec_ = _command(_exec, _IMAGE, _COMMAND)
shell = _command(_shell, _IMAGE, _ARGS)
run = _command(_run, _IMAGE, _ARGS)
test = _command(_test, _IMAGE, _ARGS)
