"""``sifkit session``: changes of runs that are not in their ext3 overlay yet: seen, put into it, given up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from overlay.failure import Failure
from sifkit.cli import options
from sifkit.cli.names import escape

if TYPE_CHECKING:
    from overlay.section import Section
    from overlay.session.state import Session

_IMAGE = click.option("--image", metavar="FILE", default="", help="Where the overlay is now, if it has been moved.")


def _names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Of your sessions, for shells to complete."""
    from overlay.session import index as session_index

    return [one.record.name for one in session_index.sessions() if one.record.name.startswith(incomplete)]


@click.group(epilog="Example: sifkit session list")
def session() -> None:
    """See and settle the changes of runs that are not in their ext3 overlay yet."""


@session.command("list", epilog="Example: sifkit session list --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with sizes in bytes.")
def list_(as_json: bool) -> None:
    """List your sessions: running ones, and what killed runs have left."""
    from overlay.session import index as session_index

    facts = [_seen(one, partial(_facts, one)) for one in session_index.sessions()]
    if as_json:
        import json

        click.echo(json.dumps(facts, indent=2))
        return
    if facts:
        click.echo(f"{'STATE':<12} {'FILES':>8} {'SIZE':>8} {'NAME':<24} OVERLAY")
    for fact in facts:
        size = _short(fact["bytes"])
        image = escape(os.fsencode(fact["image"]))
        click.echo(f"{fact['state']:<12} {fact['files']:>8} {size:>8} {fact['name']:<24} {image}")


@session.command(epilog="Example: sifkit session show node7-4711-3fa9c1")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with sizes in bytes.")
@click.argument("name", shell_complete=_names)
def show(name: str, as_json: bool) -> None:
    """Show the session NAME: whose it is, where it lies, and what it changes."""
    one = _find(name)
    facts = _seen(one, partial(_facts, one))
    changes = _seen(one, lambda: list(_changes(one)))
    if as_json:
        import json

        click.echo(json.dumps({**facts, "changes": changes}, indent=2))
        return
    for key in ("name", "state", "image", "base", "path", "run", "files", "bytes"):
        click.echo(f"{key:<8} {escape(os.fsencode(str(facts[key])))}")
    for change in changes:
        click.echo(f"{change['change']} {escape(os.fsencode(change['path']))}")


@session.command(epilog="Example: sifkit session commit node7-4711-3fa9c1")
@_IMAGE
@click.option("--force", is_flag=True,
              help="Let it win where the overlay has been changed since; break a signature of the image.")  # fmt: skip
@click.option("--no-grow", is_flag=True, help="Do not let the overlay grow when the changes do not fit.")
@click.option("--max-size", metavar="SIZE", default="",
              help="Let it grow to SIZE at the most (default: by half of what is free).")  # fmt: skip
@click.argument("name", shell_complete=_names)
def commit(name: str, image: str, force: bool, no_grow: bool, max_size: str) -> None:
    """Put the changes of the session NAME, whose run has ended, into its overlay."""
    from sifkit.cli.console import CONSOLE
    from sifkit.image import resize, session_image
    from sifkit.runtime import replay, session_work
    from sifkit.runtime.request import Staging

    most = options.size(max_size, "--max-size") if max_size else 0
    one = _ended(name, "commit")
    with _locked(one, image, "commit") as section:
        replay.roll_back(section, CONSOLE)
        one = _find(name)
        space = session_work.room(Staging(grow=not no_grow, most=most), resize.enlarge)
        brief = f"the changes of session {name} are not in {section.describe()} yet"
        if not force and session_image.is_signed(section):
            cause = "it is signed, and they would break the signature"
            raise Failure(brief, cause, f"to put them in all the same: sifkit session commit --force {name}")
        session_work.in_namespace(one, section, space, CONSOLE, brief, force=force)


@session.command(epilog="Example: sifkit session drop node7-4711-3fa9c1")
@_IMAGE
@click.argument("name", shell_complete=_names)
def drop(name: str, image: str) -> None:
    """Give the changes of the session NAME up, for good. Its overlay is as it was before that run."""
    from overlay.session import marker as session_marker
    from overlay.session import pending as session_pending
    from sifkit.cli.console import CONSOLE
    from sifkit.runtime import replay, session_work

    if image and _reachable(name) is None:  # what is out of reach can still be forgotten here
        session_marker.take_off(image, name)
        return
    one = _ended(name, "drop")
    if one.record.undo or image or os.path.exists(one.record.image):
        try:
            with _locked(one, image, "drop") as section:
                replay.roll_back(section, CONSOLE)
                session_pending.clear_away(section.path, _find(name), session_work.remove)
                return
        except Failure:
            if one.record.undo:  # its overlay is half written: that comes first
                raise
    session_pending.clear_away(one.record.image, one, session_work.remove)


@session.command(epilog="Example: sifkit session recover")
@_IMAGE
@click.argument("name", required=False, default="", shell_complete=_names)
def recover(name: str, image: str) -> None:
    """Take back commits that were cut off, and clear away sessions of which nothing is missing.

    All of yours, or the session NAME. Changes that are not in their overlay stay where they are.
    """
    from overlay.session import index as session_index
    from overlay.session import pending as session_pending
    from sifkit.cli.console import CONSOLE
    from sifkit.runtime import replay, session_work

    for one in [_find(name)] if name else session_index.sessions():
        if one.record.holder.alive:
            continue
        try:
            with _locked(one, image, "recover") as section:
                replay.roll_back(section, CONSOLE)
                for found in session_pending.find(section):
                    if found.name == one.record.name and found.state == "done":
                        session_pending.forget(section, found, session_work.remove)
        except Failure as failure:
            if name:
                raise
            CONSOLE.warning(str(failure))
    for one in session_index.sessions():
        if not one.record.holder.alive:
            click.echo(f"{one.record.name}: not in {escape(os.fsencode(one.record.image))} yet")


def _seen(one: Session, look: Callable[[], Any]) -> Any:
    """What ``look`` returns, plain data, where all that is in the session can be read: of a --fakeroot run inside."""
    if not one.record.ids or os.geteuid() == 0:
        return look()
    import json

    from sifkit.runtime import idmap, inside

    try:
        return json.loads(inside.call(idmap.decode(one.record.ids), lambda: json.dumps(look()), "cannot look"))
    except (Failure, inside.Killed):  # the ranges are gone, for instance: what can be seen without them, then
        return look()


def _facts(one: Session) -> dict[str, Any]:
    from overlay.session import index as session_index

    record = one.record
    size = session_index.measure(one)
    return {
        "name": record.name,
        "state": session_index.state(one),
        "image": record.image,
        "offset": record.offset,
        "base": record.base,
        "path": one.path,
        "run": record.whose,
        "host": record.host,
        "pid": record.pid,
        "job": record.job,
        "command": record.command,
        "since": record.since,
        "alive": record.holder.alive,
        "files": size.names,
        "deleted": size.deleted,
        "bytes": size.bytes,
    }


def _short(size: int) -> str:
    for unit in ("", "K", "M", "G"):
        if size < 10240:
            return f"{size}{unit}"
        size >>= 10
    return f"{size}T"


def _changes(one: Session) -> Iterator[dict[str, Any]]:
    from overlay.manage import delta
    from overlay.tree.layer import Unreadable
    from overlay.tree.view import DirectoryTree
    from overlay.whiteout import KERNEL_MARK

    unreadable: list[Unreadable] = []
    with DirectoryTree(one.upper) as layer:
        layer.opaque_marks = (KERNEL_MARK,)  # who writes sessions
        for change in delta.changes(layer, None, unreadable):
            yield {"change": change.letter, "path": "/" + os.fsdecode(change.path)}


def _reachable(name: str) -> Session | None:
    from overlay.session import index as session_index

    return next((one for one in session_index.sessions() if one.record.name == name), None)


def _find(name: str) -> Session:
    found = _reachable(name)
    if found is None:
        hint = "sifkit session list shows yours; SIFKIT_SESSION_DIR names one more place to look in"
        raise Failure(f"no session {name}", "none of this name is known here", hint)
    return found


def _ended(name: str, what: str) -> Session:
    one = _find(name)
    if one.record.holder.alive:
        cause = f"its run goes on: {one.record.holder.describe()}"
        raise Failure(f"cannot {what} session {name}", cause, "end it first")
    return one


@contextlib.contextmanager
def _locked(one: Session, image: str, what: str) -> Iterator[Section]:
    """The section of the session's overlay, locked for writing."""
    from overlay.failure import from_oserror
    from overlay.locks import lock
    from sifkit.image import session_image

    section = session_image.section_of(one.record, image)
    brief = f"cannot {what} session {one.record.name}"
    try:
        held = lock.acquire(section, exclusive=True)
    except lock.InUse as error:
        raise Failure(brief, str(error), "run it again when that has ended") from None
    except OSError as error:
        raise from_oserror(brief, error) from None
    with held:
        yield section
