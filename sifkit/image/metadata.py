"""What an image says about itself: labels, environment, scripts, help, definition; and of its SCIF apps.

Read from the image's files without running anything, so also for images of other processors. Files and their
places: Apptainer's ``/.singularity.d`` and https://sci-f.github.io (``/scif/apps/NAME/scif``).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from overlay.failure import Failure

if TYPE_CHECKING:
    from overlay.tree.view import Entry, Tree

OF_IMAGE: Final = b"/.singularity.d"
APPS: Final = b"/scif/apps"
# What Apptainer's builder puts into every image; it says nothing about this one.
_BOILERPLATE: Final = frozenset({b"01-base.sh", b"94-appsbase.sh", b"95-apps.sh", b"99-base.sh", b"99-runtimevars.sh"})
_MOST_LINKS: Final = 40  # MAXSYMLINKS of the kernel
_MOST_BYTES: Final = 16 << 20


class Metadata(NamedTuple):
    """``environment``: scripts by their path, in the order in which they are sourced. "" is what there is not."""

    labels: dict[str, str]
    environment: dict[str, str]
    runscript: str
    startscript: str
    test: str
    helpfile: str
    deffile: str


def of_image(tree: Tree) -> Metadata:
    """What the image ``tree`` says about itself. Raises as `Tree` does; `Failure` for labels that are no JSON."""
    return _read(tree, OF_IMAGE)


def of_app(tree: Tree, name: str) -> Metadata:
    """The same of the app ``name``; `Failure` (status 1) when the image has none of that name."""
    directory = APPS + b"/" + name.encode("utf-8", "surrogateescape")
    if name not in apps(tree):
        known = ", ".join(apps(tree))
        hint = f"its apps are: {known}" if known else "it has no apps"
        raise Failure(f"no app {name}", f"there is no {APPS.decode()}/{name} in the image", hint, exit_code=1)
    return _read(tree, directory + b"/scif")


def apps(tree: Tree) -> tuple[str, ...]:
    """Names of the image's SCIF apps."""
    found = follow(tree, APPS)
    if found is None or not found.is_directory:
        return ()
    return tuple(e.name.decode("utf-8", "surrogateescape") for e in tree.listdir(found) if e.is_directory)


def programs(tree: Tree) -> tuple[str, ...]:
    """Names of what can be executed along the usual PATH of the image."""
    found = set()
    for directory in (b"/usr/local/bin", b"/usr/bin", b"/bin", b"/usr/sbin", b"/sbin", b"/usr/local/sbin"):
        entry = follow(tree, directory)
        if entry is not None and entry.is_directory:
            found |= {e.name for e in tree.listdir(entry) if e.is_symlink or (e.is_file and e.mode & 0o111)}
    return tuple(sorted(name.decode("utf-8", "surrogateescape") for name in found))


def _read(tree: Tree, directory: bytes) -> Metadata:
    def text(name: bytes) -> str:
        return _text(tree, directory + b"/" + name)

    return Metadata(
        labels=_labels(text(b"labels.json"), directory),
        environment=_environment(tree, directory + b"/env"),
        runscript=text(b"runscript"),
        startscript=text(b"startscript"),
        test=text(b"test"),
        helpfile=text(b"runscript.help"),
        deffile=text(b"Singularity"),
    )


def _environment(tree: Tree, directory: bytes) -> dict[str, str]:
    found = follow(tree, directory)
    if found is None or not found.is_directory:
        return {}
    names = [entry.name for entry in tree.listdir(found) if entry.name.endswith(b".sh")]
    paths = [directory + b"/" + name for name in names if name not in _BOILERPLATE]
    return {path.decode("utf-8", "surrogateescape"): _text(tree, path) for path in paths}


def _labels(text: str, directory: bytes) -> dict[str, str]:
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Failure(f"cannot read {directory.decode()}/labels.json of the image", f"it is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise Failure(f"cannot read {directory.decode()}/labels.json of the image", "it is not a JSON object")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}


def _text(tree: Tree, path: bytes) -> str:
    entry = follow(tree, path)
    if entry is None or not entry.is_file:
        return ""
    if entry.size > _MOST_BYTES:
        raise Failure(f"cannot read {path.decode()} of the image", f"it has {entry.size} bytes: that is no script")
    with tree.open(entry) as stream:
        return stream.read().decode("utf-8", "surrogateescape")


def follow(tree: Tree, path: bytes) -> Entry | None:
    """What is at ``path`` of ``tree``, with its links followed inside it; None when nothing is, or a loop."""
    waiting = [part for part in reversed(path.split(b"/")) if part]
    reached: list[Entry] = [tree.top]
    links = 0
    while waiting:
        name = waiting.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            del reached[max(1, len(reached) - 1) :]
            continue
        here = reached[-1]
        if not here.is_directory:
            return None
        found = next((entry for entry in tree.listdir(here) if entry.name == name), None)
        if found is None:
            return None
        if not found.is_symlink:
            reached.append(found)
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        target = tree.readlink(found)
        if target.startswith(b"/"):
            del reached[1:]
        waiting += reversed(target.split(b"/"))
    return reached[-1]
