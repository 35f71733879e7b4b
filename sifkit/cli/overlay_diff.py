"""``sifkit overlay diff``: what an overlay changes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from sifkit.cli import subids
from sifkit.cli.console import CONSOLE
from sifkit.cli.names import escape, write
from sifkit.cli.overlay_see import NULL, complain, opened, reading

if TYPE_CHECKING:
    from overlay.manage.delta import Change, Totals
    from overlay.tree.layer import Unreadable

_LARGEST = 20


@click.command(epilog="Example: sifkit overlay diff --base image.sif changes.img")
@click.option("--base", metavar="IMAGE",
              help="The image the overlay lies on: tells new from changed, and what is gone.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with sizes in bytes and Unix times.")
@NULL
@click.option("--stat", is_flag=True, help="Print totals, and the largest directories by bytes and by inodes.")
@click.argument("target")
def diff(target: str, base: str | None, as_json: bool, null: bool, stat: bool) -> int:
    """Show what the overlay TARGET changes: one line an entry, a letter, its kind, size and path.

    \b
    A  in the overlay; with --base: new
    M  with --base: changed (another content, target or kind)
    m  with --base: only mode, owner, time or attributes changed
    D  deleted
    O  a directory that hides the image's; with --base: D lines for what it hides

    Without --base nobody can tell new from changed: all that is in the overlay is A.
    """
    from overlay.manage import delta
    from sifkit.image import target as targets

    if null and (as_json or stat):
        raise click.UsageError("--null: not together with --json or --stat")
    owners = as_json or stat or base is not None  # --stat: not that it shows any, but a thread shows its progress
    if owners:
        subids.enter_for(word for word in (target, base) if word)
    unreadable: list[Unreadable] = []
    with contextlib.ExitStack() as stack:
        _, layer = stack.enter_context(opened(target, owners=owners))
        under = None
        if base is not None:
            under = stack.enter_context(targets.base(base))
            stack.enter_context(reading(f"{target} against {base}"))
        found = delta.changes(layer, under, unreadable)
        if stat:
            totals = delta.Totals()
            with CONSOLE.task(f"Looking into {target}"):
                for change in found:
                    totals.add(change)
            write(_stat_json(totals) if as_json else _stat(totals, under is not None))
        else:
            write(_objects(found) if as_json else _lines(found, null))
    return complain(unreadable)


def _lines(found: Iterator[Change], null: bool) -> Iterator[bytes]:
    end = b"\0" if null else b"\n"
    for letter, path, entry, _ in found:
        name = path if null else escape(path).encode()
        if entry is None:
            yield b"D -                          - /%b%b" % (name, end)
        elif entry.is_file:
            yield b"%b file %21d /%b%b" % (letter.encode(), entry.size, name, end)
        else:
            yield b"%b %-12b             - /%b%b" % (letter.encode(), entry.kind.encode(), name, end)


def _objects(found: Iterator[Change]) -> Iterator[bytes]:
    """A JSON list, an entry a line, written as it is found."""
    import json

    lead = b"[\n"
    for change in found:
        yield lead + json.dumps(_object(change)).encode()
        lead = b",\n"
    yield b"\n]\n" if lead == b",\n" else b"[]\n"


def _object(change: Change) -> dict[str, Any]:
    entry = change.entry
    told: dict[str, Any] = {"change": change.letter, "path": "/" + os.fsdecode(change.path)}
    if entry is not None:
        told |= {
            "kind": entry.kind, "size": entry.size if entry.is_file else None, "mode": f"{entry.mode & 0o7777:04o}",
            "uid": entry.uid, "gid": entry.gid, "mtime": entry.mtime_ns / 10**9,
        }  # fmt: skip
    if change.differs:
        told["differs"] = change.differs
    return told


def _stat(totals: Totals, based: bool) -> Iterator[bytes]:
    from overlay.size import format_size

    words = {"A": "added" if based else "in the overlay", "M": "changed", "m": "changed in metadata only",
             "D": "deleted", "O": "directories that hide the image's"}  # fmt: skip
    for letter, word in words.items():
        if totals.letters[letter] or letter in "AD":
            yield f"{letter} {totals.letters[letter]:>10} {word}\n".encode()
    yield f"  {totals.bytes:>10} bytes of files ({format_size(totals.bytes)}), {totals.inodes} inodes\n".encode()
    for by_inodes, title in ((False, "bytes"), (True, "inodes")):
        largest = totals.largest(_LARGEST, by_inodes)
        if largest:
            yield f"\nlargest directories by {title}, with all below them:\n".encode()
        for path, amount in largest:
            text = str(amount) if by_inodes else format_size(amount)
            yield f"  {text:>10} /{escape(path)}\n".encode()


def _stat_json(totals: Totals) -> Iterator[bytes]:
    import json

    def pairs(by_inodes: bool) -> list[dict[str, Any]]:
        unit = "inodes" if by_inodes else "bytes"
        return [{"path": "/" + os.fsdecode(p), unit: n} for p, n in totals.largest(_LARGEST, by_inodes)]

    told = {"changes": totals.letters, "bytes": totals.bytes, "inodes": totals.inodes,
            "largest_by_bytes": pairs(False), "largest_by_inodes": pairs(True)}  # fmt: skip
    yield json.dumps(told, indent=2).encode() + b"\n"
