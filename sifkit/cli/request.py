"""From the options of exec, shell and run to a `Request`. What only some runs need is imported when they do."""

from __future__ import annotations

import os

from overlay.records import TYPE_CHECKING
from sifkit.cli import config, request_layers
from sifkit.cli.usage import UsageError
from sifkit.image.resolve import resolve
from sifkit.runtime.environ import Variables
from sifkit.runtime.request import Mounts, Namespaces, Request

if TYPE_CHECKING:
    from sifkit.cli.spec import Given
    from sifkit.runtime.capabilities import Privileges
    from sifkit.runtime.cgroup import Limits

# Of variables that may stand for an option, and with ENV before the line for a variable of the container.
PREFIXES = ("SIFKIT_", "APPTAINER_", "SINGULARITY_")
FORWARDED = ("SIFKITENV_", "APPTAINERENV_", "SINGULARITYENV_")


def build(verb: str, image: str, args: tuple[str, ...], given: Given, settings: config.Config) -> Request:
    """What the command line and the configuration ask for, with image and overlays found."""
    if given["writable"] and given["writable_tmpfs"]:
        raise UsageError("--writable and --writable-tmpfs exclude each other")
    if given["writable"] and given["read_only"]:
        raise UsageError("--writable and --read-only exclude each other")
    _imply(given)
    found = resolve(image)
    return Request(
        verb=verb,
        image=found.path,
        layers=request_layers.layers(found, given, settings),
        args=args,
        variables=_variables(given),
        mounts=_mounts(given, settings),
        namespaces=_namespaces(given),
        limits=_limits(given),
        privileges=_privileges(given),
        cwd=given["cwd"] or "",
        shell=given["shell"] or "",
        app=given["app"] or "",
        wait=bool(given["wait"]),
        umask=0o022 if given["no_umask"] else None,
    )


def _imply(given: Given) -> None:
    """What one option stands for. --writable-tmpfs of --compat is left to the layers, where a writable one may be."""
    if given["compat"]:
        given |= {"containall": True, "no_init": True, "no_eval": True, "no_umask": True}
    if given["containall"]:
        given |= {"contain": True, "cleanenv": True}


def _variables(given: Given) -> Variables:
    if given.plain and not any(name.startswith(FORWARDED) for name in os.environ):
        return Variables()
    from sifkit.cli import request_environment

    return request_environment.variables(given, os.environ)


def _mounts(given: Given, settings: config.Config) -> Mounts:
    if given.plain and not settings.bind:
        return Mounts()
    from sifkit.cli import request_mounts

    return request_mounts.mounts(given, settings)


def _namespaces(given: Given) -> Namespaces:
    if given.plain:
        return Namespaces()
    from sifkit.cli import request_namespaces

    return request_namespaces.namespaces(given)


def _limits(given: Given) -> Limits | None:
    if given.plain:
        return None
    from sifkit.cli import request_namespaces

    return request_namespaces.limits(given)


def _privileges(given: Given) -> Privileges | None:
    if given.plain:
        return None
    from sifkit.cli import request_namespaces

    return request_namespaces.privileges(given)
