"""``sifkit overlay check``, ``resize``, ``chown``, ``ps``: overlays kept sound, large enough and one's own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from overlay.failure import Failure, from_oserror
from overlay.size import MIB, format_size, parse_size
from sifkit.cli.console import CONSOLE
from sifkit.cli.overlay_cmd import failures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlay.manage.inspect_upper import Oddity
    from overlay.manage.resize import Resized, Wish
    from overlay.section import Section
    from sifkit.image.target import Target
    from sifkit.runtime.idmap import IdMap


def require_writable(target: Target, brief: str) -> None:
    """`Failure`, in one sentence, for what cannot be changed: squashfs, and what a signature covers."""
    if not target.is_directory and not target.is_ext:
        raise Failure(brief, f"it is {target.kind}, which is read-only by nature")
    if target.partition and _signed(target):
        raise Failure(brief, "it is signed, and a change would break the signature")


def _signed(target: Target) -> bool:
    from sifkit.sif import open as open_sif
    from sifkit.sif.integrity import signed_groups

    with open_sif(target.path) as opened:
        groups = signed_groups(opened.objects)
        return any(d.id == target.partition and d.group in groups for d in opened.objects)


def place(target: Target) -> Section | str:
    """What `overlay.locks.lock` locks."""
    return target.path if target.is_directory else target.section


@contextmanager
def wording(brief: str) -> Iterator[None]:
    """What the library raises as a `Failure` that begins with ``brief``; also that somebody holds the lock."""
    from overlay.locks.lock import InUse

    try:
        with failures(brief):
            yield
    except InUse as error:
        raise Failure(brief, str(error), "run it again when that has ended; sifkit overlay ps shows it") from None


@contextmanager
def for_writing(target: Target, brief: str) -> Iterator[None]:
    """The overlay is locked within the block, and sound at its beginning; a full one gets the hint what to do."""
    import errno

    from overlay.locks import lock
    from overlay.manage import edit

    with lock.acquire(place(target), exclusive=True):
        for text in [] if target.is_directory else edit.ready(target.section, brief):
            CONSOLE.warning(text)
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC or target.is_directory:
                raise
            hint = f"sifkit overlay resize --size +1G {target.text}, if it is the image that is full"
            raise from_oserror(brief, error, hint) from None


# -- check -----------------------------------------------------------------------------------------------


@click.command(epilog="Example: sifkit overlay check --fix changes.img")
@click.option("--fix", is_flag=True, help="Mend what can be mended without losing anything.")
@click.argument("target")
@click.pass_context
def check(ctx: click.Context, target: str, fix: bool) -> None:
    """Check the overlay TARGET: its file system, and what of its content will make trouble.

    Exit status 1 when something was found and is still there.
    """
    from overlay.locks import lock
    from sifkit.image.target import resolve

    brief = f"cannot {'mend' if fix else 'check'} {target}"
    with wording(brief):
        found = resolve(target)
        if fix:
            require_writable(found, brief)
        if not found.is_directory and not found.is_ext:
            click.echo(f"{target}: its superblock is sound; nothing of a squashfs can wear out")
            return
        with CONSOLE.task(f"Checking {target}"), lock.acquire(place(found), exclusive=fix):
            sound = found.is_directory or _file_system(found, fix)
            left = _content(found, fix) if sound else []
    if not sound or left:
        ctx.exit(1)


def _file_system(found: Target, fix: bool) -> bool:
    """Say what e2fsck says; whether the image is sound."""
    from overlay.manage import check as library
    from overlay.manage.check import Outcome
    from overlay.session import pending as session_pending

    for text in session_pending.take_back(found.section) if fix else ():
        click.echo(text)
    verdict = library.check(found.section, mend=fix, force=fix)
    # e2fsck -n finds nothing wrong with counters that are merely behind.
    unclean = verdict.usable and not fix and library.needs_check(found.section)
    sound = verdict.usable and not unclean
    click.echo(f"{found.text}: {verdict.summary}{', but its last writer was killed' if unclean else ''}")
    if verdict.outcome is not Outcome.CLEAN:
        for line in verdict.details:
            click.echo(f"  {line}")
    if not sound:
        click.echo(f"  try: {verdict.command if fix else f'sifkit overlay check --fix {found.text}'}")
    return sound


def _content(found: Target, fix: bool) -> list[Oddity]:
    """List what is odd about the content, mend it with ``fix``; what is left of it."""
    from overlay.manage import inspect_upper
    from sifkit.cli.names import escape

    def look() -> list[Oddity]:
        if found.is_directory:
            return inspect_upper.of_directory(found.path)
        return inspect_upper.of_image(found.section)

    odd = look()
    if odd and fix:
        if found.is_directory:
            inspect_upper.mend_directory(found.path, odd)
        else:
            inspect_upper.mend_image(found.section, odd)
            _file_system(found, fix)
    left = look() if fix else odd
    for oddity in odd:
        done = "mended: " if oddity not in left else ""
        click.echo(f"{done}{oddity.kind}: {escape(oddity.path)} {oddity.text}")
    for oddity in left:
        if oddity not in odd:
            click.echo(f"{oddity.kind}: {escape(oddity.path)} {oddity.text}")
    if not odd:
        click.echo(f"{found.text}: nothing odd in its content")
    return left


# -- resize ----------------------------------------------------------------------------------------------


@click.command(epilog="Example: sifkit overlay resize --size +10G changes.img")
@click.option("-s", "--size", metavar="SIZE", help="New size: 20G, 500M, or a number of MiB; +5G adds to it.")
@click.option("-m", "--minimum", is_flag=True, help="As small as what is in it allows.")
@click.option("--inodes", type=click.IntRange(min=1), metavar="N",
              help="Room for at least N files: by the size if that gives them, else by a new file system.")  # fmt: skip
@click.argument("target")
def resize(target: str, size: str | None, minimum: bool, inodes: int | None) -> None:
    """Make the ext3 overlay TARGET larger or smaller, also inside a SIF image.

    Interrupted at any moment, the old or the new overlay is there.
    """
    from sifkit.image.target import resolve

    wish = _wish(size, minimum, inodes)
    brief = f"cannot resize {target}"
    with wording(brief), CONSOLE.task(f"Resizing {target}"):
        found = resolve(target)
        if found.is_directory:
            raise Failure(brief, "a directory overlay has no size of its own: it may fill its file system")
        require_writable(found, brief)
        done, gap = _resize(found, wish)
    before, after = done.before, done.after
    click.echo(
        f"{target}: {format_size(before.size)} -> {format_size(after.size)}, "
        f"{after.inodes} inodes, {after.free_inodes} of them free"
    )
    if gap:
        CONSOLE.warning(f"the image keeps a gap: {gap}")


def _wish(size: str | None, minimum: bool, inodes: int | None) -> Wish:
    from overlay.manage.resize import Wish

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
    if found.partition:
        from sifkit.image.resize import resize_embedded

        return resize_embedded(found.path, found.partition, wish)
    from overlay.manage.resize import resize_file

    return resize_file(found.path, wish), ""


# -- chown -----------------------------------------------------------------------------------------------


@click.command(epilog="Example: sifkit overlay chown --to fakeroot changes.img")
@click.option("--to", "owner", default="me", metavar="OWNER", show_default=True,
              help="UID:GID in numbers, me, or fakeroot (root, for --fakeroot runs).")  # fmt: skip
@click.argument("target")
def chown(target: str, owner: str) -> None:
    """Give all changes in the overlay TARGET to one owner, without mounting it."""
    from overlay.manage import chown as library
    from sifkit.image.target import resolve

    try:
        uid, gid = library.parse_owner(owner)
    except ValueError as error:
        raise click.UsageError(f"--to: {error}") from None
    uid, gid = _inside(owner, uid, gid)
    brief = f"cannot change the owner of {target}"
    with wording(brief), CONSOLE.task(f"Changing the owner of {target}"):
        found = resolve(target)
        require_writable(found, brief)
        with for_writing(found, brief):
            if found.is_directory:
                changed = library.chown_directory(found.path, uid, gid)
            else:
                changed = library.chown_image(found.section, uid, gid)
    click.echo(f"{target}: {changed} changed, all of it belongs to {'you' if owner == 'me' else f'{uid}:{gid}'}")


def _inside(owner: str, uid: int, gid: int) -> tuple[int, int]:
    """What the ids of the host that ``owner`` names are in the namespace that this command is in, if it is in one."""
    from sifkit.cli import subids

    ids: IdMap | None = click.get_current_context().meta.get(subids.ENTERED)
    if ids is None or not owner[0].isdigit():
        return uid, gid
    found = ids.from_outside(uid, gid)
    if found is None:
        raise Failure(f"cannot give files to {uid}:{gid}", "they are neither you nor your subordinate ids")
    return found
