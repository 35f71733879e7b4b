"""Configuration: /etc/sifkit/config.toml, then the user's own, which wins. Absent files cost two system calls."""

from __future__ import annotations

import os

from overlay import tools
from overlay.failure import Failure
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

# Key -> type as a person would call it; the tests hold docs/man against this table.
KEYS = {
    "bind": "list of strings",
    "session_dir": "string",
    "tmpfs_size": "string",
    "foreign": "string",
    "metadata_size": "string",
    "helpers": "table of strings",
}


class Config(NamedTuple):
    """What is in force. ``sources``: for each key that is set, the file that set it."""

    bind: tuple[str, ...] = ()
    session_dir: str = ""
    tmpfs_size: str = ""
    foreign: str = ""
    metadata_size: str = ""
    helpers: tuple[tuple[str, str], ...] = ()
    sources: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()


def paths() -> tuple[str, str]:
    """The two files that are looked for, the administrator's first."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return "/etc/sifkit/config.toml", os.path.join(home, "sifkit", "config.toml")


def load() -> Config:
    """Read both files; `Failure` names the file and the key that is wrong."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    files = []
    for path in paths():
        try:
            with open(path, "rb") as file:
                text = file.read()
        except OSError:  # missing or not readable for this user: not in force, and doctor shows which are
            continue
        files.append(path)
        for key, value in _parse(path, text).items():
            values[key] = {**values.get(key, {}), **value} if key == "helpers" else value
            sources[key] = path
    return Config(
        bind=tuple(values.get("bind", ())),
        session_dir=values.get("session_dir", ""),
        tmpfs_size=values.get("tmpfs_size", ""),
        foreign=values.get("foreign", ""),
        metadata_size=values.get("metadata_size", ""),
        helpers=tuple(values.get("helpers", {}).items()),
        sources=tuple(sources.items()),
        files=tuple(files),
    )


def _parse(path: str, text: bytes) -> dict[str, Any]:
    import tomllib

    try:
        values = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read the configuration {path}", str(error)) from None
    for key, value in values.items():
        if key not in KEYS:
            raise Failure(f"{path}: unknown key {key!r}", f"known are {', '.join(KEYS)}")
        if not _fits(key, value):
            raise Failure(f"{path}: {key} must be a {KEYS[key]}", f"it is {value!r}")
    for name in values.get("helpers", {}):
        if name not in tools.PACKAGES:
            raise Failure(f"{path}: unknown helper {name!r}", f"known are {', '.join(tools.PACKAGES)}")
    return values


def _fits(key: str, value: object) -> bool:
    if key == "bind":
        return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    if key == "helpers":
        return isinstance(value, dict) and all(isinstance(entry, str) for entry in value.values())
    return isinstance(value, str)
