"""``sifkit cache``: what runs have left for later ones, how much it takes, and removing it."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

import click

from overlay.failure import from_oserror
from sifkit.cli import options
from sifkit.cli.names import escape


class Entry(NamedTuple):
    """One thing in the cache. ``what``: the base or image it is of, as far as it is known; else where it lies."""

    kind: str
    what: str
    path: str
    space: int
    used: float
    in_use: bool


_METADATA = click.option("--metadata", is_flag=True, help="Only layers over bases that belong to somebody else.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
@options.verbosity
def cache() -> None:
    """Show and remove what runs keep in the cache: layers over bases of others, and unpacked images."""


@cache.command("list", epilog="Example: sifkit cache list --json")
@_METADATA
@_JSON
@options.verbosity
def list_(metadata: bool, as_json: bool) -> None:
    """List what is in the cache, what was used last first."""
    found = _entries(metadata)
    if as_json:
        _print_json(found)
        return
    from overlay.size import format_size

    if found:
        click.echo("KIND       SIZE     USED              STATE   OF")
    for entry in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        state, what = "in use" if entry.in_use else "-", escape(os.fsencode(entry.what))
        click.echo(f"{entry.kind:<10} {format_size(entry.space):<8} {used}  {state:<7} {what}")


@cache.command(epilog="Example: sifkit cache clean --metadata")
@_METADATA
@_JSON
@options.verbosity
def clean(metadata: bool, as_json: bool) -> None:
    """Remove from the cache what no run uses now. It is made again when it is wanted."""
    from overlay.metalayer import cache as metalayer_cache
    from overlay.size import format_size

    before = _entries(metadata)
    try:
        metalayer_cache.clean()
        if not metadata:
            _remove_unpacked()
    except OSError as error:
        raise from_oserror("cannot clean the cache", error) from None
    gone = [entry for entry in before if not os.path.exists(entry.path)]
    stay = [entry for entry in before if os.path.exists(entry.path)]
    if as_json:
        _print_json(gone)
        return
    total = format_size(sum(entry.space for entry in gone))
    kept = f"; {len(stay)} in use stay" if stay else ""
    click.echo(f"{len(gone)} removed, {total}{kept}")


def _remove_unpacked() -> None:
    from sifkit.image import unpacked

    for one in unpacked.kept():
        if not one.in_use:
            unpacked.remove(one)


def _entries(metadata: bool) -> list[Entry]:
    found = _layers()
    if not metadata:
        from sifkit.image import unpacked

        found += [Entry("unpacked", one.path, one.path, one.space, one.made, one.in_use) for one in unpacked.kept()]
    return sorted(found, key=lambda entry: -entry.used)


def _layers() -> list[Entry]:
    from overlay.metalayer import cache as metalayer_cache

    return [
        Entry(
            one.record.kind, os.fsdecode(one.record.base), one.path, one.record.space, one.used,
            metalayer_cache.in_use(one.name),
        )
        for one in metalayer_cache.stored()
    ]  # fmt: skip


def _print_json(found: list[Entry]) -> None:
    import json

    rows: list[dict[str, Any]] = [
        {"kind": e.kind, "of": e.what, "path": e.path, "bytes": e.space, "used": int(e.used), "in_use": e.in_use}
        for e in found
    ]
    click.echo(json.dumps(rows, indent=2))
