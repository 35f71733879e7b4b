"""Variables that stand for options: ``SIFKIT_BIND``, ``APPTAINER_BIND``, ``SINGULARITY_BIND`` for ``--bind``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from overlay.records import TYPE_CHECKING
from sifkit.cli.console import CONSOLE
from sifkit.cli.request import PREFIXES
from sifkit.cli.spec import Given, Spec, specs
from sifkit.cli.usage import UsageError

if TYPE_CHECKING:
    from typing import Any

# Variables for options that we lack and whose absence changes the run (`absent`).
_LACKING = ("NV", "NVCCLI", "ROCM", "FUSEMOUNT", "SECURITY", "APPLY_CGROUPS", "NETNS_PATH", "BLKIO_WEIGHT")
_TRUE, _FALSE = ("1", "t", "true", "yes", "on"), ("0", "f", "false", "no", "off")


def add(verb: str, given: Given, host: Mapping[str, str]) -> None:
    """Put into ``given`` what variables of ``host`` say. The command line wins; what can be repeated is added to it."""
    for name in (f"{prefix}{key}" for key in _LACKING for prefix in PREFIXES):
        if host.get(name, "").lower() not in ("", *_FALSE):
            _say_absent(name)
    for name, spec in _found(verb, host):
        CONSOLE.info(f"{name}={host[name]} stands for {spec.names[-1]}")
        if spec.many:
            given[spec.key] = (*(given[spec.key] or ()), *_several(spec, host[name]))
        elif given[spec.key] is None:
            given[spec.key] = _value(spec, name, host[name])


def _say_absent(name: str) -> None:
    """A warning, not an error: sites set such variables for everybody, needed or not."""
    from sifkit.cli import absent

    failure = absent.option("--" + name.partition("_")[2].lower().replace("_", "-"))
    CONSOLE.warning(f"{name} has no effect: {failure}")


def in_force(host: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``host`` that stand for an option of any run, and that option."""
    return {name: spec.names[-1] for name, spec in _found("shell", host)}


def _found(verb: str, host: Mapping[str, str]) -> Iterator[tuple[str, Spec]]:
    """Of the variables for one option that which counts: ours before Apptainer's before Singularity's."""
    for spec in specs(verb):
        for key in spec.variables:
            name = next((f"{prefix}{key}" for prefix in PREFIXES if host.get(f"{prefix}{key}")), "")
            if name:
                yield name, spec


def _several(spec: Spec, text: str) -> list[str]:
    return [part for part in text.split(spec.separator) if part] if spec.separator else [text]


def _value(spec: Spec, name: str, text: str) -> Any:
    if spec.metavar:
        return _converted(spec, name, text) if spec.type else text
    if text.lower() in _TRUE:
        return True
    if text.lower() not in _FALSE:
        raise UsageError(f"{name}={text}: it switches {spec.names[-1]} on or off, so 1 or 0")
    return None


def _converted(spec: Spec, name: str, text: str) -> Any:
    import click

    assert spec.type is not None
    try:
        return spec.type().convert(text, None, None)
    except click.BadParameter as error:
        raise UsageError(f"{name}: {error.message}") from None
