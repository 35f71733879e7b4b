"""The lines of docs/design.md: who may import whom, where each danger lives, what a start may load."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from probes import needs
from sif_parts import make_sif
from sources import Import, Source, imports, inside, modules

CTYPES = {"overlay.linux", "overlay.linux_file", "overlay.libext2fs", "overlay.squash.liblz4", "sifkit.runtime.linux"}
SPAWN_MODULES = ("subprocess", "pty", "multiprocessing", "asyncio", "concurrent.futures")
SPAWN_CALLS = ("system", "popen", "posix_spawn", "posix_spawnp", "spawnv", "spawnvp", "spawnl", "spawnlp")

MOST_LINES = 300
LONGER: dict[str, str] = {}  # path -> why it is one file all the same


def offenders(found: Iterable[Import]) -> list[str]:
    return [f"{entry.where}: {entry.importer} imports {entry.imported}" for entry in found]


def test_overlay_knows_only_the_standard_library() -> None:
    allowed = set(sys.stdlib_module_names) | {"overlay", "_typeshed"}
    assert not offenders(
        entry
        for entry in imports()
        if inside(entry.importer, "overlay") and entry.imported.split(".")[0] not in allowed
    )


@pytest.mark.parametrize(
    ("library", "home"),
    [("click", "sifkit.cli"), ("rich", "sifkit.cli"), ("construct", "sifkit.sif"), ("zstandard", "sifkit.image")],
)
def test_a_library_has_one_home(library: str, home: str) -> None:
    assert not offenders(
        entry for entry in imports() if inside(entry.imported, library) and not inside(entry.importer, home)
    )


def test_nothing_else_is_imported() -> None:
    known = set(sys.stdlib_module_names) | {"overlay", "sifkit", "click", "rich", "construct", "zstandard", "_typeshed"}
    assert not offenders(entry for entry in imports() if entry.imported.split(".")[0] not in known)


# importer -> what of ours it may import, besides itself.
DIRECTION = {
    "sifkit.sif": (),
    "sifkit.runtime": ("overlay",),
    "sifkit.cvmfs": ("overlay",),
    "sifkit.oci": ("overlay",),
    "sifkit.image": ("overlay", "sifkit.sif", "sifkit.cvmfs", "sifkit.oci"),
    "sifkit.cli": ("overlay", "sifkit.image", "sifkit.runtime", "sifkit.sif", "sifkit.__version__"),
}


@pytest.mark.parametrize("importer", DIRECTION)
def test_imports_run_one_way(importer: str) -> None:
    allowed = (importer, *DIRECTION[importer])
    assert not offenders(
        entry
        for entry in imports()
        if inside(entry.importer, importer)
        and entry.imported.split(".")[0] in ("overlay", "sifkit")
        and not any(inside(entry.imported, name) for name in allowed)
    )


def test_no_two_modules_need_each_other() -> None:
    """Neither when loaded, nor in a function, nor for a type: what two of them share has a module of its own."""
    rooms = {source.name for source in modules() if not source.path.endswith("__init__.py")}
    needs: dict[str, set[str]] = {name: set() for name in rooms}
    for entry in imports():
        there = entry.imported if entry.imported in rooms else entry.imported.rpartition(".")[0]
        if entry.importer in rooms and there in rooms:
            needs[entry.importer].add(there)
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_commands_load_sif_when_they_need_it() -> None:
    assert not offenders(
        entry
        for entry in imports()
        if inside(entry.importer, "sifkit.cli")
        and not entry.importer.startswith("sifkit.cli.sif")
        and inside(entry.imported, "sifkit.sif")
        and entry.at_load
    )


def test_every_module_has_its_place() -> None:
    known = ("overlay", *DIRECTION)
    strangers = [
        source.path
        for source in modules()
        if source.name not in ("sifkit", "sifkit.__main__")
        and not any(inside(source.name, package) for package in known)
    ]
    assert not strangers


def test_ctypes_has_its_homes() -> None:
    assert not offenders(
        entry for entry in imports() if inside(entry.imported, "ctypes") and entry.importer not in CTYPES
    )


def test_programs_are_run_in_one_place() -> None:
    found = offenders(
        entry
        for entry in imports()
        if any(inside(entry.imported, name) for name in SPAWN_MODULES) and entry.importer != "overlay.tools"
    )
    found += [where for source in modules() if source.name != "overlay.tools" for where in spawns(source)]
    assert not found


def spawns(source: Source) -> list[str]:
    return [
        f"{source.at(node)}: os.{node.attr}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and node.attr in SPAWN_CALLS
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]


def test_files_are_short() -> None:
    assert not [
        f"{source.path}: {lines} lines"
        for source in modules()
        if (lines := source.text.count("\n")) > MOST_LINES and source.path not in LONGER
    ]


def test_names_say_something() -> None:
    empty = re.compile(r"(^|_)(utils?|common|helpers?|manager|misc)(_|$)")
    assert not [source.path for source in modules() if empty.search(source.name.rpartition(".")[2])]


# -- what a start loads --------------------------------------------------------------------------------

SLOW = (
    *(
        "click",
        "typing",
        "re",
        "construct",
        "rich",
        "subprocess",
        "json",
        "inspect",
        "pathlib",
        "email",
        "importlib.metadata",
    ),
    *("dataclasses", "argparse", "tempfile", "logging", "socket", "ssl", "asyncio", "unittest", "tomllib"),
)
START = "import sys; from sifkit.cli.main import main; sys.exit(main())"


def loaded(*argv: str, home: Path) -> set[str]:
    """The modules that Python loads for ``argv``, in every process of it."""
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", *argv],
        capture_output=True,
        text=True,
        timeout=60,
        # A configuration file is read with what reading it takes; here there is none.
        env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home)},
        cwd=home,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.parametrize(
    "options",
    [
        ["--dry-run"],
        pytest.param([], marks=needs("userns")),
        pytest.param(["--overlay", "changes"], marks=needs("userns", "overlayfs")),
        pytest.param(["--writable-tmpfs"], marks=needs("userns", "overlayfs")),
    ],
    ids=" ".join,
)
def test_exec_of_a_directory_loads_nothing_slow(tmp_path: Path, rootfs: Path, options: list[str]) -> None:
    (tmp_path / "changes").mkdir()
    ours = loaded("-c", START, "exec", *options, str(rootfs), "true", home=tmp_path)
    assert not [name for name in SLOW if name in ours]


@needs("userns", "squashfuse")
def test_exec_of_a_sif_image_loads_nothing_slow(tmp_path: Path, rootfs_squash: Path) -> None:
    image = make_sif(tmp_path / "image.sif", rootfs_squash)
    loaded("-c", START, "exec", str(image), "true", home=tmp_path)  # the first start asks helpers what they can do
    ours = loaded("-c", START, "exec", str(image), "true", home=tmp_path)
    assert not [name for name in SLOW if name in ours]


def test_a_look_into_a_sif_image_loads_no_click(tmp_path: Path, rootfs_squash: Path) -> None:
    image = make_sif(tmp_path / "image.sif", rootfs_squash)
    assert "click" not in loaded("-c", START, "sif", "list", str(image), home=tmp_path)
    ours = loaded("-c", START, "sif", "dump", "1", str(image), "-o", "out", home=tmp_path)
    assert not [name for name in SLOW if name in ours]


def test_a_start_makes_no_records_of_typings() -> None:
    """`overlay.records.NamedTuple` costs a tenth; these modules are loaded by every run."""
    script = (
        "import typing; made = []; new = typing.NamedTupleMeta.__new__\n"
        "typing.NamedTupleMeta.__new__ = staticmethod(lambda *a, **k: (made.append(a[1]), new(*a, **k))[1])\n"
        "import sifkit.cli.exec_cmd, sifkit.cli.request, sifkit.runtime.container\n"
        "print(*made)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
