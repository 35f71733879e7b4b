"""``sifkit overlay ps``: which overlays are in use on this host, and by whom."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from sifkit.cli.names import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlay.locks.in_use import Use


@click.command(epilog="Example: sifkit overlay ps --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ps(as_json: bool) -> None:
    """List the overlays in use on this host, and the processes that use them."""
    from overlay.locks.in_use import overlays

    found = [(use, name) for use in overlays() if (name := _name(use))]
    if as_json:
        import json

        click.echo(json.dumps([_json(use, name) for use, name in found], indent=2))
        return
    if found:
        click.echo("USE    PID      SINCE                OVERLAY, COMMAND")
    for use, name in found:
        for line in _lines(use, name):
            click.echo(line)


def _name(use: Use) -> str:
    """The overlay as TARGET names it; "" for a partition of a SIF image that is no overlay."""
    section = use.section
    if not section.offset:
        return section.path
    from sifkit import sif

    try:
        with sif.open(section.path) as opened:
            at = next((d for d in opened.objects if d.offset == section.offset), None)
    except (OSError, sif.SifError):
        return f"{section.path}?offset={section.offset}"  # deleted, or not to be read: it is locked all the same
    if at is None or at.partition is None or at.partition.part != sif.PartType.OVERLAY:
        return ""
    return f"{section.path}#{at.id}"


def _lines(use: Use, name: str) -> Iterator[str]:
    for holder in use.holders:
        how = "write" if holder.exclusive else "read"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since)) if holder.since else "-"
        job = f" (job {holder.job})" if holder.job else ""
        command = escape(os.fsencode(holder.command))
        yield f"{how:<6} {holder.pid:<8} {since:<20} {escape(os.fsencode(name))}{job}: {command}"


def _json(use: Use, name: str) -> dict[str, Any]:
    section = use.section
    return {
        "target": name,
        "path": section.path,
        "offset": section.offset,
        "kind": str(use.kind),
        "holders": [{**holder._asdict(), "alive": holder.alive} for holder in use.holders],
    }
