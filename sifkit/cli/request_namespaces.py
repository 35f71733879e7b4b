"""From the options about namespaces to `Namespaces`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sifkit.runtime.request import Namespaces

if TYPE_CHECKING:
    from sifkit.cli.run_option import Given

_MOST = 64  # of a host name: HOST_NAME_MAX of the kernel


def namespaces(given: Given) -> Namespaces:
    """What of its own the command line wants the container to have."""
    name = given["hostname"] or ""
    if len(name.encode()) > _MOST or any(character.isspace() for character in name):
        raise click.UsageError(f"--hostname {name}: a name has no spaces and at most {_MOST} bytes")
    return Namespaces(hostname=name)
