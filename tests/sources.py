"""Our sources as syntax trees, for the tests that hold the architecture and the style."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("overlay", "sifkit")


class Source(NamedTuple):
    """One module: its dotted name, path below the checkout, text and tree."""

    name: str
    path: str
    text: str
    tree: ast.Module

    def at(self, node: ast.stmt | ast.expr | ast.ExceptHandler) -> str:
        """Where ``node`` is, for a message."""
        return f"{self.path}:{node.lineno}"


class Import(NamedTuple):
    """One imported name: what, where, and whether it happens when the module is loaded."""

    importer: str
    imported: str
    where: str
    at_load: bool


@functools.cache
def modules() -> tuple[Source, ...]:
    """Every module of both packages."""
    return tuple(_read(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))


def _read(path: Path) -> Source:
    relative = path.relative_to(ROOT)
    parts = relative.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = path.read_text()
    return Source(name, str(relative), text, ast.parse(text, str(relative)))


@functools.cache
def imports() -> tuple[Import, ...]:
    """Every import statement, one entry for each name; ``from a import b`` gives ``a.b``."""
    return tuple(entry for source in modules() for entry in _imports_of(source))


def _imports_of(source: Source) -> Iterator[Import]:
    at_load = set(_statements_at_load(source.tree))
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(source, node)
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(source.name, name, source.at(node), node in at_load)


def _origin(source: Source, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    is_package = source.path.endswith("__init__.py")
    parts = source.name.split(".")
    base = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*base, node.module] if node.module else base)


def _statements_at_load(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is loaded: not the bodies of functions, not what only a type checker reads."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _statements_at_load(child)


def inside(name: str, package: str) -> bool:
    """Whether the dotted ``name`` is ``package`` or lies in it."""
    return name == package or name.startswith(package + ".")


def texts() -> Iterator[tuple[str, str]]:
    """Path and content of every text file of the checkout."""
    skipped = {".git", ".venv", ".demo", ".hypothesis", "build", "__pycache__"}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if skipped.intersection(parts) or any(part.endswith(("_cache", ".egg-info")) for part in parts):
            continue
        if not path.is_file() or path.is_symlink():
            continue
        try:
            yield str(path.relative_to(ROOT)), path.read_text()
        except UnicodeDecodeError:  # an image
            continue
