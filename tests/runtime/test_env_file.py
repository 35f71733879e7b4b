"""Files of --env-file."""

from __future__ import annotations

import pytest

from sifkit.runtime.env_file import parse, plain

HOST = {"HOSTS": "of the host", "ODD": r"a\b$c`d"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# comment\n\n  # more\n", []),
        ("A=1", [("A", "1")]),
        ("A=1\nB=2\n", [("A", "1"), ("B", "2")]),
        ("export A=1\n  B=2\n", [("A", "1"), ("B", "2")]),
        ("A=\nB=", [("A", ""), ("B", "")]),
        ("A=two words \nB=#no comment", [("A", "two words"), ("B", "#no comment")]),
        ("A='two  '  \nB=x 'y'", [("A", "two  "), ("B", "x y")]),
        ("A=\"a\nb\"\nB='c\nd'", [("A", "a\nb"), ("B", "c\nd")]),
        ("A=pre'in $X'\"side\"", [("A", "prein $Xside")]),
        ("A=1\nB=${A}2$A", [("A", "1"), ("B", "121")]),
        ("A=$HOSTS", [("A", "of the host")]),
        ("A=$NO_SUCH-", [("A", "-")]),
        ('A=\\$PATH:/x\nB="\\$PATH"\nC=$A', [("A", "$PATH:/x"), ("B", "$PATH"), ("C", "$PATH:/x")]),
        (r"A=a\\b\"c", [("A", r"a\b\"c".replace('\\"', '"'))]),
        (r'A="a\nb\\"', [("A", "a\\nb\\")]),
        ("A=a\\\nb", [("A", "ab")]),
        ("A=$ $1", [("A", "$ $1")]),
        ("A=1\nA=2", [("A", "1"), ("A", "2")]),
        ("A=b=c", [("A", "b=c")]),
    ],
)
def test_lines(text: str, expected: list[tuple[str, str]]) -> None:
    assert parse(text, HOST) == expected


def test_the_hosts_values_are_not_evaluated_later() -> None:
    assert parse("A=$ODD", HOST) == [("A", r"a\\b\$c\`d")]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("A=1\nnonsense\n", "line 2"),
        ("A-B=1", "line 1"),
        ("1A=1", "line 1"),
        ("A='x\ny", "line 1"),
        ("\nA=$(id)", "line 2"),
        ("A=`id`", "line 1"),
        ("=x", "line 1"),
    ],
)
def test_mistakes_are_named(text: str, where: str) -> None:
    with pytest.raises(ValueError, match=where):
        parse(text, HOST)


def test_without_evaluation_every_line_is_as_it_is() -> None:
    text = "# c\nA='x' $HOSTS \\$y\nexport B=\n"
    assert plain(text) == [("A", "'x' $HOSTS \\$y"), ("B", "")]
    with pytest.raises(ValueError, match="line 1"):
        plain("A-B=1")
