"""Running something in an image: from what was given to a plan, and the plan to the runtime."""

from __future__ import annotations

import os

from overlay import tools
from overlay.records import TYPE_CHECKING
from sifkit.cli import config, request
from sifkit.cli.console import CONSOLE
from sifkit.cli.usage import UsageError
from sifkit.runtime import container, environ, identity, plan, userns

if TYPE_CHECKING:
    from overlay.section import Section
    from sifkit.cli.spec import Given


def carry_out(verb: str, given: Given) -> int:
    """Do what was asked for; the exit status. Raises `Failure`, `UsageError`."""
    if any(name.startswith(request.PREFIXES) for name in os.environ):
        from sifkit.cli import twins

        twins.add(verb, given, os.environ)
    if given["json"] and not given["dry_run"]:
        raise UsageError("--json goes with --dry-run")
    settings = config.load()
    _apply(settings)
    asked = request.build(verb, given["image"], given["command"] or given["args"] or (), given, settings)
    real_root = userns.privileged() and not given["userns"]
    made = plan.build(asked, identity.caller(), environ.of_caller(), real_root)
    if given["fakeroot"]:
        from sifkit.runtime import fakeroot

        if text := fakeroot.remark(made.ids):
            CONSOLE.warning(text) if made.ids else CONSOLE.info(text)
    if given["dry_run"]:
        from sifkit.cli import show_plan

        show_plan.show(made, container.dry_run(made), bool(given["json"]))
        return 0
    return container.run(made, CONSOLE, given["wait_lock"] or 0.0, _enlarge)


def _enlarge(section: Section, size: int, inodes: int) -> Section:
    """Let an ext3 overlay grow that takes the writes of a run and does not hold them."""
    from sifkit.image import resize

    return resize.enlarge(section, size, inodes)


def _apply(settings: config.Config) -> None:
    tools.configure(dict(settings.helpers))
    if settings.session_dir:
        os.environ.setdefault("SIFKIT_SESSION_DIR", settings.session_dir)
