"""Shell completion: click's, with files where nothing better is known, and after IMAGE the programs in it."""

from __future__ import annotations

import sys

import click
from click import shell_completion
from click.shell_completion import CompletionItem

from sifkit.cli.options import verbosity

VARIABLE = "_SIFKIT_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
_GROUPS = ("overlay", "sif", "session", "cache")  # their next word is a command
_MOST = 2000  # names; more help nobody


class _OrFiles(shell_completion.ShellComplete):
    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        try:
            found = super().get_completions(args, incomplete)
        except Exception:  # a half-written command line: nothing to offer, and nobody to tell
            found = []
        names_a_command = not args or (len(args) == 1 and args[0] in _GROUPS)
        if found or names_a_command or incomplete.startswith("-"):
            return found
        return [CompletionItem(incomplete, type="file")]


class _Bash(_OrFiles, shell_completion.BashComplete):
    pass


class _Zsh(_OrFiles, shell_completion.ZshComplete):
    pass


class _Fish(_OrFiles, shell_completion.FishComplete):
    pass


def register() -> None:
    """Have click answer with these."""
    for shell in (_Bash, _Zsh, _Fish):
        shell_completion.add_completion_class(shell)


def programs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Programs of the image that begin with ``incomplete``; nothing behind the first word, or for a path."""
    image, words = ctx.params.get("image"), ctx.params.get("command")
    if not image or words or "/" in incomplete:
        return []
    from sifkit.image import target

    with target.base(image) as tree:
        from sifkit.image import metadata

        found = {name for name in metadata.programs(tree) if name.startswith(incomplete)}
    return [CompletionItem(name) for name in sorted(found)[:_MOST]]


@click.command("completion", epilog="Example: sifkit completion bash >> ~/.bashrc")
@verbosity
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options, files, programs in images, and sessions.

    \b
    bash   sifkit completion bash >> ~/.bashrc
    zsh    sifkit completion zsh >> ~/.zshrc      (behind compinit)
    fish   sifkit completion fish > ~/.config/fish/completions/sifkit.fish
    """
    from sifkit.cli.commands import cli

    known = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}[shell]
    text = known.source_template % known(cli, {}, "sifkit", VARIABLE).source_vars()
    sys.stdout.write(text.strip("\n") + "\n")
