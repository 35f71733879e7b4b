"""``sifkit overlay freeze`` and ``commit``: changes as one read-only file, or as part of a new image."""

from __future__ import annotations

import contextlib
import os
import sys

import click

from overlay.failure import Failure
from sifkit.cli.console import CONSOLE
from sifkit.cli.overlay_convert import COMPRESS, converting, directory_for

_KINDS = ("SIF", "squashfs", "directory", "tar")


@click.command(epilog="Example: sifkit overlay freeze changes.img -o tools.sqfs")
@COMPRESS
@click.option("--reproducible", is_flag=True,
              help="The same bytes every time: no time of making; SOURCE_DATE_EPOCH is heeded.")  # fmt: skip
@click.option("--base", metavar="IMAGE",
              help="The image it is for (default: the last it was used on; none: any image).")  # fmt: skip
@click.option("-o", "--output", required=True, metavar="OUT", type=click.Path(),
              help="The new squashfs file, or a SIF image to put it into.")  # fmt: skip
@click.argument("target")
def freeze(target: str, output: str, compress: str, reproducible: bool, base: str | None) -> None:
    """Write the changes in the overlay TARGET as one read-only squashfs overlay.

    Smaller, and faster to read than an ext3 image. Deleted files stay deleted under every driver, and in Apptainer.
    A SIF image gets it as an overlay partition; nothing else that exists is replaced.
    """
    from overlay import newfile
    from overlay.size import format_size
    from overlay.tree.spelled import DEVICES, SpelledTree
    from sifkit.image import convert as library
    from sifkit.image import freeze as freezing
    from sifkit.sif.sniff import is_sif

    brief = f"cannot freeze {target}"
    with contextlib.ExitStack() as stack:
        losses = stack.enter_context(converting(brief))
        if not (os.path.isfile(output) and os.access(output, os.R_OK) and is_sif(output)):
            if output.lower().endswith(".sif"):
                raise Failure(f"cannot freeze into {output}", "there is no such SIF image",
                              f"sifkit sif new {output} makes an empty one")  # fmt: skip
            directory_for(output, brief)
        scratch = newfile.split(output)[0]
        tree = stack.enter_context(library.layer(target, scratch))
        under = freezing.base_of(target, base)
        if under is not None:
            stack.enter_context(under)
        with CONSOLE.task(f"Freezing {target}"):
            spelled = SpelledTree(tree, DEVICES, under)
            size = freezing.freeze(spelled, output, losses, compress=compress, reproducible=reproducible)
    if spelled.opaque and under is None and base != "none":
        CONSOLE.warning(
            f"{spelled.opaque} directories hide those of the image by a mark, which Apptainer cannot read for ordinary "
            "users; --base IMAGE spells out what they hide"
        )
    click.echo(f"{output}: {format_size(size)} of squashfs")


@click.command(epilog="Example: sifkit overlay commit changes.img --base image.sif -o new.sif")
@click.option("--base", required=True, metavar="IMAGE", help="The image the changes were made over.")
@click.option("-o", "--output", required=True, metavar="NEW", type=click.Path(), help="The new image.")
@click.option("--to", type=click.Choice(_KINDS, case_sensitive=False), metavar="KIND",
              help="What to make: " + ", ".join(_KINDS) + " (default: as the name ends).")  # fmt: skip
@COMPRESS
@click.option("--keep-owners", is_flag=True,
              help="Leave files to whom the overlay says, instead of whom they had in the image.")  # fmt: skip
@click.argument("target")
def commit(target: str, base: str, output: str, to: str | None, compress: str, keep_owners: bool) -> None:
    """Write IMAGE with the changes of the overlay TARGET as the new image NEW, which needs no overlay.

    Both stay as they are. A SIF image keeps the definition and labels of IMAGE, and tells what it was made of.
    """
    from overlay.size import format_size
    from sifkit.image import commit as library
    from sifkit.image import convert
    from sifkit.image import target as targets

    kind = _kind(output, to)
    output = output.rstrip("/")
    brief = f"cannot commit {target} to {output}"
    with converting(brief) as losses:
        scratch = directory_for(output, brief)
        library.require_other(output, base)
        changes = None if convert.is_tar(target) else targets.resolve(target)
        with (
            CONSOLE.task(f"Committing {target}"),
            library.opened(base, changes) as under,
            convert.layer(target, scratch) as layer,
        ):
            wish = library.Wish(output, kind, compress, keep_owners, ["sifkit", *sys.argv[1:]])
            made = library.commit(under, layer, target, wish, losses)
    if made.dropped:
        CONSOLE.warning(f"not in {output}: {', '.join(made.dropped)} of {base}")
    click.echo(f"{output}: {kind}" + (f", {format_size(made.size)}" if made.size is not None else ""))


def _kind(path: str, to: str | None) -> str:
    from sifkit.image import convert

    if to is not None:
        return to
    kind = "SIF" if path.lower().endswith(".sif") else convert.kind_of(path)
    if kind not in _KINDS:
        raise click.UsageError(f"{path}: of what kind? Say --to, or use a name that ends in .sif, .sqfs, .tar or /")
    return str(kind)
