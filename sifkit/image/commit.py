"""An overlay committed: a base with the changes over it, as a new image that needs no overlay.

Into a SIF image go definition, labels and whatever else describes the base, and an account of what it was made of:
a JSON object named `PROVENANCE`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from overlay import newfile
from overlay.failure import Failure
from overlay.locks import lock
from overlay.section import Section
from sifkit import sif
from sifkit.image import convert, target
from sifkit.sif import DataType, Descriptor, FsType, NewObject, PartType

if TYPE_CHECKING:
    from overlay.tree.loss import Report
    from overlay.tree.view import Tree

PROVENANCE: Final = "sifkit-commit.json"
SIF: Final = "SIF"
_PIECE: Final = 1 << 20
_GO: Final = {
    "x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x",
    "riscv64": "riscv64", "loongarch64": "loong64",
}  # fmt: skip


class Base(NamedTuple):
    """``tree``: its root with the overlays embedded in it. ``section``: the bytes of the root, None of a directory.

    ``sif``: the image file, "" when it is none; ``overlays``: the IDs of those embedded overlays.
    """

    reference: str
    tree: Tree
    section: Section | None
    sif: str = ""
    overlays: tuple[int, ...] = ()


@contextlib.contextmanager
def opened(reference: str, changes: target.Target | None) -> Iterator[Base]:
    """The base IMAGE to read, locked for reading if it is a file; ``changes`` is the overlay to be committed.

    Overlays in a SIF image belong to it, as runs see it, but for ``changes`` itself.
    """
    from overlay.tree.merged import MergedTree

    with contextlib.ExitStack() as stack:
        tree = target.base(reference)
        stack.callback(lambda: tree.close())
        path = reference if os.path.lexists(reference) else reference.rpartition("#")[0]
        if not sif.is_sif(path) if os.path.isfile(path) else True:
            section = None
            if os.path.isfile(path):
                section = Section(path, 0, os.stat(path).st_size)
                stack.enter_context(lock.acquire(section, exclusive=False))
            yield Base(reference, tree, section)
            return
        with sif.open(path) as image:
            root = _root(image, reference, path)
            ids = tuple(d.id for d in _embedded(image, root) if not _same(changes, path, d))
        section = Section(path, root.offset, root.size)
        stack.enter_context(lock.acquire(section, exclusive=False))
        for number in ids:
            found = target.resolve(f"{path}#{number}")
            stack.enter_context(lock.acquire(found.section, exclusive=False))
            tree = MergedTree(tree, target.layer(found))
        yield Base(reference, tree, section, path, ids)


def _root(image: sif.Image, reference: str, path: str) -> Descriptor:
    number = "" if reference == path else reference.rpartition("#")[2]
    found = image.one(sif.by_id(int(number))) if number else image.primary
    assert found is not None  # or target.base would have failed
    return found


def _embedded(image: sif.Image, root: Descriptor) -> list[Descriptor]:
    """Overlay partitions of the root's group, the lowest first."""
    found = [
        d for d in image.objects
        if d.partition and d.partition.part == PartType.OVERLAY and d.group_id == root.group_id and root.group_id
    ]  # fmt: skip
    return sorted(found, key=lambda d: d.id)


def _same(changes: target.Target | None, path: str, d: Descriptor) -> bool:
    return changes is not None and changes.partition == d.id and os.path.samefile(changes.path, path)


class Wish(NamedTuple):
    """The new image: its ``path``, ``kind`` and how it is compressed; ``command``: the words that ask for it."""

    path: str
    kind: str
    compress: str
    keep_owners: bool
    command: Sequence[str]


class Made(NamedTuple):
    """``size`` in bytes, None of a directory; ``dropped``: what of the base's objects is not in the new image."""

    size: int | None
    dropped: tuple[str, ...] = ()


def commit(base: Base, layer: Tree, name: str, wish: Wish, report: Report) -> Made:
    """Write ``base`` with ``layer``, the overlay called ``name``, over it as a new image.

    Raises FileExistsError and other OSError, `Failure`, and what the trees raise.
    """
    from overlay.tree.merged import MergedTree

    path, kind, compress, keep_owners, command = wish
    merged = MergedTree(base.tree, layer, keep_owners=keep_owners)
    if kind == SIF:
        told = _provenance(base, layer, name, command)
        return _write_sif(base, merged, told, path, report, compress)
    if kind == convert.SQUASHFS:
        return Made(convert.write_squash(merged, path, report, compress=compress))
    if kind == convert.TAR:
        return Made(convert.write_archive(merged, path, report))
    from overlay.remove import remove
    from overlay.tree.write import write_directory

    with newfile.new_directory(path, remove) as fresh:
        os.chmod(fresh, 0o700)  # until it is complete, when it gets the root's mode
        write_directory(merged, fresh, report)
    return Made(None)


def _write_sif(base: Base, merged: Tree, told: Any, path: str, report: Report, compress: str) -> Made:
    with convert.scratch_file(path) as fd:
        os.ftruncate(fd, convert.fill_squash(merged, fd, report, compress=compress))
        os.lseek(fd, 0, os.SEEK_SET)
        kept, dropped, arch, launch = _described(base)
        account = json.dumps(told, indent=2).encode() + b"\n"
        kept.append(NewObject(DataType.GENERIC_JSON, account, PROVENANCE))
        root = sif.partition(fd, FsType.SQUASHFS, PartType.PRIMARY, arch)
        sif.create(path, [*kept, root], launch=launch)
    return Made(os.stat(path).st_size, dropped)


def _described(base: Base) -> tuple[list[NewObject], tuple[str, ...], str | bytes, str]:
    """Objects that describe the base; what is dropped, in words; architecture; launch script."""
    if not base.sif:
        return [], (), _GO.get(os.uname().machine, "unknown"), sif.LAUNCH_SCRIPT
    kept, dropped = [], []
    with sif.open(base.sif) as image:
        assert base.section is not None
        arch: str | bytes = image.header.arch
        for d in sorted(image.objects, key=lambda d: d.id):
            if d.partition:
                if d.offset == base.section.offset:
                    arch = d.partition.arch
                elif d.partition.part != PartType.OVERLAY:
                    dropped.append(f"object {d.id} ({sif.part_text(d.partition.part)} partition)")
                continue
            if d.data_type in (DataType.SIGNATURE, DataType.CRYPTO_MESSAGE):
                dropped.append(f"object {d.id} ({sif.data_type_text(d.data_type)})")
                continue
            with image.view(d) as view:
                data = view.read()
            kept.append(NewObject(d.data_type, data, d.name_text, d.group_id, created=d.created, extra=d.extra))
        launch = image.header.launch.split(b"\0", 1)[0].decode("latin-1")
    return kept, tuple(dropped), arch, launch


def _provenance(base: Base, layer: Tree, name: str, command: Sequence[str]) -> dict[str, Any]:
    return {
        "sifkit-commit": 1,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": list(command),
        "base": {
            "image": os.path.abspath(base.reference),
            "digest": _digest(base.section) if base.section else layer_digest(base.tree),
            "digest-of": "root file system" if base.section else "archive",
            **({"overlays": list(base.overlays)} if base.overlays else {}),
        },
        "overlay": {"target": os.path.abspath(name), "digest": layer_digest(layer), "digest-of": "archive"},
    }


def _digest(section: Section) -> str:
    state = hashlib.sha256()
    with open(section.path, "rb") as file:
        at, end = section.offset, section.offset + section.size
        while at < end and (piece := os.pread(file.fileno(), min(_PIECE, end - at), at)):
            state.update(piece)
            at += len(piece)
    return f"sha256:{state.hexdigest()}"


class _Hash:
    """A stream that keeps nothing but the digest of what was written to it."""

    def __init__(self) -> None:
        self.state = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.state.update(data)
        return len(data)


def layer_digest(layer: Tree) -> str:
    """The digest of what `sifkit overlay export` writes of ``layer``: the same whatever kind of overlay holds it."""
    from overlay.tree.spelled import FILES, SpelledTree
    from overlay.tree.write_tar import write_tar

    sink: Any = _Hash()
    write_tar(SpelledTree(layer, FILES), sink, lambda *_: None)
    return f"sha256:{sink.state.hexdigest()}"


def require_other(path: str, base: str) -> None:
    """`Failure` when the new image would lie inside its own base."""
    if os.path.isdir(base) and os.path.realpath(path).startswith(os.path.realpath(base) + "/"):
        raise Failure(f"cannot make {path}", f"it would lie inside {base}, of which it is to be made")
