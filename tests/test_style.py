"""What ruff cannot hold of the style of this code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sources import ROOT, Source, modules, texts


def test_nothing_is_swallowed_without_a_reason() -> None:
    silent = (where for source in modules() for where in swallowed(source))
    assert not list(silent)


def swallowed(source: Source) -> Iterator[str]:
    """Handlers of OSError, Exception or everything that do nothing, and do not say why."""
    lines = source.text.splitlines()
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler) or not is_wide(node.type):
            continue
        last = node.body[-1]
        block = lines[node.lineno - 1 : (last.end_lineno or last.lineno)]
        if all(isinstance(each, ast.Pass) for each in node.body) and not any("#" in line for line in block):
            yield source.at(node)


def is_wide(caught: ast.expr | None) -> bool:
    wide = ("OSError", "IOError", "EnvironmentError", "Exception", "BaseException")
    return caught is None or any(isinstance(n, ast.Name) and n.id in wide for n in ast.walk(caught))


# Name of a call -> position of its mode when called on os, and when called on a path.
MODES = {
    "chmod": (1, 0),
    "fchmod": (1, None),
    "lchmod": (1, 0),
    "mkdir": (1, 0),
    "makedirs": (1, None),
    "mkfifo": (1, None),
    "mknod": (1, None),
    "umask": (0, None),
    "open": (2, None),
    "touch": (None, 0),
}


def test_modes_are_octal() -> None:
    assert not [where for source in modules() for where in decimal_modes(source)]


def decimal_modes(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr not in MODES:
            continue
        on_os = isinstance(node.func.value, ast.Name) and node.func.value.id == "os"
        position = MODES[node.func.attr][0 if on_os else 1]
        given = [keyword.value for keyword in node.keywords if keyword.arg == "mode"]
        if position is not None:
            given += node.args[position : position + 1]
        for mode in given:
            written = ast.get_source_segment(source.text, mode) or ""
            if re.search(r"(?<![\w.])[1-9]\d*(?![\w.])", written):
                yield f"{source.at(node)}: {written}"


def test_public_functions_say_what_they_do() -> None:
    assert not [where for source in modules() for where in undocumented(source)]


def undocumented(source: Source) -> Iterator[str]:
    if source.text.strip() and ast.get_docstring(source.tree) is None:
        yield f"{source.path}: the module"
    for node in source.tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{source.at(node)}: {node.name}"


def test_the_documents_are_there() -> None:
    wanted = ("README.md", "NEWS.md", "LICENSE", "docs/design.md", "docs/hacking.md", "docs/debugging.md")
    assert not [name for name in wanted if not (ROOT / name).is_file()]


# Written so that this file does not find itself.
MACHINE = re.compile(r"/wo[r]k/|/ro[o]t/\.|/home/(?!USER\b|sifkit-test\b)[a-z]+\w*/\.?(venv|src|git)|\bpy[p]i\.org"
                     r"|pythonho[s]ted|debian\.or[g]/debian")  # fmt: skip


def test_no_machine_is_named() -> None:
    assert not [f"{path}: {match.group()}" for path, text in texts() for match in [MACHINE.search(text)] if match]


def test_no_bytecode_is_committed() -> None:
    assert not list(Path(ROOT / "testdata").rglob("*.pyc"))
