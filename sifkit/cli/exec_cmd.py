"""``sifkit exec``, ``shell`` and ``run``: from the command line to a plan, and the plan to the runtime."""

from __future__ import annotations

import os
from collections.abc import Callable
from inspect import cleandoc
from typing import Any

import click

from overlay import tools
from sifkit.cli import config, options, request
from sifkit.cli.console import CONSOLE
from sifkit.runtime import container, identity, plan, userns

_OPTIONS: tuple[click.Parameter, ...] = (
    click.Option(["-o", "--overlay"], multiple=True, metavar="SRC[:ro|:rw]",
                 help="Stack SRC on the image: a directory, an ext3 or a squashfs file. Repeatable; later is higher, "
                      "a writable one is on top."),
    click.Option(["--writable-tmpfs"], is_flag=True, help="Take writes in memory and throw them away at the end."),
    click.Option(["--tmpfs-size"], metavar="SIZE", help="Most that --writable-tmpfs holds (512M, 4G; default: 1G, or "
                                                      "half of the free memory if that is less)."),
    click.Option(["-w", "--writable"], is_flag=True, help="Write into the image itself: its directory, or the "
                                                          "ext3 overlay inside a SIF."),
    click.Option(["--read-only"], is_flag=True, help="Do not write into the overlay inside a SIF, which otherwise "
                                                     "takes the writes when nothing else does."),
    click.Option(["--create-dir"], multiple=True, metavar="DIR",
                 help="Make DIR in the writable overlay, owned by you. Repeatable."),
    click.Option(["-B", "--bind"], multiple=True, metavar="SRC[:DEST[:ro|rw]]",
                 help="Show SRC of the host in the container, at DEST. Repeatable."),
    click.Option(["--env"], multiple=True, metavar="NAME=VALUE", help="Set a variable in the container. Repeatable."),
    click.Option(["-e", "--cleanenv"], is_flag=True, help="Pass nothing of the host's environment on."),
    click.Option(["--cwd", "--pwd", "cwd"], metavar="DIR", help="Start in DIR of the container."),
    click.Option(["--no-home"], is_flag=True, help="Do not show your home directory."),
    click.Option(["-c", "--contain"], is_flag=True, help="Empty /tmp, /var/tmp and home, and a minimal /dev."),
    click.Option(["--unsquash"], is_flag=True, help="Unpack the image once into the cache and run from there; done by "
                                                    "itself where FUSE is missing."),
    click.Option(["--wait-lock"], type=click.FloatRange(min=0), default=0, metavar="SECONDS",
                 help="Wait so long for an overlay that is in use (default: not at all)."),
    click.Option(["--wait"], is_flag=True, help="At the end wait for processes left in the background."),
    click.Option(["--dry-run"], is_flag=True, help="Print what would be done, layer by layer, and do nothing."),
    click.Option(["--json", "as_json"], is_flag=True, help="With --dry-run: print it as JSON."),
    *options.VERBOSITY,
)  # fmt: skip

_IMAGE = click.Argument(["image"])
_ARGS = click.Argument(["args"], nargs=-1, type=click.UNPROCESSED)


def _command(function: Callable[..., int], *parameters: click.Parameter) -> click.Command:
    """``function`` as a command with the options of every run; they are made once, for all three verbs."""
    return click.Command(
        function.__name__.strip("_"),
        callback=function,
        params=[*_OPTIONS, *parameters],
        help=cleandoc(function.__doc__ or ""),
        context_settings={"allow_interspersed_args": False},
    )


def _exec(image: str, command: tuple[str, ...], **given: Any) -> int:
    """Run COMMAND in IMAGE: a directory that holds a root file system, a SIF image or a squashfs file.

    What follows IMAGE belongs to the command. The exit status is the command's own.

    \b
    sifkit exec image/ python3 --version
    sifkit exec --overlay changes/ image/ pip install numpy
    """
    return _carry_out("exec", image, command, given)


def _shell(image: str, args: tuple[str, ...], **given: Any) -> int:
    """Open a shell in IMAGE: bash when it is there, else sh; ARGS are handed to it.

    \b
    sifkit shell --overlay changes/ image/
    sifkit shell --writable-tmpfs image.sqfs
    """
    return _carry_out("shell", image, args, given)


def _run(image: str, args: tuple[str, ...], **given: Any) -> int:
    """Run what IMAGE was made to run: its runscript with ARGS, or a shell when it has none.

    \b
    sifkit run image/ --input data.root
    """
    return _carry_out("run", image, args, given)


_SHELL = click.Option(["--shell", "shell_path"], metavar="PATH", help="Program in the container to run as the shell.")

exec_ = _command(_exec, _IMAGE, click.Argument(["command"], nargs=-1, required=True, type=click.UNPROCESSED))
shell = _command(_shell, _SHELL, _IMAGE, _ARGS)
run = _command(_run, _IMAGE, _ARGS)


def _carry_out(verb: str, image: str, args: tuple[str, ...], given: dict[str, Any]) -> int:
    if given["as_json"] and not given["dry_run"]:
        raise click.UsageError("--json goes with --dry-run")
    settings = config.load()
    _apply(settings)
    asked = request.build(verb, image, args, given, settings)
    made = plan.build(asked, identity.caller(), dict(os.environ), userns.privileged())
    if given["dry_run"]:
        from sifkit.cli import show_plan

        return container.dry_run(made, lambda decision: show_plan.show(made, decision, given["as_json"]))
    return container.run(made, CONSOLE, given["wait_lock"])


def _apply(settings: config.Config) -> None:
    tools.configure(dict(settings.helpers))
    if settings.session_dir:
        os.environ.setdefault("SIFKIT_SESSION_DIR", settings.session_dir)
