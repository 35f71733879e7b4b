"""The payload's environment: what of the host's goes in, what the runtime sets, what the image's scripts add."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SCRIPTS = "/.singularity.d/env"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_OURS = ("SIFKIT", "APPTAINER", "SINGULARITY")
_NOT_FORWARDED = frozenset({"HOME", "PATH", "LD_LIBRARY_PATH"})
_FORWARDED_WHEN_CLEAN = frozenset({"TERM"})
_COERCED = frozenset({"C.UTF-8", "C.utf8", "UTF-8"})


class Environment(NamedTuple):
    """``start``: what the payload (or the image's shell) begins with. ``wins``: set after the image's scripts."""

    start: dict[str, str]
    wins: dict[str, str]


def of_caller() -> dict[str, str]:
    """The environment that we were started with.

    In the C locale Python sets LC_CTYPE for itself (PEP 538); images without that locale would warn of it.
    """
    found = dict(os.environ)
    if found.get("LC_CTYPE") in _COERCED:
        with open("/proc/self/environ", "rb") as file:
            if not any(entry.startswith(b"LC_CTYPE=") for entry in file.read().split(b"\0")):
                del found["LC_CTYPE"]
    return found


def build(
    host: dict[str, str],
    image: str,
    verb: str,
    home: str,
    clean: bool,
    extra: tuple[tuple[str, str], ...],
    app: str = "",
) -> Environment:
    """The environment of a run; rules of Apptainer (its documentation, "Environment and Metadata").

    ``image``: absolute path, for SIFKIT_CONTAINER and its twins. ``app``: of the image, whose scripts set its
    variables by our ..._APPNAME. ``extra``: ``--env`` in the order given.
    """
    start = {name: value for name, value in host.items() if _passes(name, clean)}
    if clean:
        start["LANG"] = "C"
    name = image.rstrip("/").rsplit("/", 1)[-1]
    for prefix in _OURS:
        start |= {f"{prefix}_CONTAINER": image, f"{prefix}_NAME": name, f"{prefix}_COMMAND": verb}
        if app:
            start[f"{prefix}_APPNAME"] = app
    start |= {"PATH": DEFAULT_PATH, "HOME": home}
    if not clean:
        start["USER_PATH"] = host.get("PATH", "")
    if verb == "shell":
        start["PS1"] = "sifkit> "
    return Environment({**start, **dict(extra)}, dict(extra))


def _passes(name: str, clean: bool) -> bool:
    if clean:
        return name in _FORWARDED_WHEN_CLEAN or name.lower().endswith("_proxy")
    if name in _NOT_FORWARDED or name.split("_", 1)[0].removesuffix("ENV") in _OURS:
        return False
    return _NAME.match(name) is not None


def parse_assignment(text: str) -> tuple[str, str]:
    """``NAME=VALUE`` as a pair; ValueError says what is wrong."""
    name, equals, value = text.partition("=")
    if not equals or not _NAME.match(name):
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def quoted(text: str) -> str:
    """``text`` as one word of sh(1), whatever it holds."""
    return "'" + text.replace("'", "'\\''") + "'"


# Shells say 127 for a file whose interpreter is missing, though it was found. Where exec fails dash and busybox run
# the trap; bash forgets it, and goes on behind exec when told to.
_EXEC_FAILED = 'case $?$(command -v -- "$1") in 126*|127/*) exit 126 ;; *) exit 127 ;; esac'


def script(wins: dict[str, str]) -> str:
    """The sh(1) program that sources the image's scripts in order, then becomes "$@"."""
    exports = "".join(f"export {name}={quoted(value)}\n" for name, value in wins.items())
    return (
        f'for sifkit_script in {SCRIPTS}/*.sh; do\n  [ -f "$sifkit_script" ] && . "$sifkit_script"\ndone\n'
        f"unset sifkit_script\n{exports}"
        'case "$1" in */*) ;; *) command -v -- "$1" >/dev/null 2>&1 || {\n'
        "  printf 'sifkit: %s: command not found in the container\\n' \"$1\" >&2; exit 127; } ;; esac\n"
        f"trap '{_EXEC_FAILED}' EXIT\nshopt -s execfail 2>/dev/null\nexec \"$@\"\n{_EXEC_FAILED}\n"
    )
