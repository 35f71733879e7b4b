"""Calls of ``sifkit overlay`` in this process, and where the overlay inside a SIF image lies."""

from __future__ import annotations

from click.testing import CliRunner, Result

from overlay.failure import Failure
from overlay.section import Section
from sifkit import sif
from sifkit.cli.commands import cli


def run(*words: str) -> Result:
    """``sifkit overlay WORDS``; a `Failure` is the result's exception."""
    return CliRunner().invoke(cli, ["overlay", *words])


def failure(*words: str) -> str:
    done = run(*words)
    assert isinstance(done.exception, Failure), done.output
    return str(done.exception)


def section_of(path: str, number: int = 2) -> Section:
    with sif.open(path) as opened:
        found = next(d for d in opened.objects if d.id == number)
        return Section(path, found.offset, found.size)
