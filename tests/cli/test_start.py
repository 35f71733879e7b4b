"""What a start understands without click, click understands in the same way; everything else is left to it."""

from __future__ import annotations

import random

import click
import pytest

from sifkit.cli import exec_cmd, sif_cmd, start
from sifkit.cli.run_option import RunCommand
from sifkit.cli.spec import Given, specs

COMMANDS: dict[str, click.Command] = {
    "exec": exec_cmd.exec_, "shell": exec_cmd.shell, "run": exec_cmd.run, "test": exec_cmd.test,
}  # fmt: skip


def by_click(verb: str, words: list[str]) -> Given | None:
    """What click takes from ``words``; None for a mistake or a call for help."""
    found: list[Given] = []
    command = RunCommand(verb, lambda given: found.append(given) or 0, [], "")
    command.params = COMMANDS[verb].params
    try:
        command.main(words, standalone_mode=False)
    except click.ClickException:
        return None
    return found[0] if found else None


@pytest.mark.parametrize(
    "line",
    [
        "exec img true",
        "exec img sh -c echo --bind",
        "exec --overlay a -o b:ro --bind=/x:/y img cmd -- x",
        "exec --writable-tmpfs --env A=b=c --env= img cmd",
        "shell img",
        "shell -s /bin/zsh img -x",
        "run -c -e --pid img a b",
        "test --app foo img",
    ],
)
def test_usual_lines_need_no_click(line: str) -> None:
    verb, *words = line.split()
    asked = start.parse([verb, *words])
    assert asked is not None and asked.verb == verb
    assert asked.given == by_click(verb, words)


@pytest.mark.parametrize(
    "line",
    [
        "", "exec", "exec img", "exec --help", "exec -h img x", "exec --no-such img x", "exec -ce img x",
        "exec -B/a img x", "exec --contain=1 img x", "exec --bind", "exec --bind -c img x", "exec -- img x", "exec - x",
        "exec -v img x", "-v exec img x", "exec --wait-lock 1 img x", "overlay info x", "exec -c", "shell", "--version",
        "exec --over a img x",
    ],
)  # fmt: skip
def test_the_rest_is_for_click_to_say(line: str) -> None:
    assert start.parse(line.split()) is None


def test_empty_words_are_left_to_it_where_they_are_an_image() -> None:
    assert start.parse(["exec", "", "x"]) is None
    asked = start.parse(["exec", "--bind", "", "img", ""])
    assert asked is not None and asked.given == by_click("exec", ["--bind", "", "img", ""])


def test_both_take_the_same_from_any_line() -> None:
    chance, answered = random.Random(0), 0
    for _ in range(4000):
        verb = chance.choice(list(COMMANDS))
        names = [name for spec in specs(verb) for name in spec.names]
        pool = [
            *names,
            *names,
            *(f"{name}=v" for name in names[::3]),
            "--",
            "-",
            "-ce",
            "-B/x",
            "-v",
            "-h",
            "--help",
            "--x",
        ]
        words = []
        for _ in range(chance.randrange(4)):
            words.append(chance.choice(pool))
            words += ["value"] if chance.random() < 0.5 else []
        words += ["img", "cmd", "--bind", "x"][: chance.choice((0, 1, 2, 4, 4, 4))]
        asked = start.parse([verb, *words])
        if asked is not None:
            answered += 1
            assert asked.given == by_click(verb, words), words
    assert answered > 500


SHOWN: dict[str, click.Command] = {
    "header": sif_cmd.header, "list": sif_cmd.list_, "info": sif_cmd.info, "check": sif_cmd.check, "dump": sif_cmd.dump,
}  # fmt: skip


def shown_by_click(verb: str, words: list[str]) -> dict[str, object] | None:
    """What click hands to a command of ``sif``, without what was not given; None for a mistake or a call for help."""
    found: list[dict[str, object]] = []
    command = click.Command(verb, callback=lambda **given: found.append(given), params=SHOWN[verb].params)
    try:
        command.main(words, standalone_mode=False)
    except click.ClickException:
        return None
    return (
        {key: value for key, value in found[0].items() if value is not None and value is not False} if found else None
    )


@pytest.mark.parametrize(
    "line",
    [
        "list img", "list --json img", "check img --json", "header img", "info 3 img", "info 3 --json img",
        "dump 1 img", "dump 1 img -o out", "dump -o out 1 img --force", "dump --output out 0 img",
    ],
)  # fmt: skip
def test_a_look_into_an_image_needs_no_click(line: str) -> None:
    verb, *words = line.split()
    asked = start.parse(["sif", verb, *words])
    assert asked is not None and asked.verb == verb
    assert asked.given == shown_by_click(verb, words)


@pytest.mark.parametrize(
    "line",
    [
        "", "list", "list a b", "list --help", "list --jso img", "-v list img", "info x img", "info -1 img", "info img",
        "dump 1 img -oout", "dump 1 img -o -", "dump 1 img -o", "dump 1 img --output=out", "dump 1 -- img", "dump 1 -",
        "add img x", "new img", f"info {'9' * 5000} img", "info ³ img",
    ],
)  # fmt: skip
def test_other_looks_are_for_click_to_say(line: str) -> None:
    assert start.parse(["sif", *line.split()]) is None


def test_both_take_the_same_from_any_look() -> None:
    chance, answered = random.Random(0), 0
    for _ in range(4000):
        verb = chance.choice(list(SHOWN))
        options = ["--json", "--force", "-o", "--output", "-oX", "--output=X", "--", "-", "-h", "-v", "--x"]
        words = ["3", "img"] if verb in ("info", "dump") else ["img"]
        words += chance.choice(([], [], [], ["more"]))
        for _ in range(chance.randrange(3)):
            words.insert(chance.randrange(len(words) + 1), chance.choice(options))
        asked = start.parse(["sif", verb, *words])
        if asked is not None:
            answered += 1
            assert asked.given == shown_by_click(verb, words), words
    assert answered > 500
