"""``sifkit overlay info``: what an overlay is, how full, whose, in what state, in use by whom, and what it holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from overlay.size import format_size
from sifkit.cli.console import CONSOLE
from sifkit.cli.overlay_cmd import failures

if TYPE_CHECKING:
    from overlay.manage.count import Counts
    from overlay.manage.info import Info
    from sifkit.image.target import Target


class _Found(NamedTuple):
    """``record``: of the last run that wrote into it, ``counts``: None when its contents cannot be read."""

    target: Target
    info: Info
    counts: Counts | None
    record: dict[str, Any]


@click.command(epilog="Example: sifkit overlay info changes.img")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with sizes in bytes.")
@click.argument("target")
def info(target: str, as_json: bool) -> None:
    """Show what the overlay TARGET is: kind, size, how full, whose, in what state, in use by whom, what it holds."""
    with failures(f"cannot look into {target}"), CONSOLE.task(f"Looking into {target}"):
        found = _look(target)
    if as_json:
        import json

        click.echo(json.dumps(_json(found), indent=2))
    else:
        for name, value in _lines(found):
            click.echo(f"{name:<12}{_printable(value)}")


def _look(text: str) -> _Found:
    from overlay import record as records
    from overlay.manage import count
    from overlay.manage.info import inspect
    from sifkit.image import target as targets

    target = targets.look(text)
    told = inspect(target.path, target.section.offset, None if target.is_directory else target.section.size)
    told = told._replace(notes=[*told.notes, *_more_notes(target, told)])
    counts, record = None, {}
    if not told.problem:
        try:
            with targets.layer(target) as tree:
                counts = count.count(tree)
                if target.kind == "squashfs":
                    told = told._replace(upper_owner=(tree.top.uid, tree.top.gid))
            if target.is_directory or target.is_ext:
                with targets.whole(target) as tree:
                    record = records.read(tree)
        except ValueError as error:  # ExtError, SquashError
            told = told._replace(problem=f"damaged: {error}")
    return _Found(target, told, counts, record)


def _more_notes(target: Target, told: Info) -> Iterator[str]:
    """What will hurt, that the file system itself does not know."""
    if target.partition and target.partition in target.partitions and not target.group:
        yield f"it is in no group, so no container shows it; sifkit sif set {target.partition} {target.path} --group 1"
    if target.partition and target.partition not in target.partitions:
        yield "it is no overlay partition"
    others = [str(number) for number in target.partitions if number != target.partition]
    if others:
        yield f"there are other overlay partitions in this file: {', '.join(f'#{number}' for number in others)}"
    owner, me = told.upper_owner, os.geteuid()
    if target.is_directory and owner is not None and me not in (0, owner[0]):
        yield f"its upper/ belongs to uid {owner[0]}, you are uid {me}: you cannot write into it"


def _printable(text: str) -> str:
    """Control characters of names and labels stay text on a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _lines(all_: _Found) -> Iterator[tuple[str, str]]:
    found, target = all_.info, all_.target
    kind = "directory" if found.kind == "directory" else f"{found.kind} image"
    yield "path", found.path
    yield "kind", f"{kind}, {found.compression}" if found.compression else kind
    if target.partition:
        group = f"group {target.group}" if target.group else "no group"
        yield "partition", f"{target.partition} of this SIF image, {group}, at byte {found.offset}"
    if found.problem:
        yield "problem", found.problem
    if found.kind == "directory" and not found.problem:
        host = os.statvfs(found.path)
        yield "free", f"{format_size(host.f_bavail * host.f_frsize)} on the file system it lies on"
    if target.partition:
        yield "size", format_size(found.size)
    elif found.kind != "directory":
        yield "size", f"{format_size(found.size)} ({format_size(found.allocated)} on disk)"
    ext = found.ext
    if ext is not None:
        used = ext.blocks - ext.free_blocks
        free = format_size(ext.free_blocks * ext.block_size)
        each = format_size(ext.block_size)
        yield "blocks", f"{ext.blocks} of {each}: {used} used, {ext.free_blocks} free ({free})"
        yield "inodes", f"{ext.inodes}: {ext.inodes - ext.free_inodes} used, {ext.free_inodes} free"
        yield "features", " ".join(ext.features)
        if ext.label:
            yield "label", ext.label.decode("utf-8", "backslashreplace")
    if found.upper_owner is not None:
        yield "owner", "{}:{}{}".format(*found.upper_owner, "" if found.kind == "squashfs" else " (of upper/)")
    if found.state:
        yield "state", found.state
    if found.kind not in ("squashfs", "SIF", "unknown"):
        how = {"write": "for writing", "read": "for reading", "": "no"}[found.in_use]
        yield "in use", how
    for holder in found.holders:
        yield "", holder.describe() + (" (ended)" if holder.alive is False else "")
    yield from _held(all_)
    for note in found.notes:
        yield "note", note


def _held(found: _Found) -> Iterator[tuple[str, str]]:
    """What is in the layer, and its base."""
    counts = found.counts
    if counts is not None:
        text = f"{counts.files} files, {counts.directories} directories, {counts.others} others"
        yield "holds", text + (f"; {counts.unreadable} unreadable directories" if counts.unreadable else "")
        text = f"{counts.whiteouts} names, {counts.opaque} opaque directories"
        spelled = ", ".join(f"{mark} ({number})" for mark, number in sorted(counts.spellings.items()))
        yield "deletes", f"{text}; spelled as {spelled}" if spelled else text
    if isinstance(found.record.get("base"), str):
        yield "last on", found.record["base"]


def _json(all_: _Found) -> dict[str, Any]:
    found, target = all_.info, all_.target
    ext = found.ext
    fields: dict[str, Any] = {**found._asdict(), "ext": None}
    fields["holders"] = [{**holder._asdict(), "alive": holder.alive} for holder in found.holders]
    if ext is not None:
        fields["ext"] = {
            **ext._asdict(),
            "uuid": ext.uuid.hex(),
            "label": ext.label.decode("utf-8", "backslashreplace"),
            "features": ext.features,
            "clean": ext.clean,
            "needs_recovery": ext.needs_recovery,
        }
    fields |= {
        "partition": target.partition or None,
        "group": target.group or None,
        "counts": all_.counts._asdict() if all_.counts else None,
        "record": all_.record or None,
    }
    return fields
