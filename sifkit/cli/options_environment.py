"""Options about the payload's variables."""

from __future__ import annotations

from sifkit.cli.run_option import Spec

OPTIONS = (
    Spec(("--env",), "Set a variable in the container. Repeatable.", "NAME=VALUE", many=True, twins=()),
    Spec(("-e", "--cleanenv"), "Pass nothing of the host's environment on."),
)
