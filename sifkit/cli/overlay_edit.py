"""``sifkit overlay cp`` and ``rm``: files in and out of overlays, and changes forgotten."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

import click

from overlay.failure import Failure
from sifkit.cli.console import CONSOLE
from sifkit.cli.names import escape
from sifkit.cli.overlay_convert import converting
from sifkit.cli.overlay_mend import for_writing, require_writable, wording

if TYPE_CHECKING:
    from overlay.manage.forget import Finder
    from overlay.manage.forget import Found as Forgotten
    from overlay.tree.copy import H, Sink
    from overlay.tree.layer_write import LayerSink
    from overlay.tree.loss import Losses, Report
    from overlay.tree.view import Entry, Tree
    from sifkit.image.target import Target


class _Source(NamedTuple):
    """What is copied: ``entry`` of ``tree``, under the ``name`` it gets in a directory; "" for what is in it."""

    tree: Tree
    entry: Entry
    name: bytes
    is_overlay: bool


@click.command(epilog="Example: sifkit overlay cp changes.img:/etc/hosts .")
@click.option("-r", "-a", "--recursive", is_flag=True,
              help="As for cp; without it too, a directory is copied with all that is in it.")  # fmt: skip
@click.option("--base", metavar="IMAGE",
              help="The image the overlay lies on (default: the one it was last used on): what directories on the way "
                   "to DST look like.")  # fmt: skip
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
def cp(source: str, destination: str, recursive: bool, base: str | None) -> int:
    """Copy SRC to DST, one of them (or both) in an overlay: TARGET:/path.

    Directories with all that is in them; owner, mode, times, attributes, holes and hard links are kept as far as
    you may. If DST is a directory, SRC gets its own name in it. What exists is replaced.
    """
    from sifkit.image import target as targets

    sides = [(text, None) if os.path.lexists(text) else targets.split(text) for text in (source, destination)]
    for text, inside in sides:
        if inside is None and ":/" in text and not os.path.lexists(os.path.dirname(text) or "."):
            targets.look(text.rpartition(":/")[0])  # it is not there, and this raises what there is to say about it
    if all(inside is None for _, inside in sides):
        raise click.UsageError("neither SRC nor DST is in an overlay: write TARGET:/path for the one that is")
    brief = f"cannot copy {source} to {destination}"
    with converting(brief) as losses, CONSOLE.task(f"Copying {source}"), contextlib.ExitStack() as stack:
        report = _without_owners(losses)
        found = _source(*sides[0], stack)
        text, inside = sides[1]
        if inside is None:
            return _to_host(found, destination, report, brief, stack)
        return _to_overlay(found, targets.resolve(text), inside, base, report, brief, stack)


def _source(text: str, inside: str | None, stack: contextlib.ExitStack) -> _Source:
    if inside is None:
        from overlay.tree.view import DirectoryTree

        path = os.fsencode(text)
        tree = stack.enter_context(DirectoryTree("/"))
        last = os.path.basename(path.rstrip(b"/"))
        name = b"" if last in (b".", b"..") else last
        return _Source(tree, tree.at(path.rstrip(b"/") if name else path or b"."), name, False)
    from sifkit.cli.overlay_see import find, opened

    _, layer = stack.enter_context(opened(text))
    entry, _ = find(layer, text, inside)
    return _Source(layer, entry, entry.name, True)


def _copy(source: _Source, sink: Sink[H], into: H, name: bytes, path: bytes) -> int:
    """Copy to ``name`` in ``into``, which is ``path``; without a name what is in the source. The exit status."""
    from overlay.tree.copy import Copier, Marks

    copier = Copier(source.tree, sink, Marks.LEAVE if source.is_overlay else Marks.REFUSE)
    if name:
        copier.copy(source.entry, into, name, path)
    else:
        copier.copy_inside(source.entry, into, path)
    if copier.left_out:
        CONSOLE.warning(
            f"{copier.left_out} deleted names and replaced directories are not copied, for they are no files"
        )
    return 1 if copier.missing else 0


def _without_owners(losses: Losses) -> Report:
    """Owners are kept by whoever may give files away; nobody else expects it."""
    from overlay.tree.write import OWNERS

    def report(path: bytes, what: str) -> None:
        if what == OWNERS:
            CONSOLE.debug(f"{escape(path)}: not kept: {what}")
        else:
            losses(path, what)

    return report


def _refuse_itself(source: _Source, destination: str, brief: str) -> None:
    """A directory copied into itself would have no end."""
    if source.is_overlay or not source.entry.is_directory:
        return
    assert isinstance(source.entry.where, bytes)
    top, into = os.path.realpath(source.entry.where), os.path.realpath(os.fsencode(destination))
    if os.path.commonpath([top, into]) == top:
        raise Failure(brief, "the destination lies inside the directory that is to be copied")


# -- to a directory of the host --------------------------------------------------------------------------


def _to_host(source: _Source, destination: str, report: Report, brief: str, stack: contextlib.ExitStack) -> int:
    from overlay.tree.write import DirectorySink

    name = source.name
    parent = destination
    if not os.path.isdir(destination):
        if destination.endswith("/") and not source.entry.is_directory:
            raise Failure(brief, f"there is no directory {destination}")
        parent, base = os.path.split(destination.rstrip("/"))
        parent, name = parent or ".", os.fsencode(base)
    _refuse_itself(source, parent, brief)
    staging = os.path.join(parent, f".sifkit-{os.urandom(12).hex()}.new")
    sink = stack.enter_context(DirectorySink(parent, staging, report))
    return _copy(source, sink, sink.top, name, os.path.join(os.fsencode(parent), name))


# -- into an overlay -------------------------------------------------------------------------------------


def _to_overlay(
    source: _Source, target: Target, inside: str, base: str | None, report: Report, brief: str,
    stack: contextlib.ExitStack,
) -> int:  # fmt: skip
    from overlay.tree.copy import refuse_mark
    from overlay.tree.upper_write import UpperSink

    require_writable(target, brief)
    _refuse_itself(source, target.path, brief)
    stack.enter_context(for_writing(target, brief))
    directory, name = _names(source, target, os.fsencode(inside))
    path = directory.rstrip(b"/") + b"/" + name
    refuse_mark(source.entry._replace(name=name), path)
    under = _base(target, base, stack)
    if target.is_directory:
        return _write(source, stack.enter_context(UpperSink(target.path, report)), directory, name, under)
    from overlay.extwrite.sink import ExtSink
    from overlay.manage import edit

    writer = stack.enter_context(edit.editing(target.section, brief))
    return _write(source, ExtSink(writer, edit.upper(writer, brief), report), directory, name, under)


def _write(source: _Source, sink: LayerSink[H], directory: bytes, name: bytes, base: Tree | None) -> int:
    into = sink.place(directory, base)
    for guessed in sink.guessed:
        CONSOLE.warning(
            f"{escape(guessed)} was not in the overlay and was made with mode 0755: --base IMAGE says what it is there"
        )
    return _copy(source, sink, into, name, directory.rstrip(b"/") + b"/" + name)


def _names(source: _Source, target: Target, inside: bytes) -> tuple[bytes, bytes]:
    """The directory of the overlay to copy to, and the name there."""
    from sifkit.image.target import layer

    with layer(target) as tree:
        there = tree.lookup(inside)
    if inside.endswith(b"/") or (there is not None and there.is_directory):
        return inside, source.name
    directory, _, name = inside.rpartition(b"/")
    return directory, name


def _base(target: Target, given: str | None, stack: contextlib.ExitStack) -> Tree | None:
    """The image that the overlay lies on, if it is said or recorded, and in the latter case still there."""
    from overlay import record
    from sifkit.image import target as targets

    if given is not None:
        return stack.enter_context(targets.base(given))
    with targets.whole(target) as tree:
        known = record.read(tree).get("base")
    if isinstance(known, str) and os.path.exists(known):
        with contextlib.suppress(Failure):  # not an image any more: then nobody knows
            return stack.enter_context(targets.base(known))
    return None


# -- rm --------------------------------------------------------------------------------------------------


@click.command(epilog="Example: sifkit overlay rm changes.img etc/hosts")
@click.option("-r", "--recursive", is_flag=True, help="Directories too, with all changes in them.")
@click.argument("target")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
def rm(target: str, paths: tuple[str, ...], recursive: bool) -> None:
    """Forget what the overlay TARGET says of PATH, so that the image's file shows there again.

    This deletes no file of the image: a program in a container does that. What was changed or added at PATH is
    lost; a name that the overlay deletes comes back.
    """
    from overlay.manage import forget as library
    from sifkit.image import target as targets

    brief = f"cannot forget anything in {target}"
    with wording(brief), CONSOLE.task(f"Changing {target}"):
        found = targets.resolve(target)
        require_writable(found, brief)
        with for_writing(found, brief):
            with targets.layer(found) as layer:
                finder = library.Finder(layer)
                known = [(path, _known(finder, target, path, recursive)) for path in paths]
            _forget(found, [what for _, what in known], brief)
            for path, what in known:
                if what.hidden is not None:
                    CONSOLE.warning(
                        f"{escape(os.fsencode(path))}: the image's does not show again, "
                        f"for {escape(what.hidden)} in this overlay hides all that the image has there"
                    )


def _forget(target: Target, known: list[Forgotten], brief: str) -> None:
    from overlay.manage import edit
    from overlay.manage import forget as library

    if target.is_directory:
        for what in known:
            library.forget(target.path, what)
        return
    with edit.editing(target.section, brief) as writer:
        top = edit.upper(writer, brief)
        for what in known:
            library.forget_in_image(writer, top, what)


def _known(finder: Finder, target: str, path: str, recursive: bool) -> Forgotten:
    shown = escape(os.fsencode(path))
    brief = f"cannot forget {shown} in {target}"
    if not os.fsencode(path).strip(b"/."):
        raise Failure(brief, "that is all of the overlay", "delete the overlay, or name what is in it", 2)
    try:
        found = finder.find(os.fsencode(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        where = escape(os.fsencode(error.filename))
        cause = f"this overlay says nothing about {where}"
        if isinstance(error, NotADirectoryError):
            cause = f"{where} is no directory in it"
        raise Failure(brief, cause, "sifkit overlay diff shows what it says", 1) from None
    if found.kind == "directory" and not recursive:
        raise Failure(brief, "it is a directory", "-r forgets it with all changes in it", 1)
    return found
