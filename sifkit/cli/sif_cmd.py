"""``sifkit sif``: look into SIF images and change them. siftool's commands, flags and text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from overlay.failure import Failure
from sifkit.cli import sif_see
from sifkit.cli import sif_types as types
from sifkit.cli.lazy import LazyGroup, Table
from sifkit.cli.sif_failures import failures

if TYPE_CHECKING:
    from sifkit.sif import Written

FILE = click.argument("file", type=types.FILE, metavar="FILE")
ID = click.argument("number", type=int, metavar="ID")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, with sizes in bytes and Unix times.")
FORCE = click.option("--force", is_flag=True, help="Do it also when that breaks a signature.")


TABLE: Table = {
    "See": (
        ("list", "sif_cmd", "One line for each object of the image"),
        ("info", "sif_cmd", "Everything about an object"),
        ("header", "sif_cmd", "The image's global header: architecture, ID, times, sizes"),
        ("dump", "sif_cmd", "Write the bytes of an object to standard output, or to a file"),
        ("check", "sif_cmd", "Everything that is wrong with the image"),
    ),
    "Change": (
        ("new", "sif_cmd", "Make an empty image"),
        ("add", "sif_change", "Add a file as an object"),
        ("set", "sif_change", "Change the name, group, link or type of an object"),
        ("setprim", "sif_cmd", "Make a system partition the one that containers start from"),
        ("del", "sif_cmd", "Delete an object"),
        ("compact", "sif_cmd", "Rewrite the image without the bytes that belong to no object"),
    ),
}  # fmt: skip


class _Group(LazyGroup):
    """The commands of `TABLE`."""

    table = TABLE


@click.group(cls=_Group, epilog="Example: sifkit sif list image.sif")
def sif() -> None:
    """Look into a SIF image and change what is in it."""


def _say(text: str) -> None:
    click.echo(text, err=True)


OUTPUT = click.option(
    "-o", "--output", type=types.FILE, metavar="OUT", help="Write to this new file; holes stay holes."
)
OVER = click.option("--force", is_flag=True, help="Overwrite OUT when it exists.")

header = click.command("header", epilog="Example: sifkit sif header image.sif")(JSON(FILE(sif_see.header)))
list_ = click.command("list", epilog="Example: sifkit sif list image.sif")(JSON(FILE(sif_see.list_)))
info = click.command("info", epilog="Example: sifkit sif info 3 image.sif")(JSON(ID(FILE(sif_see.info))))
dump = click.command("dump", epilog="Example: sifkit sif dump 3 image.sif -o rootfs.squashfs")(
    OUTPUT(OVER(ID(FILE(sif_see.dump))))
)


@click.command("check", epilog="Example: sifkit sif check image.sif", help=sif_see.check.__doc__)
@JSON
@FILE
@click.pass_context
def check(ctx: click.Context, file: str, as_json: bool) -> None:
    """`sif_see.check`, whose result is the status."""
    ctx.exit(sif_see.check(file, as_json))


@click.command("new", epilog="Example: sifkit sif new image.sif")
@click.option("--capacity", type=int, default=48, show_default=True, help="Number of objects that have room at first.")
@click.option("--deterministic", is_flag=True, help="No ID and no times: same input, same bytes.")
@FILE
def new(file: str, capacity: int, deterministic: bool) -> None:
    """Make an empty image. An existing file is never touched."""
    from sifkit import sif as library

    try:
        with failures(f"cannot make {file}"):
            library.create(file, capacity=capacity, deterministic=deterministic)
    except Failure as failure:
        if isinstance(failure.__cause__, FileExistsError):
            raise Failure(f"{file} exists already", "it was not touched", "remove it first, or name another") from None
        raise


@click.command("del", epilog="Example: sifkit sif del 4 image.sif --zero --compact")
@click.option("--zero", is_flag=True, help="Overwrite the object's bytes with zeros.")
@click.option("--compact", is_flag=True, help="Cut the file after its last object.")
@FORCE
@ID
@FILE
def del_(number: int, file: str, zero: bool, compact: bool, force: bool) -> None:
    """Delete object ID from the image.

    Without --zero its bytes stay readable in the file; without --compact the file keeps its length.
    """
    from sifkit import sif as library

    with failures(f"cannot delete object {number} of {file}"):
        done = library.delete(file, number, zero=zero, compact=compact, force=force)
    _say_broken(done)
    if done.left:
        zeros = ", as zeros" if zero else ""
        _say(f"{done.left} bytes of the object stay in the file{zeros}; sifkit sif compact {file} gives them back")


def _say_broken(done: Written) -> None:
    if done.broke:
        _say("WARNING: the signature of this image is now broken")


@click.command("setprim", epilog="Example: sifkit sif setprim 4 image.sif")
@FORCE
@ID
@FILE
def setprim(number: int, file: str, force: bool) -> None:
    """Make system partition ID the one that containers start from."""
    from sifkit import sif as library

    with failures(f"cannot make object {number} of {file} the primary partition"):
        _say_broken(library.set_primary(file, number, force=force))


@click.command("compact", epilog="Example: sifkit sif compact image.sif")
@FILE
def compact(file: str) -> None:
    """Rewrite the image without the bytes that belong to no object.

    Signatures stay valid. The new file takes the old one's place when it is complete.
    """
    from sifkit import sif as library

    with failures(f"cannot compact {file}"):
        saved = library.compact(file)
    _say(f"{file} is {saved} bytes shorter" if saved > 0 else f"{file} has nothing to give back")
