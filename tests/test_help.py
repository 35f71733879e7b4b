"""Every command explains itself, has its man page, and the README names only what exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner
from sources import ROOT

from sifkit.cli.commands import cli


class Entry(NamedTuple):
    """A command and the words that lead to it."""

    words: tuple[str, ...]
    command: click.Command
    context: click.Context


def walk(command: click.Command, words: tuple[str, ...], parent: click.Context | None) -> Iterator[Entry]:
    context = click.Context(command, parent=parent, info_name=words[-1] if words else "sifkit")
    yield Entry(words, command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, f"{name} is listed but not there"
            yield from walk(child, (*words, name), context)


ALL_OF_EXEC = "All options of **sifkit-exec**(1) mean the same here"
ENTRIES = list(walk(cli, (), None))
each_command = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: "sifkit " + " ".join(entry.words))


def options_of(entry: Entry) -> list[click.Option]:
    found, of_click = entry.command.get_params(entry.context), entry.command.get_help_option(entry.context)
    return [param for param in found if isinstance(param, click.Option) and param is not of_click and not param.hidden]


@each_command
def test_help_is_given(entry: Entry) -> None:
    done = CliRunner().invoke(cli, [*entry.words, "--help"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("Usage:")


@each_command
def test_it_says_what_it_does(entry: Entry) -> None:
    assert entry.command.get_short_help_str()


@each_command
def test_every_option_says_what_it_does(entry: Entry) -> None:
    assert not [option.opts for option in options_of(entry) if not option.help]


@each_command
def test_the_man_page_names_every_option(entry: Entry) -> None:
    page = ROOT / "docs" / "man" / ("-".join(("sifkit", *entry.words)) + ".1.md")
    assert page.is_file(), f"{page.name} is missing"
    text = page.read_text()
    if ALL_OF_EXEC in text:
        text += page.with_name("sifkit-exec.1.md").read_text()
    names = [name for option in options_of(entry) for name in (*option.opts, *option.secondary_opts)]
    assert not [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)]


def test_no_man_page_is_left_over() -> None:
    known = {"-".join(("sifkit", *entry.words)) for entry in ENTRIES}
    pages = {page.name.removesuffix(".1.md") for page in (ROOT / "docs" / "man").glob("*.1.md")}
    assert not pages - known


@cache
def readme_commands() -> list[str]:
    """The sifkit command lines in the code blocks of the README, continued lines joined."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if re.match(r"\s*(\$ )?sifkit\s", line)]


def test_the_readme_shows_commands() -> None:
    assert readme_commands()


def test_the_commands_of_the_readme_exist() -> None:
    wrong = [(line, why) for line in readme_commands() for why in [objection(line)] if why]
    assert not wrong


def objection(line: str) -> str:
    """Why this command line would be refused before anything is looked at; empty when it would not."""
    command: click.Command = cli
    context = click.Context(cli, info_name="sifkit")
    words = first_command(line)[1:]
    try:
        while True:
            rest = command.make_parser(context).parse_args(words)[1]
            if not isinstance(command, click.Group) or not rest:
                return ""
            child = command.get_command(context, rest[0])
            if child is None:
                return f"no command {rest[0]}"
            command, context, words = child, click.Context(child, parent=context), rest[1:]
    except click.UsageError as error:
        return error.format_message()


def first_command(line: str) -> list[str]:
    """The words of the first command of a shell line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word and set(word) <= set("|&;<>()"):
            break
        words.append(word)
    return words
