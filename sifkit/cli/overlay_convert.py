"""``sifkit overlay convert``, ``export`` and ``import``: an overlay turned into another kind, or into a tar archive."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from overlay.failure import Failure, of_path
from sifkit.cli.console import CONSOLE
from sifkit.cli.names import escape
from sifkit.cli.overlay_mend import wording

if TYPE_CHECKING:
    from overlay.tree.loss import Losses

KINDS = ("directory", "ext3", "squashfs", "tar")
TO = click.option("--to", type=click.Choice(KINDS), metavar="KIND",
                  help="What to make: " + ", ".join(KINDS) + " (default: as the name ends).")  # fmt: skip
COMPRESS = click.option("--compress", type=click.Choice(("zstd", "gzip", "lz4")), default="zstd", show_default=True,
                        help="How a squashfs is compressed.")  # fmt: skip

SIZE = click.option("-s", "--size", metavar="SIZE",
                    help="Size of an ext3 image: 10G, 500M, or MiB (default: what it takes).")  # fmt: skip


@contextlib.contextmanager
def converting(brief: str) -> Iterator[Losses]:
    """Where a tree is read and another written: errors get words, and losses are told at the end."""
    from overlay.tree.loss import Losses

    losses = Losses(lambda path, what: CONSOLE.info(f"{escape(path) or '/'}: not kept: {what}"))
    with wording(brief):
        try:
            yield losses
        except EOFError as error:
            raise Failure(brief, str(error), "run it again when nothing changes it") from None
        except ValueError as error:  # ExtError, SquashError, TarError
            raise Failure(brief, str(error)) from error
    for what, count, paths in losses:
        some = ", ".join(escape(path) or "/" for path in paths)
        more = f", and {count - len(paths)} more" if count > len(paths) else ""
        CONSOLE.warning(f"not kept: {what}: {some}{more}")


def directory_for(path: str, brief: str) -> str:
    """The directory in which ``path`` is to be made anew; an error, before anything is read, where it cannot be."""
    from overlay import newfile

    directory = newfile.split(path)[0]
    try:
        newfile.refuse_existing(path)
        os.stat(directory)
    except FileExistsError:  # `wording` has words for it
        raise
    except OSError as error:
        raise of_path(brief, error) from None
    return directory


def kind_of(path: str, to: str | None) -> str:
    """What is to be made; a usage error where the name does not tell."""
    from sifkit.image import convert as library

    kind = to or library.kind_of(path)
    if kind is None:
        suffixes = ", ".join(sorted(library.SUFFIXES))
        raise click.UsageError(f"{path}: of what kind? Say --to, or use a name that ends in / or one of {suffixes}")
    return kind


def bytes_of(size: str | None, kind: str) -> int | None:
    """The bytes that ``--size`` asks for."""
    from sifkit.cli.options import size as parsed

    if size is not None and kind != "ext3":
        raise click.UsageError(f"--size: only an ext3 image has one, not a {kind}")
    return None if size is None else parsed(size, "--size")


@click.command(epilog="Example: sifkit overlay convert changes.img changes.sqfs")
@TO
@COMPRESS
@SIZE
@click.argument("source", metavar="SOURCE")
@click.argument("destination", metavar="NEW", type=click.Path())
def convert(source: str, destination: str, to: str | None, compress: str, size: str | None) -> None:
    """Write the overlay SOURCE as NEW, an overlay of another kind.

    SOURCE is a TARGET, or a tar archive as the layers of OCI images are, also compressed. What NEW cannot hold is
    listed. Nothing that exists is replaced.
    """
    from sifkit.image import convert as library

    kind = kind_of(destination, to)
    destination = destination.rstrip("/")
    brief = f"cannot convert {source} to {destination}"
    with converting(brief) as losses:
        scratch = directory_for(destination, brief)
        with CONSOLE.task(f"Converting {source}"), library.layer(source, scratch) as tree:
            library.write(tree, destination, kind, losses, compress=compress, size=bytes_of(size, kind))


@click.command(epilog="Example: sifkit overlay export changes.img | zstd > layer.tar.zst")
@click.argument("target")
def export(target: str) -> None:
    """Write the overlay TARGET to standard output as a tar archive, a layer as OCI images have it."""
    from overlay.tree.spelled import FILES, SpelledTree
    from overlay.tree.write_tar import write_tar
    from sifkit.image import convert as library

    if sys.stdout.isatty():
        raise click.UsageError("standard output is a terminal; send the archive to a file or a pipe")
    with contextlib.ExitStack() as stack:
        losses = stack.enter_context(converting(f"cannot export {target}"))
        tree = stack.enter_context(library.layer(target, "."))
        stream = stack.enter_context(open(1, "wb", buffering=1 << 18, closefd=False))
        stack.enter_context(CONSOLE.task(f"Exporting {target}"))
        write_tar(SpelledTree(tree, FILES), stream, losses)


@click.command("import", epilog="Example: zstd -d < layer.tar.zst | sifkit overlay import changes.sqfs")
@TO
@COMPRESS
@SIZE
@click.argument("destination", metavar="NEW", type=click.Path())
def import_(destination: str, to: str | None, compress: str, size: str | None) -> None:
    """Make the overlay NEW of a tar archive, a layer of an OCI image, on standard input; it may be compressed."""
    from sifkit.image import convert as library

    if sys.stdin.isatty():
        raise click.UsageError("standard input is a terminal; give it a tar archive")
    kind = kind_of(destination, to)
    destination = destination.rstrip("/")
    brief = f"cannot import {destination}"
    with converting(brief) as losses:
        scratch = directory_for(destination, brief)
        with (
            CONSOLE.task(f"Importing {destination}"),
            library.archive(os.fdopen(0, "rb", closefd=False), scratch) as tree,
        ):
            library.write(tree, destination, kind, losses, compress=compress, size=bytes_of(size, kind))
