"""From the options about what is shown to `Mounts`, with images found."""

from __future__ import annotations

import os

from overlay.failure import USAGE, Failure
from overlay.records import TYPE_CHECKING
from sifkit.cli.console import CONSOLE
from sifkit.runtime import binds
from sifkit.runtime.request import Home, Mounts
from sifkit.runtime.steps import Bind

if TYPE_CHECKING:
    from sifkit.cli import config
    from sifkit.cli.spec import Given
    from sifkit.runtime.binds import Asked
    from sifkit.runtime.data_image import DataImage

NAMES = frozenset({"proc", "sys", "dev", "devpts", "home", "tmp", "hostfs", "cwd", "bind-paths"})


def mounts(given: Given, settings: config.Config) -> Mounts:
    """What of the host the command line and the configuration want to be seen."""
    without = frozenset(name for text in given["no_mount"] or () for name in text.split(",") if name)
    for name in sorted(without):
        if name not in NAMES and not name.startswith("/"):
            CONSOLE.warning(f"--no-mount {name}: there is nothing of that name; known are {', '.join(sorted(NAMES))}")
    asked = _once([
        *(entry for text in given["bind"] or () for entry in _binds(text)),
        *(binds.parse_mount(text) for text in given["mount"] or ()),
    ])  # fmt: skip
    taken = {entry.destination for entry in asked}
    usual = [] if "bind-paths" in without else _usual(settings)
    usual = [entry for entry in usual if entry.destination not in taken | without]
    return Mounts(
        binds=tuple(_step(number, entry) for number, entry in enumerate([*usual, *asked])),
        contain=bool(given["contain"]),
        home=_home(given["home"] or "", wanted=not given["no_home"] and "home" not in without),
        scratch=tuple(_scratch(name) for text in given["scratch"] or () for name in text.split(",")),
        workdir=_workdir(given["workdir"] or ""),
        without=without,
        dns=_servers(given["dns"] or ""),
        shown=",".join(_escaped(entry.destination) for entry in asked if entry.nested),
    )


def _binds(text: str) -> tuple[Asked, ...]:
    """What one ``--bind`` names; a warning where that is nothing, for mostly a variable was meant that is not set."""
    found = binds.parse(text)
    if not found:
        CONSOLE.warning(f"--bind '{text}' names nothing, so nothing is bound by it")
    return found


def _escaped(path: str) -> str:
    return path.replace(",", "\\,").replace(":", "\\:")


def _usual(settings: config.Config) -> list[Asked]:
    """Those of the configuration. It serves several hosts, so what is not on this one is left out, with a warning."""
    found: list[Asked] = []
    for text in settings.bind:
        try:
            found += binds.parse(text, f"bind in {dict(settings.sources)['bind']}:")
        except binds.Missing as error:
            CONSOLE.warning(f"{error.brief}: {error.cause}; it is left out")
    return found


def _once(asked: list[Asked]) -> list[Asked]:
    """One for each destination: the first, for the command line comes before variables."""
    first: dict[str, Asked] = {}
    for entry in asked:
        kept = first.setdefault(entry.destination, entry)
        if kept._replace(text="") != entry._replace(text=""):
            CONSOLE.warning(f"{entry.destination} shows {kept.source}; left out is {entry.text}")
    return list(first.values())


def _step(number: int, asked: Asked) -> Bind | DataImage:
    if not asked.of_image:
        return Bind(asked.source, asked.destination, readonly=asked.readonly)
    from sifkit.image import data
    from sifkit.runtime.data_image import DataImage

    layer = data.layer(asked.source, asked.id, asked.readonly, asked.text)
    return DataImage(layer, asked.inside, asked.destination, number)


def _home(text: str, wanted: bool) -> Home:
    if not text:
        return Home(wanted)
    fields = binds.fields(text)
    source = os.path.abspath(fields[0])
    destination = os.path.normpath(fields[1]) if len(fields) > 1 else source
    if len(fields) > 2 or not fields[0] or not destination.startswith("/"):
        hint = "write '\\:' for a colon that belongs to a path"
        raise Failure(f"--home {text}", "it is SRC or SRC:DEST, and DEST is an absolute path", hint, USAGE)
    if len(fields) > 1 and not os.path.isdir(source):
        raise Failure(f"--home {text}: cannot show {source}", "there is no such directory")
    return Home(wanted, source, destination)


def _scratch(name: str) -> str:
    path = os.path.normpath(f"/{name}")
    if path.strip("/") == "":
        raise Failure(f"--scratch {name}", "it must be a directory of the container below /", "", USAGE)
    return "/" + path.strip("/")


def _workdir(path: str) -> str:
    if path and not os.path.isdir(path):
        raise Failure(f"--workdir {path}", "there is no such directory", "make it first")
    return os.path.abspath(path) if path else ""


def _servers(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    import ipaddress

    addresses = tuple(address.strip() for address in text.split(","))
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise Failure(f"--dns {text}", f"{address!r} is not an IP address", "", USAGE) from None
    return addresses
