"""Options of exec, shell and run: made when mentioned, and what variables say in their stead."""

from __future__ import annotations

import click
import pytest

from sifkit.cli import twins
from sifkit.cli.exec_cmd import exec_, shell
from sifkit.cli.run_option import RunCommand
from sifkit.cli.spec import Given, specs
from sifkit.cli.usage import UsageError


def parsed(command: click.Command, *words: str) -> Given:
    """What ``words`` give, without anything being run."""
    assert isinstance(command, RunCommand)
    found: list[Given] = []
    taken = RunCommand("shell" if command is shell else "exec", lambda given: found.append(given) or 0, [], "")
    taken.params = command.params
    taken.main(list(words), standalone_mode=False)
    return found[0]


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["img", "cmd"], {}),
        (["img", "cmd", "--bind", "x"], {"command": ("cmd", "--bind", "x")}),
        (["-B", "/a", "img", "cmd"], {"bind": ("/a",)}),
        (["-B/a", "--bind=/b", "img", "cmd"], {"bind": ("/a", "/b")}),
        (["-ec", "-B", "/a", "img", "cmd"], {"cleanenv": True, "contain": True, "bind": ("/a",)}),
        (["-ceB", "/a", "img", "cmd"], {"cleanenv": True, "contain": True, "bind": ("/a",)}),
        (["-cB/e", "img", "cmd"], {"contain": True, "bind": ("/e",), "cleanenv": None}),
        (["--pwd", "/x", "img", "cmd"], {"cwd": "/x"}),
        (["--cwd", "--json", "img", "cmd"], {"cwd": "--json", "json": None}),
        (["-c", "--", "img", "cmd"], {"contain": True}),
        (["--wait-lock", "1.5", "img", "cmd"], {"wait_lock": 1.5}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_are_taken(words: list[str], given: dict[str, object]) -> None:
    found = parsed(exec_, *words)
    expected = {"image": "img", "command": ("cmd",), **given}
    assert {name: found[name] for name in expected} == expected
    assert set(found) <= set(expected)


def test_of_shell_s_is_the_shell() -> None:
    assert parsed(shell, "-s", "/bin/zsh", "img")["shell"] == "/bin/zsh"
    assert parsed(exec_, "-s", "img", "cmd")["shell"] is None


@pytest.mark.parametrize(
    "words", [["--no-such", "img", "x"], ["-cZ", "img", "x"], ["--wait-lock", "-1", "img", "x"], ["-c"], ["img"]]
)
def test_mistakes(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parsed(exec_, *words)


def test_every_option_is_known_once() -> None:
    names = [name for spec in specs("shell") for name in spec.names]
    assert len(names) == len(set(names))
    keys = [key for spec in specs("shell") for key in spec.variables]
    assert len(keys) == len(set(keys))


def test_variables_stand_for_options() -> None:
    given = Given()
    host = {"SIFKIT_CONTAIN": "1", "APPTAINER_NO_HOME": "true", "SINGULARITY_CWD": "/x", "APPTAINER_BIND": "/a,/b"}
    twins.add("exec", given, host)
    assert given == {"contain": True, "no_home": True, "cwd": "/x", "bind": ("/a,/b",)}


def test_the_command_line_wins_and_lists_are_added_to() -> None:
    given = Given(cwd="/mine", bind=("/first",))
    twins.add("exec", given, {"SIFKIT_CWD": "/x", "APPTAINER_BIND": "/second", "APPTAINER_BINDPATH": "/third"})
    assert given == {"cwd": "/mine", "bind": ("/first", "/second", "/third")}


def test_sifkit_wins_over_apptainer_and_that_over_singularity() -> None:
    for present in (3, 2, 1):
        prefixes = ("SINGULARITY", "APPTAINER", "SIFKIT")[:present]
        given = Given()
        twins.add("exec", given, {f"{prefix}_{key}": f"/{prefix}" for prefix in prefixes for key in ("CWD", "BIND")})
        assert given == {"cwd": f"/{prefixes[-1]}", "bind": (f"/{prefixes[-1]}",)}


def test_off_and_empty_are_as_if_not_set_and_nonsense_is_named() -> None:
    given = Given()
    twins.add("exec", given, {"SIFKIT_CONTAIN": "0", "APPTAINER_CLEANENV": "false", "SINGULARITY_NO_HOME": ""})
    assert not given["contain"] and not given["cleanenv"] and not given["no_home"]
    with pytest.raises(UsageError, match="APPTAINER_CONTAIN"):
        twins.add("exec", Given(), {"APPTAINER_CONTAIN": "perhaps"})
    with pytest.raises(UsageError, match="SIFKIT_WAIT_LOCK"):
        twins.add("exec", Given(), {"SIFKIT_WAIT_LOCK": "long"})
