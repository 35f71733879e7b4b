"""All commands, for click: a table with static summaries; a command's module is imported when used."""

from __future__ import annotations

import gc

import click

from sifkit import __version__
from sifkit.cli.console import CONSOLE, undo_when_ended
from sifkit.cli.lazy import LazyGroup, Table
from sifkit.cli.options import verbosity

TABLE: Table = {
    "Run something in an image": (
        ("exec", "exec_cmd", "Run a command in an image you cannot change"),
        ("shell", "exec_cmd", "Open a shell in an image"),
        ("run", "exec_cmd", "Run what the image was made to run"),
        ("test", "exec_cmd", "Run the test that came with the image"),
    ),
    "Keep and see changes": (
        ("overlay", "overlay_cmd", "Create and inspect overlays, which hold the changes"),
        ("session", "session_cmd", "Changes of runs that are not in their overlay yet"),
        ("cache", "cache_cmd", "List and remove what runs keep for later ones"),
    ),
    "Work on image files": (("sif", "sif_cmd", "List, check and edit the objects of a SIF image"),),
    "See what an image is": (
        ("inspect", "inspect_cmd", "Labels, environment, scripts and definition of an image"),
        ("run-help", "inspect_cmd", "The help an image has for those who run it"),
    ),
    "Find out": (
        ("doctor", "doctor_cmd", "Can this host run us, and what to do if not"),
        ("completion", "completion", "Have your shell complete commands, files and programs of images"),
    ),
}


class Commands(LazyGroup):
    """The commands of `TABLE`; all but those that run something collect garbage again, and undo what they began."""

    table = TABLE

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if self.module_of(cmd_name) not in (None, "exec_cmd"):
            gc.enable()
            undo_when_ended()
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if args[0].startswith("-"):  # an option behind "--"
                raise
            from sifkit.cli import absent

            if failure := absent.command(args[0]):
                raise failure from None
            from difflib import get_close_matches
            from os.path import exists

            meant = get_close_matches(args[0], self.list_commands(ctx), 1)
            meant = meant or ([f"run {args[0]}"] if exists(args[0]) else [])
            hint = f"; did you mean: sifkit {meant[0]}" if meant else ""
            raise click.UsageError(f"no command {args[0]!r}{hint}", ctx) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="sifkit %(version)s", help="Show the version and exit.")
@verbosity
def cli() -> None:
    """Run images you cannot change as if you could, and keep the changes as things you can hold.

    \b
    sifkit exec /cvmfs/repo/image python3 analysis.py     a command in an image
    sifkit shell --overlay changes/ image                 changes kept in a directory
    sifkit exec --writable-tmpfs image make test          changes thrown away
    sifkit COMMAND --help                                 everything about a command
    """


def run() -> int:
    """Do what the command line says; the exit status."""
    try:
        result = cli.main(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        return _wrong(error)
    except SystemExit as ended:  # click's own: after a completion, and with 1 when standard output is a closed pipe
        return 141 if ended.code == 1 else int(ended.code or 0)


def _wrong(error: click.ClickException) -> int:
    """A command line that is wrong, or right for Apptainer alone."""
    if isinstance(error, click.NoSuchOption):
        from sifkit.cli import absent
        from sifkit.cli.run_option import RunCommand

        of = error.ctx.command if error.ctx else None
        failure = absent.option(error.option_name) if of is cli or isinstance(of, RunCommand) else None
        if failure:
            CONSOLE.failure(failure)
            return failure.exit_code
    error.show()
    return error.exit_code
