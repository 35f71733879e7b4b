"""An edit of an image that is killed at each of its calls: the old or the new is there, whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from overlay import e2fsprogs
from overlay.extwrite.sink import ExtSink
from overlay.locks import lock
from overlay.manage import edit
from overlay.section import Section
from overlay.tree.copy import Copier, Marks
from overlay.tree.view import DirectoryTree
from sifkit import sif
from sifkit.cli.commands import cli
from sifkit.image.target import layer, resolve


def killed_at(work: Callable[[], None], last: int) -> bool:
    """Whether a child was killed at its call number ``last`` that changes a file; False: it was done before."""
    child = os.fork()
    if child == 0:
        status = 3
        try:
            with pytest.MonkeyPatch.context() as patch:
                left = iter(range(last))
                for name in ("pwrite", "rename", "unlink", "fsync"):
                    patch.setattr(os, name, _around(getattr(os, name), left))
                work()
            status = 0
        finally:
            os._exit(status)
    found = os.waitpid(child, 0)[1]
    assert found in (0, signal.SIGKILL)
    return found != 0


def _around(function: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    def called(*args: Any, **options: Any) -> Any:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)

    return called


@pytest.mark.parametrize("kind", ["ext3", "sif"])
def test_killed_anywhere_the_old_or_the_new_is_there(tmp_path: Path, awkward: Path, kind: str) -> None:
    """Also when the next sifkit, which takes back what was cut off, is killed in turn."""
    template = tmp_path / f"o.{kind}"
    if kind == "sif":
        sif.create(template, [sif.partition(b"root", sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64")])
    run = CliRunner().invoke
    for words in (("create", "--sparse"), ("cp", str(awkward / "names"))):
        assert run(cli, ["overlay", *words, f"{template}{':/' if 'cp' in words else ''}"]).exit_code == 0
    place = tmp_path / "place"
    seen = set()
    last = -1
    alive = True
    while alive:
        last += 2
        place.mkdir()
        path = str(place / "o")
        subprocess.run(["cp", "--sparse=always", str(template), path], check=True)
        section = resolve(path).section

        def work(section: Section = section) -> None:
            with lock.acquire(section, exclusive=True), edit.editing(section, "") as writer:
                top = edit.upper(writer, "")
                writer.unlink(top, b"names")
                with DirectoryTree(str(awkward)) as tree:
                    sink = ExtSink(writer, top, lambda path, what: None)
                    Copier(tree, sink, Marks.REFUSE).copy_inside(tree.top, top, b"")

        alive = killed_at(work, last)
        if last % 2:
            killed_at(lambda section=section: edit.ready(section, ""), last // 4)  # type: ignore[misc]
        edit.ready(section, "")
        assert e2fsprogs.e2fsck(section, "-fn", write=False).status == 0, last
        with layer(resolve(path)) as tree:
            found = {entry.name for entry in tree.listdir(tree.top)}
        assert found in ({b"names"}, set(os.listdir(os.fsencode(awkward)))), last
        seen.add(len(found))
        assert os.listdir(place) == ["o"]
        shutil.rmtree(place)
    assert last > 12
    assert len(seen) == 2
