"""Options about which parts of the host are seen in the container."""

from __future__ import annotations

from sifkit.cli.run_option import Spec

OPTIONS = (
    Spec(
        ("-B", "--bind"),
        "Show SRC of the host in the container, at DEST. Repeatable.",
        "SRC[:DEST[:ro|rw]]", many=True, twins=("BIND", "BINDPATH"),
    ),
    Spec(("--no-home",), "Do not show your home directory."),
    Spec(("-c", "--contain"), "Empty /tmp, /var/tmp and home, and a minimal /dev."),
)  # fmt: skip
