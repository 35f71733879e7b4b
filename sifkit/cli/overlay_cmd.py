"""``sifkit overlay``: its commands, and making overlays."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from overlay.failure import Failure, from_oserror, of_path
from overlay.size import KIB, MIB, format_size, parse_size
from sifkit.cli.lazy import LazyGroup, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from overlay.manage.create import Created

SMALLEST = 64 * MIB  # Apptainer's, whose users expect it

# Bytes for which there is an inode. None: 16 KiB, but in images below 512 MiB 4 KiB, as Apptainer has it, whose
# 64 MiB would hold 4096 files otherwise.
PROFILES = {"default": None, "conda": 4 * KIB, "data": MIB}


def _size(_: click.Context, param: click.Parameter, value: str) -> int:
    """The bytes that ``--size`` asks for."""
    try:
        size = parse_size(value, MIB)
    except ValueError as error:
        raise click.BadParameter(str(error), param=param) from error
    if size < SMALLEST:
        raise click.BadParameter(f"at least {format_size(SMALLEST)}", param=param)
    return size


TABLE: Table = {
    "Make": (("create", "overlay_cmd", "Make an empty one: an ext3 image, a directory, a partition of a SIF"),),
    "See": (
        ("info", "overlay_info", "What an overlay is, how full, and who uses it"),
        ("diff", "overlay_diff", "What it changes in the image below it"),
        ("ls", "overlay_see", "List files in it"),
        ("cat", "overlay_see", "Write a file of it to standard output"),
        ("check", "overlay_mend", "Whether it is whole; with --fix mend what is wrong"),
    ),
    "Change": (
        ("cp", "overlay_edit", "Copy files into it and out of it"),
        ("rm", "overlay_edit", "Remove files from it"),
        ("resize", "overlay_mend", "Give an ext3 overlay another size, or more inodes"),
        ("chown", "overlay_mend", "Give the files in it to somebody else"),
        ("remove", "overlay_remove", "Remove a directory overlay, whoever its files belong to"),
    ),
    "Turn into something else": (
        ("convert", "overlay_convert", "Write it as another kind: directory, ext3, squashfs, SIF"),
        ("export", "overlay_convert", "Write it as a tar archive"),
        ("import", "overlay_convert", "Make one from a tar archive"),
        ("freeze", "overlay_freeze", "Make a read-only squashfs of it"),
        ("commit", "overlay_freeze", "Make a new image of the base and its changes"),
    ),
    "In use": (("ps", "overlay_ps", "Overlays in use on this host, and by which process"),),
}  # fmt: skip


class _Group(LazyGroup):
    """The commands of `TABLE`; for overlays of subordinate ids in the namespace that has them."""

    table = TABLE

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        if not ctx.resilient_parsing and os.geteuid() != 0:
            from sifkit.cli import subids

            if args[0] not in subids.EXEMPT:
                ctx.meta[subids.ENTERED] = subids.enter_for(args[1:])
        return found


@click.group(cls=_Group, epilog="Example: sifkit overlay create --size 10G changes.img")
def overlay() -> None:
    """Create overlays, which hold the changes to an image, and see what is in them."""


@click.command(epilog="Example: sifkit overlay create --size 10G --profile conda changes.img")
@click.option("-s", "--size", callback=_size, default="64M", metavar="SIZE",
              help="Size of the image: 10G, 500M, or a number of MiB; default and least is 64M.")  # fmt: skip
@click.option("-S", "--sparse", is_flag=True, help="Take space only when it is written to; it may run out then.")
@click.option("--create-dir", "dirs", multiple=True, metavar="DIR",
              help="Make this directory in the overlay, writable for you; repeatable.")  # fmt: skip
@click.option("--profile", type=click.Choice(tuple(PROFILES)), default="default", show_default=True,
              help="What it is for: conda (many small files), data (few large ones), or both.")  # fmt: skip
@click.option("--inodes", type=click.IntRange(min=16), metavar="N",
              help="Room for N files, whatever the profile gives.")  # fmt: skip
@click.option("-f", "--fakeroot", is_flag=True, help="Let root own the overlay's directories, for --fakeroot runs.")
@click.option("--label", metavar="NAME", help="Name of the file system in the image, at most 16 bytes.")
@click.argument("path", type=click.Path(readable=False))
def create(path: str, dirs: tuple[str, ...], **options: Any) -> None:
    """Make PATH an empty overlay: an ext3 image, a directory, or an ext3 partition inside a SIF image.

    A PATH that ends in '/' or is an empty directory becomes a directory overlay; a SIF image gets the overlay
    as one more partition. Nothing that exists is ever replaced.
    """
    if not path:
        raise Failure("an overlay needs a path", "PATH is empty", exit_code=2)
    with failures(f"cannot create the overlay {path}", of_path):
        if path.endswith("/") or os.path.isdir(path):
            _create_directory(path, dirs, _given("size", "sparse", "inodes", "profile", "label"))
        else:
            if len(_given("inodes", "profile")) > 1:
                raise click.UsageError("--inodes and --profile both say how many files; give one of them")
            _create_image(path, dirs, **options)


def _given(*names: str) -> list[str]:
    """Those of the options ``names`` that are on the command line."""
    source = click.get_current_context().get_parameter_source
    return [f"--{name}" for name in names if source(name) is click.core.ParameterSource.COMMANDLINE]


def _create_directory(path: str, dirs: tuple[str, ...], unfit: list[str]) -> None:
    """--fakeroot asks for nothing here: whoever makes the directory owns it, and is root in a --fakeroot run."""
    from overlay.manage.create import create_directory

    if unfit:
        raise click.UsageError(f"{', '.join(unfit)}: only for images, and {path} is to be a directory")
    if os.path.isdir(os.path.join(path, "upper")):
        raise Failure(
            f"cannot create the overlay {path}", "it is a directory overlay already", f"use it: --overlay {path}"
        )
    create_directory(path, dirs=dirs)


def _create_image(
    path: str, dirs: tuple[str, ...], size: int, sparse: bool, inodes: int | None, profile: str, fakeroot: bool,
    label: str | None,
) -> None:  # fmt: skip
    from overlay.manage.create import create_ext3
    from sifkit.cli.console import CONSOLE
    from sifkit.sif.sniff import is_sif

    make: Callable[..., Created] = create_ext3
    if os.path.isfile(path) and os.access(path, os.R_OK) and is_sif(path):
        from sifkit.image.embed import create_overlay

        make = create_overlay
    owner = (0, 0) if fakeroot else None
    each = PROFILES[profile]
    made = make(path, size, dirs=dirs, sparse=sparse, inodes=inodes, bytes_per_inode=each, owner=owner, label=label)
    if not sparse and not made.reserved:
        CONSOLE.warning(f"{path}: this file system cannot reserve space; the image is sparse")


@contextmanager
def failures(brief: str, word: Callable[[str, OSError], Failure] = from_oserror) -> Iterator[None]:
    """Turn what the library raises into a `Failure` that begins with ``brief``; an OSError by ``word``."""
    try:
        yield
    except BrokenPipeError:  # who read standard output has left
        raise
    except FileExistsError as error:
        raise Failure(
            brief, "it exists already, and nothing is ever replaced", "use another name, or remove it first"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise from_oserror(brief, error, "an overlay begins as an empty directory; use another name") from error
        raise word(brief, error) from error
    except ValueError as error:
        raise Failure(brief, str(error), exit_code=2) from error
    except Exception as error:
        from overlay.e2fsprogs import ToolError

        if not isinstance(error, ToolError):
            raise
        raise Failure(brief, f"{error.program}: {error.said}") from error
