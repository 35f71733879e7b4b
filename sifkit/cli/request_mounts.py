"""From the options about what is shown to `Mounts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sifkit.runtime.request import Mounts

if TYPE_CHECKING:
    from sifkit.cli import config
    from sifkit.cli.run_option import Given
    from sifkit.runtime.steps import Bind


def mounts(given: Given, settings: config.Config) -> Mounts:
    """What of the host the command line and the configuration want to be seen."""
    return Mounts(
        binds=_binds((*settings.bind, *(given["bind"] or ()))),
        contain=bool(given["contain"]),
        home=not given["no_home"],
    )


def _binds(texts: tuple[str, ...]) -> tuple[Bind, ...]:
    if not texts:
        return ()
    from sifkit.runtime import binds

    return tuple(bind for text in texts for bind in binds.parse(text))
