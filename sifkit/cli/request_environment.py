"""From the options about the environment, and variables such as ``SIFKITENV_NAME``, to `Variables`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from overlay.failure import Failure, of_path
from overlay.records import TYPE_CHECKING
from sifkit.cli.console import CONSOLE
from sifkit.cli.usage import UsageError
from sifkit.runtime import environ
from sifkit.runtime.environ import Assignment, Variables

if TYPE_CHECKING:
    from sifkit.cli.spec import Given

# What Apptainer evaluates is evaluated; our own prefix is the way to hand a value over untouched.
PREFIXES = (("SINGULARITYENV_", True), ("APPTAINERENV_", True), ("SIFKITENV_", False))
_NEXT = r",(?=[A-Za-z_]\w*=)"


def variables(given: Given, host: Mapping[str, str]) -> Variables:
    """What of the environment is asked for; of one name the later wins."""
    evaluate = not given["no_eval"]
    found = [*forwarded(host), *_of_files(given["env_file"] or (), evaluate, host), *_of_options(given["env"] or ())]
    for name in {entry.name for entry in found if entry.name == "HOME"}:
        CONSOLE.warning(f"{name} is not set this way; --home sets it")
    wanted = (entry._replace(evaluate=evaluate and entry.evaluate and environ.refers(entry.value)) for entry in found)
    return Variables(
        given=tuple(entry for entry in wanted if entry.name != "HOME"),
        clean=bool(given["cleanenv"]),
        dropped=tuple(name for text in given["no_env"] or () for name in text.split(",")),
    )


def forwarded(host: Mapping[str, str]) -> list[Assignment]:
    """What variables of the host say about variables of the container; ``SIFKITENV_X`` wins over ``APPTAINERENV_X``."""
    found: dict[str, Assignment] = {}
    for prefix, evaluate in PREFIXES:
        for variable, value in host.items():
            name = variable.removeprefix(prefix)
            if name != variable and environ.is_name(name):
                found.pop(name, None)
                found[name] = Assignment(name, value, evaluate)
    return list(found.values())


def _of_options(texts: Sequence[str]) -> list[Assignment]:
    """``--env A=1,B=2`` is two, as in Apptainer, where every part behind a comma could be one by itself."""
    if not texts:
        return []
    import re

    found = []
    for text in texts:
        for part in re.split(_NEXT, text):
            name, equals, value = part.partition("=")
            if not equals or not environ.is_name(name):
                raise UsageError(f"--env: {part!r} is not NAME=VALUE")
            found.append(Assignment(name, value, True))
    return found


def _of_files(texts: Iterable[str], evaluate: bool, host: Mapping[str, str]) -> list[Assignment]:
    return [entry for text in texts for path in _paths(text) for entry in _of_file(path, evaluate, host)]


def _paths(text: str) -> list[str]:
    return [text] if os.path.exists(text) else text.split(",")


def _of_file(path: str, evaluate: bool, host: Mapping[str, str]) -> list[Assignment]:
    from sifkit.runtime import env_file

    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
        pairs = env_file.parse(text, host) if evaluate else env_file.plain(text)
    except OSError as error:
        raise of_path(f"--env-file {path}", error) from None
    except ValueError as error:
        raise Failure(f"--env-file {path}", str(error), "a line is NAME=VALUE, as sh reads it") from None
    return [Assignment(name, value, True) for name, value in pairs]
