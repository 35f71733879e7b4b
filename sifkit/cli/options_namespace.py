"""Options about what the container does not share with the host besides its mounts."""

from __future__ import annotations

from sifkit.cli.run_option import Spec

OPTIONS = (Spec(("--hostname",), "The container's name for itself.", "NAME"),)
