"""Options about what is stacked on the image, and what takes the writes."""

from __future__ import annotations

from overlay.records import TYPE_CHECKING
from overlay.stack.driver import WAYS
from sifkit.cli.spec import Spec

if TYPE_CHECKING:
    from typing import Any

    import click


def _seconds() -> click.ParamType[Any]:
    import click

    made = click.FloatRange(min=0)
    made.name = "number of seconds"  # the word of its error message
    return made


def _way() -> click.ParamType[Any]:
    import click

    return click.Choice(("auto", *WAYS))


OPTIONS = (
    Spec(
        ("-o", "--overlay"),
        "Stack SRC on the image: a directory, an ext3 or a squashfs file. Repeatable; later is higher, a writable one "
        "is on top.",
        "SRC[:ro|:rw|:fuse]", many=True, twins=("OVERLAY", "OVERLAYIMAGE"),
    ),
    Spec(("--writable-tmpfs",), "Take writes in memory and throw them away at the end."),
    Spec(
        ("--tmpfs-size",),
        "Most that --writable-tmpfs holds (512M, 4G; default: 1G, or half of the free memory if that is less).",
        "SIZE",
    ),
    Spec(("-w", "--writable"), "Write into the image itself: its directory, or the ext3 overlay inside a SIF."),
    Spec(
        ("--read-only",),
        "Do not write into the overlay inside a SIF, which otherwise takes the writes when nothing else does.",
    ),
    Spec(("--create-dir",), "Make DIR in the writable overlay, owned by you. Repeatable.", "DIR", many=True, twins=()),
    Spec(
        ("--session-dir",),
        "Keep what changes in an ext3 overlay in DIR until it is written into it, at the end.",
        "DIR", twins=(),
    ),
    Spec(("--no-grow",), "Do not let an ext3 overlay grow when the changes do not fit.", twins=()),
    Spec(
        ("--max-size",),
        "Let an ext3 overlay grow to SIZE at the most (default: by half of what is free on its file system).",
        "SIZE", twins=(),
    ),
    Spec(
        ("--unsquash",),
        "Unpack the image once into the cache and run from there; done by itself where FUSE is missing.",
    ),
    Spec(
        ("--foreign",),
        "How to write over a base of somebody else: metadata, directory, squash, plain (default: auto, the best that "
        "this host has).",
        "WAY", type=_way,
    ),
    Spec(
        ("--metadata-cache",),
        "Make a metadata layer of the base and keep it in the cache, also for runs that could do without: looking at "
        "files is local then.",
    ),
    Spec(
        ("--wait-lock",),
        "Wait so long for an overlay that is in use (default: not at all).",
        "SECONDS", type=_seconds,
    ),
)  # fmt: skip
