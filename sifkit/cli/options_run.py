"""Options about the run itself: where it starts, how it ends, what is only shown."""

from __future__ import annotations

from sifkit.cli.spec import Spec

OPTIONS = (
    Spec(
        ("--cwd", "--pwd"),
        "Start in DIR of the container.",
        "DIR", field="cwd", twins=("CWD", "TARGET_CWD", "TARGET_PWD"),
    ),
    Spec(
        ("--app",),
        "The SCIF app NAME of the image: its environment, its runscript, its test.",
        "NAME", twins=("APP", "APPNAME"),
    ),
    Spec(("-s", "--shell"), "Program in the container to run as the shell.", "PATH", verbs=("shell",)),
    Spec(("--no-umask",), "Start with umask 0022 instead of yours."),
    Spec(("--wait",), "At the end wait for processes left in the background."),
    Spec(("--dry-run",), "Print what would be done, layer by layer, and do nothing."),
    Spec(("--json",), "With --dry-run: print it as JSON.", twins=()),
)  # fmt: skip
