"""``sifkit doctor``: whether this host can run us, and the configuration in force."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from overlay.failure import Failure
from sifkit.cli import config, options

if TYPE_CHECKING:
    from sifkit.runtime.identity import Identity
    from sifkit.runtime.preflight import Finding

VARIABLES = ("SIFKIT_OVERLAY_DRIVER", "SIFKIT_SESSION_DIR", "SIFKIT_DEBUG_WITHOUT")
_COLOURS = {"ok": "green", "warn": "yellow", "missing": "bold red"}


class Setting(NamedTuple):
    """One configuration key: the ``value`` in force and the file, variable or default that it comes from."""

    key: str
    value: Any
    source: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@options.verbosity
def doctor(as_json: bool) -> int:
    """Say whether this host can run containers for you: what is there, what is missing, what to do.

    Then the configuration in force, and where each value comes from. The exit status is 0 when a container
    can run here, 1 when something essential is missing.

    \b
    sifkit doctor
    sifkit doctor --json
    """
    from overlay import tools
    from sifkit.runtime import identity, preflight

    who = identity.caller()
    settings, broken = _load()
    tools.configure(dict(settings.helpers))
    findings = (*preflight.judge(preflight.look(who)), *broken)
    able = preflight.ready(findings)
    if as_json:
        _print_json(able, who, findings, _in_force(settings))
    else:
        _print(able, who, findings, _in_force(settings))
    return 0 if able else 1


def _load() -> tuple[config.Config, tuple[Finding, ...]]:
    """The configuration; when it is wrong, the defaults and a finding that says so, for every run would fail."""
    from sifkit.runtime.preflight import Finding

    try:
        return config.load(), ()
    except Failure as failure:
        found = f"{failure.brief}: {failure.cause}" if failure.cause else failure.brief
        return config.Config(), (Finding("missing", "configuration", found, "mend the file; see sifkit-doctor(1)"),)


def _in_force(settings: config.Config) -> list[Setting]:
    import tempfile

    from overlay.size import format_size
    from sifkit.runtime import memory

    sources = dict(settings.sources)
    place, place_source = settings.session_dir or tempfile.gettempdir(), sources.get("session_dir", "default")
    if os.environ.get("SIFKIT_SESSION_DIR"):
        place, place_source = os.environ["SIFKIT_SESSION_DIR"], "SIFKIT_SESSION_DIR"
    size = settings.tmpfs_size or format_size(memory.tmpfs_default())
    return [
        Setting("bind", list(settings.bind), sources.get("bind", "default")),
        Setting("session_dir", place, place_source),
        Setting("tmpfs_size", size, sources.get("tmpfs_size", "default, by the memory that is free now")),
        Setting("foreign", settings.foreign or "auto", sources.get("foreign", "default")),
        Setting("metadata_size", settings.metadata_size or "2G", sources.get("metadata_size", "default")),
        Setting("helpers", dict(settings.helpers), sources.get("helpers", "default")),
    ]


def _files() -> list[tuple[str, str]]:
    """The files that are looked for, and whether each is read."""
    found = []
    for path in config.paths():
        if not os.path.lexists(path):
            found.append((path, "not there"))
        else:
            found.append((path, "read" if os.access(path, os.R_OK) else "you may not read it: not in force"))
    return found


def _variables() -> dict[str, tuple[str, str]]:
    """Value and meaning of the variables that are set and would matter to a run."""
    from sifkit.cli import twins

    found = {name: "environment" for name in VARIABLES if os.environ.get(name)}
    found |= {name: f"environment, for {option}" for name, option in twins.in_force(os.environ).items()}
    return {name: (os.environ[name], meaning) for name, meaning in found.items()}


def _print_json(able: bool, who: Identity, findings: tuple[Finding, ...], settings: list[Setting]) -> None:
    import json

    facts = {
        "ready": able,
        "user": {"name": who.name, "uid": who.uid},
        "findings": [finding._asdict() for finding in findings],
        "configuration": {
            "files": [{"path": path, "state": state} for path, state in _files()],
            "settings": {setting.key: {"value": setting.value, "source": setting.source} for setting in settings},
            "environment": {name: value for name, (value, _) in _variables().items()},
        },
    }
    click.echo(json.dumps(facts, indent=2))


def _print(able: bool, who: Identity, findings: tuple[Finding, ...], settings: list[Setting]) -> None:
    if sys.stdout.isatty():
        _print_table(findings)
    else:
        for mark, need, found, advice in findings:
            click.echo(_printable(f"{mark:<8} {need}: {found}" + (f"; try: {advice}" if advice else "")))
    click.echo("\nConfiguration:")
    for path, state in _files():
        click.echo(_printable(f"  {path}: {state}"))
    for setting in settings:
        click.echo(_printable(f"  {setting.key} = {_shown(setting.value)}  ({setting.source})"))
    for name, (value, meaning) in _variables().items():
        click.echo(_printable(f"  {name}={value}  ({meaning})"))
    verdict = "A container can run here" if able else "No container can run here: see the lines marked missing"
    click.echo(_printable(f"\n{verdict} (as {who.name}, uid {who.uid})."))


def _print_table(findings: tuple[Finding, ...]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "need", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for mark, *texts in findings:
        table.add_row(Text(mark, _COLOURS[mark]), *(Text(_printable(text)) for text in texts))
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{name}: {path}" for name, path in value.items()]
    return value if isinstance(value, str) else ", ".join(value) or "none"


def _printable(text: str) -> str:
    """Control characters of file names and values stay text on a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
