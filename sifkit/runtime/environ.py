"""The payload's environment: what of the host's goes in, what the runtime sets, what was asked for.

What the image's own scripts make of it is `sifkit.runtime.sourcing`'s.
"""

from __future__ import annotations

import os

from overlay.records import NamedTuple

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIBRARIES = "/.singularity.d/libs"
PROMPT = "sifkit> "

_OURS = ("SIFKIT", "APPTAINER", "SINGULARITY")
_NOT_FORWARDED = frozenset({"HOME", "PATH", "LD_LIBRARY_PATH", "PS1", "PROMPT_COMMAND"})
_FORWARDED_WHEN_CLEAN = frozenset({"TERM"})
_COERCED = frozenset({"C.UTF-8", "C.utf8", "UTF-8"})


class Assignment(NamedTuple):
    """A variable that was asked for. ``evaluate``: the image's shell is to expand what ``value`` refers to."""

    name: str
    value: str
    evaluate: bool = False


class Variables(NamedTuple):
    """What was asked for. ``given``: a later one wins. ``clean``: nothing of the host's.

    ``dropped``: variables of the host that do not go in.
    """

    given: tuple[Assignment, ...] = ()
    clean: bool = False
    dropped: tuple[str, ...] = ()


class Environment(NamedTuple):
    """``base``: what the image's scripts see and may change. ``host``: added where they set nothing.

    ``given``: set after all, in this order.
    """

    base: dict[str, str]
    host: dict[str, str]
    given: tuple[Assignment, ...]

    def start(self) -> dict[str, str]:
        """All of it, as it is before the image's scripts and its shell are asked."""
        return {**self.host, **self.base, **{name: value for name, value, _ in self.given}}


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
    host: dict[str, str], image: str, verb: str, home: str, wanted: Variables, shown: str, app: str = ""
) -> Environment:
    """The environment of a run; rules of Apptainer (its documentation, "Environment and Metadata").

    ``image``: absolute path, for SIFKIT_CONTAINER and its twins. ``shown``: as APPTAINER_BIND has it, so that a
    container started inside shows the same. ``app``: of the image, whose scripts set its variables by our ..._APPNAME.
    """
    passed = {name: value for name, value in host.items() if _passes(name, wanted.clean)}
    for name in wanted.dropped:
        passed.pop(name, None)
    if wanted.clean:
        passed["LANG"] = "C"
    elif "PATH" in host:
        passed["USER_PATH"] = host["PATH"]
    name = image.rstrip("/").rsplit("/", 1)[-1]
    base = {"PATH": DEFAULT_PATH, "HOME": home}
    for prefix in _OURS:
        base |= {f"{prefix}_CONTAINER": image, f"{prefix}_NAME": name, f"{prefix}_COMMAND": verb}
        base[f"{prefix}_ENVIRONMENT"] = "/.singularity.d/env/91-environment.sh"
        if app:
            base[f"{prefix}_APPNAME"] = app
    # Not SIFKIT_BIND: inside, it would win over an APPTAINER_BIND that a script in the container sets.
    base |= {"APPTAINER_BIND": shown, "SINGULARITY_BIND": shown}
    return Environment(base, passed, wanted.given)


def _passes(name: str, clean: bool) -> bool:
    if clean:
        return name in _FORWARDED_WHEN_CLEAN or name.lower().endswith("_proxy")
    if name in _NOT_FORWARDED or name.split("_", 1)[0].removesuffix("ENV") in _OURS:
        return False
    return is_name(name)


def is_name(text: str) -> bool:
    """Whether ``text`` can be the name of a shell variable."""
    return text.isascii() and text.isidentifier()


def refers(value: str) -> bool:
    """Whether there is anything in ``value`` that a shell would replace between double quotes."""
    return "$" in value or "`" in value


_PATHS = {"PATH": DEFAULT_PATH, "LD_LIBRARY_PATH": ""}


def finish(environment: Environment, found: dict[str, str], asked: dict[str, str]) -> dict[str, str]:
    """What the payload gets: ``found`` is what the image's scripts left, ``asked`` the given values, evaluated."""
    extended = {f"{where}_{name}" for name in _PATHS for where in ("PREPEND", "APPEND")}
    # The shell that evaluated the given ones exports them, PREPEND_PATH too, which is no variable of the container.
    variables = {**environment.host, **{name: value for name, value in found.items() if name not in asked}}
    variables |= {name: value for name, value in asked.items() if name not in extended}
    for name, default in _PATHS.items():
        parts = (asked.get(f"PREPEND_{name}", ""), variables.get(name, default), asked.get(f"APPEND_{name}", ""))
        if any(parts):
            variables[name] = ":".join(part for part in parts if part)
    libraries = variables.get("LD_LIBRARY_PATH", "")
    if any(name.endswith("LD_LIBRARY_PATH") for name in asked) and LIBRARIES not in libraries:
        variables["LD_LIBRARY_PATH"] = f"{libraries}:{LIBRARIES}" if libraries else LIBRARIES
    # Images set the prompt, and bash reads start-up files that do: the last word before a prompt is PROMPT_COMMAND's.
    prompt = asked.get("PS1", PROMPT)
    variables["PS1"] = prompt
    if "PROMPT_COMMAND" not in asked:
        variables["PROMPT_COMMAND"] = f"PS1={quoted(prompt)}; unset PROMPT_COMMAND"
    return variables


def quoted(text: str) -> str:
    """``text`` as one word of sh(1), whatever it holds."""
    return "'" + text.replace("'", "'\\''") + "'"
