"""``sifkit overlay remove``: a directory overlay removed, whoever in the container its files belong to."""

from __future__ import annotations

import os
import sys

import click

from overlay.failure import Failure
from sifkit.cli.overlay_mend import wording


@click.command(epilog="Example: sifkit overlay remove --yes changes/")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.argument("directory")
def remove(directory: str, yes: bool) -> None:
    """Remove the directory overlay DIRECTORY with all that is in it, for good.

    Also what a --fakeroot run left there that belongs to your subordinate ids, which rm cannot remove.
    """
    from overlay.locks import lock
    from overlay.remove import remove as remove_tree
    from sifkit.image.target import resolve

    brief = f"cannot remove {directory}"
    with wording(brief):
        found = resolve(directory)
        if not found.is_directory:
            raise Failure(brief, "it is a file, not a directory overlay", f"rm {directory} removes it")
        path = os.path.realpath(found.path)
        _refuse_others(path, brief)
        with lock.acquire(path, exclusive=True):
            if not yes:
                _ask(directory)
            remove_tree(path)


def _refuse_others(path: str, brief: str) -> None:
    """Only what is an overlay and nothing else is removed: a typing error must not cost a project."""
    from overlay import record

    ours = ("upper", "work", record.NAME)
    other = sorted(name for name in os.listdir(path) if name not in ours and not name.startswith(".sifkit"))
    if other:
        raise Failure(brief, f"there is more in it than an overlay: {', '.join(other[:3])}", "move it away first")
    from overlay import mountinfo

    if mounted := mountinfo.below(path):
        raise Failure(brief, f"something is mounted at {mounted[0].point}", "unmount it first")


def _ask(directory: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to ask: --yes removes it without")
    click.confirm(f"Remove the overlay {directory} and all changes in it?", abort=True)
