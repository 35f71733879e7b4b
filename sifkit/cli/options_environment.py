"""Options about the payload's variables."""

from __future__ import annotations

from sifkit.cli.spec import Spec

OPTIONS = (
    Spec(
        ("--env",),
        "Set a variable in the container; the image's shell expands $NAME and $(COMMAND) in VALUE. Repeatable.",
        "NAME=VALUE", many=True, twins=(),
    ),
    Spec(
        ("--env-file",),
        "Set the variables that FILE has lines NAME=VALUE for. Repeatable; a later one and --env win.",
        "FILE", many=True, separator=",",
    ),
    Spec(("-e", "--cleanenv"), "Pass nothing of the host's environment on but TERM and *_proxy."),
    Spec(
        ("--no-env",),
        "Do not pass this variable of the host on. Repeatable, or several with commas.",
        "NAME", many=True, twins=("NO_ENV", "NOENV"), separator=",",
    ),
    Spec(("--no-eval",), "Hand the values of --env and the like over as they are."),
)  # fmt: skip
