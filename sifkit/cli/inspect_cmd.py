"""``sifkit inspect`` and ``run-help``: what an image says about itself. Apptainer's flags, text and JSON."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from sifkit.cli.options import verbosity, verbosity_but

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlay.tree.view import Tree
    from sifkit.image.metadata import Metadata

# Option -> its key in the JSON, in the order in which the text shows them.
_PARTS = ("deffile", "runscript", "startscript", "test", "helpfile", "environment", "labels")
_APP = click.option("--app", metavar="NAME", help="Of the SCIF app NAME instead of the image.")


@contextlib.contextmanager
def _opened(image: str) -> Iterator[Tree]:
    from sifkit.cli.overlay_see import reading
    from sifkit.image import target

    with target.base(image) as tree, reading(image):
        yield tree


@click.command("inspect", epilog="Example: sifkit inspect --runscript image.sif")
@click.option("-l", "--labels", is_flag=True, help="The labels (what is shown when nothing is asked for).")
@click.option("-d", "--deffile", is_flag=True, help="The definition file it was built from.")
@click.option("-r", "--runscript", is_flag=True, help="What `sifkit run` runs.")
@click.option("-s", "--startscript", is_flag=True, help="What an instance would start.")
@click.option("-t", "--test", is_flag=True, help="What `sifkit test` runs.")
@click.option("-e", "--environment", is_flag=True, help="The scripts that set its environment, in their order.")
@click.option("-H", "--helpfile", is_flag=True, help="The text of `sifkit run-help`.")
@click.option("--list-apps", is_flag=True, help="The names of its SCIF apps.")
@_APP
@click.option("-j", "--json", "as_json", is_flag=True, help="As JSON, in Apptainer's form.")
@click.option("--all", "everything", is_flag=True, help="All of it, of its apps too, as JSON.")
@verbosity_but("-d", "-s")
@click.argument("image")
def inspect(image: str, list_apps: bool, app: str | None, as_json: bool, everything: bool, **asked: bool) -> None:
    """Show what IMAGE says about itself: labels, scripts, environment, help and the definition it was built from.

    Nothing is run: the files are read from the directory, SIF or squashfs file, also for other processors.
    """
    from sifkit.image import metadata

    wanted = [part for part in _PARTS if asked[part] or everything]
    with _opened(image) as tree:
        names = metadata.apps(tree) if list_apps or everything else ()
        if not everything:
            of = metadata.of_app(tree, app) if app else metadata.of_image(tree)
            if as_json or not list_apps:
                wanted = wanted or ([] if list_apps else ["labels"])
            if not as_json:
                _show(of, wanted, names)
                return
            _show_json(_app_or_image(app, of, wanted, names))
            return
        found = _attributes(metadata.of_image(tree), wanted)
        if names:
            found["apps"] = {name: _attributes(metadata.of_app(tree, name), wanted) for name in names}
    _show_json(found)


def _app_or_image(app: str | None, of: Metadata, wanted: list[str], names: tuple[str, ...]) -> dict[str, Any]:
    apps: dict[str, Any] = {name: {} for name in names}
    if app:
        apps[app] = _attributes(of, wanted)
    return {**({} if app else _attributes(of, wanted)), **({"apps": apps} if apps else {})}


def _attributes(of: Metadata, wanted: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in sorted(wanted):
        value = getattr(of, part)
        if part == "environment":
            value = {path: text.rstrip("\n") for path, text in value.items()}
        if value:
            found[part] = value.rstrip("\n") if isinstance(value, str) else value
    return found


def _show_json(attributes: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps({"data": {"attributes": attributes}, "type": "container"}, indent="\t"))


def _show(of: Metadata, wanted: list[str], names: tuple[str, ...]) -> None:
    for name in names:
        _say(name)
    for part in wanted:
        value = getattr(of, part)
        if part == "labels":
            for label in sorted(value):
                _say(f"{label}: {value[label]}")
        elif part == "environment":
            for path, text in value.items():
                _say(f"=== {path} ===")
                _say(text)
                _say("")
        elif value:
            _say(value)


def _say(text: str) -> None:
    """``text`` and one newline; of what an image says a terminal obeys nothing but line ends."""
    text = text.rstrip("\n")
    if sys.stdout.isatty():
        text = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")


@click.command("run-help", epilog="Example: sifkit run-help image.sif")
@_APP
@verbosity
@click.argument("image")
def run_help(image: str, app: str | None) -> None:
    """Show the help that IMAGE has for those who run it."""
    from sifkit.image import metadata

    with _opened(image) as tree:
        text = (metadata.of_app(tree, app) if app else metadata.of_image(tree)).helpfile
    _say(text or "No help sections were defined for this image")
