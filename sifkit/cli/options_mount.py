"""Options about which parts of the host are seen in the container."""

from __future__ import annotations

from sifkit.cli.spec import Spec

OPTIONS = (
    Spec(
        ("-B", "--bind"),
        "Show SRC of the host in the container, at DEST. OPT: ro, rw; image-src=DIR or id=N for what is in an image. "
        "Repeatable, or several with commas.",
        "SRC[:DEST[:OPT,...]]", many=True, twins=("BIND", "BINDPATH"),
    ),
    Spec(
        ("--mount",),
        "The same, written as type=bind,src=SRC,dst=DEST[,ro][,image-src=DIR][,id=N][,nonested]. Repeatable.",
        "SPEC", many=True, separator="\n",
    ),
    Spec(
        ("-H", "--home"),
        "Show SRC as your home directory, at DEST; an empty one when there is no SRC on the host.",
        "SRC[:DEST]",
    ),
    Spec(("--no-home",), "Do not show your home directory."),
    Spec(
        ("-S", "--scratch"),
        "Show an empty directory at DIR, in memory or below --workdir. Repeatable, or several with commas.",
        "DIR", many=True, twins=("SCRATCH", "SCRATCHDIR"), separator=",",
    ),
    Spec(
        ("-W", "--workdir"),
        "Keep --scratch, and with --contain home, /tmp and /var/tmp, in DIR of the host.",
        "DIR",
    ),
    Spec(
        ("--no-mount",),
        "Leave out proc, sys, dev, devpts, home, tmp, cwd, bind-paths, or what is shown at a path. Repeatable, or "
        "several with commas.",
        "NAME", many=True, separator=",",
    ),
    Spec(("-c", "--contain"), "Empty /tmp, /var/tmp and home, and a minimal /dev."),
    Spec(("-C", "--containall"), "--contain, --cleanenv, --pid and --ipc."),
    Spec(
        ("--compat",),
        "As Docker runs images: --containall, --no-init, --no-eval, --no-umask, --writable-tmpfs.",
    ),
    Spec(("--dns",), "Name servers for /etc/resolv.conf, with commas.", "ADDRESS"),
)  # fmt: skip
