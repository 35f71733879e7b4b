"""``sifkit exec``, ``shell`` and ``run``: from the command line to a plan, and the plan to the runtime."""

from __future__ import annotations

import os
from collections.abc import Callable
from inspect import cleandoc
from typing import TYPE_CHECKING

import click

from overlay import tools
from sifkit.cli import config, request
from sifkit.cli.console import CONSOLE
from sifkit.cli.run_option import Given, RunCommand
from sifkit.runtime import container, environ, identity, plan, userns

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from overlay.section import Section


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
    return _carry_out("exec", given["command"], given)


def _shell(given: Given) -> int:
    """Open a shell in IMAGE: bash when it is there, else sh; ARGS are handed to it.

    \b
    sifkit shell --overlay changes/ image/
    sifkit shell --writable-tmpfs image.sqfs
    """
    return _carry_out("shell", given["args"], given)


def _run(given: Given) -> int:
    """Run what IMAGE was made to run: its runscript with ARGS, or a shell when it has none.

    \b
    sifkit run image/ --input data.root
    """
    return _carry_out("run", given["args"], given)


def _test(given: Given) -> int:
    """Run the test that the builder of IMAGE wrote for it, with ARGS. An image without one passes.

    \b
    sifkit test image.sif
    """
    return _carry_out("test", given["args"], given)


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


def _carry_out(verb: str, args: tuple[str, ...] | None, given: Given) -> int:
    if any(name.startswith(request.PREFIXES) for name in os.environ):
        from sifkit.cli import twins

        twins.add(verb, given, os.environ)
    if given["json"] and not given["dry_run"]:
        raise click.UsageError("--json goes with --dry-run")
    settings = config.load()
    _apply(settings)
    asked = request.build(verb, given["image"], args or (), given, settings)
    real_root = userns.privileged() and not given["userns"]
    made = plan.build(asked, identity.caller(), environ.of_caller(), real_root)
    if given["fakeroot"]:
        from sifkit.runtime import fakeroot

        if text := fakeroot.remark(made):
            CONSOLE.warning(text) if made.ids else CONSOLE.info(text)
    if given["dry_run"]:
        from sifkit.cli import show_plan

        show_plan.show(made, container.dry_run(made), bool(given["json"]))
        return 0
    return container.run(made, CONSOLE, given["wait_lock"] or 0.0, _enlarge)


def _enlarge(section: Section, size: int, inodes: int) -> Section:
    """Let an ext3 overlay grow that takes the writes of a run and does not hold them."""
    from sifkit.image import resize

    return resize.enlarge(section, size, inodes)


def _apply(settings: config.Config) -> None:
    tools.configure(dict(settings.helpers))
    if settings.session_dir:
        os.environ.setdefault("SIFKIT_SESSION_DIR", settings.session_dir)
