"""``sifkit overlay check``, ``resize``, ``chown``, ``ps``: overlays kept sound, large enough and one's own."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import click

from overlay.failure import Failure
from overlay.section import Section
from overlay.size import MIB, format_size, parse_size
from sifkit.cli.overlay_cmd import failures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlay.resize import Resized, Wish


class Target(NamedTuple):
    """What TARGET is: a ``directory``, or an image's ``section``; ``object`` is its ID in a SIF, 0 outside of one."""

    text: str
    path: str
    directory: bool
    section: Section
    ext: bool
    object: int = 0
    signed: bool = False


def find(text: str) -> Target:
    """The overlay that TARGET names: directory, ext3 or squashfs file, ``image.sif`` or ``image.sif#ID``."""
    from overlay import probe

    path, mark, number = text.rpartition("#")
    if not mark or not number.isdigit() or os.path.lexists(text):
        path, number = text, ""
    found = probe.classify(path)
    if found.kind is probe.Kind.SIF:
        return _embedded(text, path, int(number or 0))
    if number:
        raise Failure(f"cannot use {text}", f"{path} is not a SIF image, so there is no object {number} in it")
    if found.kind is probe.Kind.DIRECTORY:
        if not os.path.isdir(os.path.join(path, "upper")):
            raise Failure(f"cannot use {text}", "there is no directory upper/ in it, so it is not an overlay")
        return Target(text, path, True, found.section, False)
    if found.problem or not (found.is_ext or found.kind is probe.Kind.SQUASHFS):
        raise Failure(f"cannot use {text}", found.problem or "it is not an overlay")
    return Target(text, path, False, found.section, found.is_ext)


def _embedded(text: str, path: str, number: int) -> Target:
    from sifkit.image import sif
    from sifkit.sif.integrity import signed_groups
    from sifkit.sif.reader import open as open_sif

    parts = sif.overlays(path)
    part = next((p for p in parts if (p.id == number if number else p.ext)), None if number else parts[0])
    if part is None:
        known = ", ".join(f"{path}#{p.id}" for p in parts)
        raise Failure(f"cannot use {text}", f"object {number} is not an overlay in it", f"one of {known}")
    with open_sif(path) as opened:
        descriptor = next(d for d in opened.objects if d.id == part.id)
        signed = descriptor.group in signed_groups(opened.objects)
    return Target(text, path, False, part.section, part.ext, part.id, signed)


def require_writable(target: Target, brief: str) -> None:
    """`Failure`, in one sentence, for what cannot be changed: squashfs, and what a signature covers."""
    if not target.directory and not target.ext:
        raise Failure(brief, "it is squashfs, which is read-only by nature")
    if target.signed:
        raise Failure(brief, "it is signed, and a change would break the signature")


@contextmanager
def wording(brief: str) -> Iterator[None]:
    """What the library raises as a `Failure` that begins with ``brief``; also that somebody holds the lock."""
    from overlay.lock import InUse

    try:
        with failures(brief):
            yield
    except InUse as error:
        raise Failure(brief, str(error), "run it again when that has ended; sifkit overlay ps shows it") from None


# -- resize ----------------------------------------------------------------------------------------------


@click.command(epilog="Example: sifkit overlay resize --size +10G changes.img")
@click.option("-s", "--size", metavar="SIZE", help="New size: 20G, 500M, or a number of MiB; +5G adds to it.")
@click.option("-m", "--minimum", is_flag=True, help="As small as what is in it allows.")
@click.option("--inodes", type=click.IntRange(min=1), metavar="N",
              help="Room for at least N files; alone, grow as far as they need.")  # fmt: skip
@click.argument("target")
def resize(target: str, size: str | None, minimum: bool, inodes: int | None) -> None:
    """Make the ext3 overlay TARGET larger or smaller, also inside a SIF image.

    Interrupted at any moment, the old or the new overlay is there.
    """
    from sifkit.cli.progress import task

    wish = _wish(size, minimum, inodes)
    brief = f"cannot resize {target}"
    with wording(brief), task(f"Resizing {target}"):
        found = find(target)
        if found.directory:
            raise Failure(brief, "a directory overlay has no size of its own: it may fill its file system")
        require_writable(found, brief)
        done, gap = _resize(found, wish)
    before, after = done.before, done.after
    click.echo(
        f"{target}: {format_size(before.size)} -> {format_size(after.size)}, "
        f"{after.inodes} inodes, {after.free_inodes} of them free"
    )
    if gap:
        from sifkit.cli.console import CONSOLE

        CONSOLE.warning(f"the image keeps a gap: {gap}")


def _wish(size: str | None, minimum: bool, inodes: int | None) -> Wish:
    from overlay.resize import Wish

    if minimum and (size or inodes):
        raise click.UsageError("--minimum is a size of its own; leave out --size and --inodes")
    if not (size or minimum or inodes):
        raise click.UsageError("say what it is to be: --size SIZE, --size +SIZE, --minimum or --inodes N")
    try:
        number = parse_size((size or "0").removeprefix("+"), MIB)
    except ValueError as error:
        raise click.UsageError(f"--size: {error}") from None
    if size and not number:
        raise click.UsageError("--size: more than nothing")
    added = bool(size) and str(size).startswith("+")
    return Wish(0 if added else number, number if added else 0, minimum, inodes or 0)


def _resize(found: Target, wish: Wish) -> tuple[Resized, str]:
    if found.object:
        from sifkit.image.resize import resize_embedded

        return resize_embedded(found.path, found.object, wish)
    from overlay.resize import resize_file

    return resize_file(found.path, wish), ""


# -- chown -----------------------------------------------------------------------------------------------


@click.command(epilog="Example: sifkit overlay chown --to fakeroot changes.img")
@click.option("--to", "owner", default="me", metavar="OWNER", show_default=True,
              help="UID:GID in numbers, me, or fakeroot (root, for --fakeroot runs).")  # fmt: skip
@click.argument("target")
def chown(target: str, owner: str) -> None:
    """Give all changes in the overlay TARGET to one owner, without mounting it."""
    from overlay import chown as library
    from overlay import lock
    from sifkit.cli.progress import task

    try:
        uid, gid = library.parse_owner(owner)
    except ValueError as error:
        raise click.UsageError(f"--to: {error}") from None
    brief = f"cannot change the owner of {target}"
    with wording(brief), task(f"Changing the owner of {target}"):
        found = find(target)
        require_writable(found, brief)
        with lock.acquire(found.path if found.directory else found.section, exclusive=True):
            if found.directory:
                changed = library.chown_directory(found.path, uid, gid)
            else:
                changed = library.chown_image(found.section, uid, gid)
    click.echo(f"{target}: {changed} changed, all of it belongs to {uid}:{gid}")
