"""``sifkit overlay ls`` and ``cat``: what is in an overlay, without mounting it."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from overlay.failure import Failure, from_oserror
from sifkit.cli import subids
from sifkit.cli.console import CONSOLE
from sifkit.cli.names import escape, write

if TYPE_CHECKING:
    from overlay.tree.layer import Content, Unreadable
    from overlay.tree.view import Entry, Tree
    from sifkit.image.target import Target

NULL = click.option("-0", "--null", is_flag=True, help="End each line with NUL and leave names as they are.")


@contextlib.contextmanager
def reading(text: str) -> Iterator[None]:
    """Turn what reading the overlay ``text`` raises into a `Failure`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise from_oserror(f"cannot read {text}", error) from error
    except ValueError as error:  # ExtError, SquashError
        raise Failure(f"cannot read {text}", f"it is damaged: {error}", "sifkit overlay info tells more") from error


@contextlib.contextmanager
def opened(text: str, *, owners: bool = True) -> Iterator[tuple[Target, Tree]]:
    """The overlay TARGET and its layer, with a warning when what is read may lag behind.

    Without ``owners`` nothing is to depend on those of files: see `OwnerlessTree`.
    """
    from sifkit.cli.subids_tree import OwnerlessTree
    from sifkit.image import target

    found = target.resolve(text)
    if found.is_ext:
        _warn(found)
    with target.layer(found, None if owners else OwnerlessTree) as tree, reading(text):
        yield found, tree


def _warn(found: Target) -> None:
    from overlay.locks import lock
    from overlay.manage import edit_log
    from overlay.session import pending as session_pending

    with contextlib.suppress(OSError):
        if lock.in_use(found.section) == "write":
            CONSOLE.warning(f"{found.text} is being written: what is shown may lag behind")
            return
    for text in session_pending.remarks(found.section):
        CONSOLE.warning(text)
    if edit_log.cut_off(found.section):
        CONSOLE.warning(f"{found.text}: an edit of it was cut off; sifkit overlay check --fix takes it back")
    elif found.found.ext is not None and found.found.ext.needs_recovery:
        CONSOLE.warning(f"{found.text} needs recovery: its journal holds newer writes, which are not shown")


def complain(unreadable: list[Unreadable]) -> int:
    """Warn of directories that could not be read; the exit status: 1 if there are any."""
    for path, error in unreadable:
        CONSOLE.warning(f"cannot list {escape(path)}: {os.strerror(error.errno or 0)}")
    return 1 if unreadable else 0


def find(tree: Tree, text: str, path: str) -> tuple[Entry, Content | None]:
    """What is at ``path`` of the overlay, and what that says if it is a directory; `Failure` when it is not there."""
    from overlay.tree.layer import content

    entry, here = tree.top, content(tree, tree.top)
    parts = [part for part in os.fsencode(path).split(b"/") if part not in (b"", b".")]
    for number, part in enumerate(parts):
        found = next((below for below in here.entries if below.name == part), None)
        if found is None:
            shown = escape(b"/" + b"/".join(parts[: number + 1]))
            if any(gone.name == part for gone in here.deleted):
                raise Failure(f"no {shown} in {text}", "this overlay deletes it", exit_code=1)
            hint = "files of the image that were not changed are not in the overlay"
            raise Failure(f"no {shown} in {text}", "this overlay says nothing about it", hint, exit_code=1)
        entry = found
        if not found.is_directory:
            if number + 1 < len(parts):
                raise Failure(f"no {escape(b'/' + b'/'.join(parts))} in {text}", f"{escape(part)} is no directory",
                              exit_code=1)  # fmt: skip
            return entry, None
        here = content(tree, entry, part in here.replaced)
    return entry, here


def _given(text: str, path: str | None) -> tuple[str, str]:
    """TARGET and PATH, which may have been written as TARGET:/path."""
    if path is not None:
        return text, path
    from sifkit.image.target import split

    left, inside = (text, None) if os.path.lexists(text) else split(text)
    return left, inside or "/"


@click.command("ls", epilog="Example: sifkit overlay ls -lR changes.img etc")
@click.option("-l", "--long", is_flag=True, help="Mode, links, owner, size and time too, and what is deleted.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below, with its path.")
@NULL
@click.argument("target")
@click.argument("path", required=False)
def ls(target: str, path: str | None, long: bool, recursive: bool, null: bool) -> int:
    """List what is in the overlay TARGET, or in its directory PATH.

    Only what the overlay itself holds: files of the image that were not changed are not in it.
    """
    from overlay.tree import layer as tree_layer

    text, inside = _given(target, path)
    if long:
        subids.enter_for([text])
    unreadable: list[Unreadable] = []
    with opened(text, owners=long) as (_, tree):
        entry, here = find(tree, text, inside)
        end = b"\0" if null else b"\n"

        def lines() -> Iterator[bytes]:
            if here is None:
                yield _line(tree, entry.name, entry, "present", long, null) + end
                return
            for step in tree_layer.below(tree, here, unreadable, recursive=recursive):
                if step.entry is not None or long:
                    yield _line(tree, step.path, step.entry, step.what, long, null) + end

        write(lines())
    return complain(unreadable)


def _line(tree: Tree, path: bytes, entry: Entry | None, what: str, long: bool, null: bool) -> bytes:
    name = path if null else escape(path).encode()
    if not long:
        return name
    if entry is None:
        return f"{'(deleted)':<11} {'-':>3} {'-':>6} {'-':>6} {'-':>12} {'-':<16} ".encode() + name
    mode = stat.filemode(entry.mode) + ("o" if what == "opaque" else " ")
    size = f"{os.major(entry.device)},{os.minor(entry.device)}" if entry.device else str(entry.size)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.mtime_ns // 10**9))
    start = f"{mode} {entry.links:>3} {entry.uid:>6} {entry.gid:>6} {size:>12} {when} ".encode()
    if entry.is_symlink:
        link = tree.readlink(entry)
        name += b" -> " + (link if null else escape(link).encode())
    return start + name


@click.command("cat", epilog="Example: sifkit overlay cat changes.img etc/hosts")
@click.argument("target")
@click.argument("path", required=False)
def cat(target: str, path: str | None) -> None:
    """Print the file PATH of the overlay TARGET."""
    text, inside = _given(target, path)
    with opened(text, owners=False) as (_, tree):
        entry, _ = find(tree, text, inside)
        brief = f"cannot print {escape(os.fsencode(inside))} of {text}"
        if entry.is_symlink:
            link = escape(tree.readlink(entry))
            raise Failure(brief, f"it is a symbolic link to {link}", "links are not followed: name the file", 1)
        if not entry.is_file:
            raise Failure(brief, f"it is a {entry.kind}, not a file", exit_code=1)
        with tree.open(entry) as stream:
            write(iter(lambda: stream.read(1 << 20), b""))
