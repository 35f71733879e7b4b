"""Layers over a base: what is in them, and when they are made anew."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from layers import Said, Setting, grow
from probes import needs, only_root

from overlay import deep
from overlay.metalayer import cache as metalayer_cache
from overlay.metalayer import layers as metalayer
from overlay.metalayer import walk as metalayer_walk
from overlay.metalayer.layers import Asked, Unavailable
from overlay.metalayer.node import Node

pytestmark = needs("xattr")


def marks(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def test_a_file_has_its_metadata_and_the_way_to_its_content(setting: Setting) -> None:
    layer = Path(setting.obtain().tree)
    made, real = os.stat(layer / "usr/bin/tool"), os.stat(setting.base / "usr/bin/tool")
    assert (made.st_size, made.st_mode, made.st_mtime_ns) == (real.st_size, real.st_mode, real.st_mtime_ns)
    assert made.st_uid == os.geteuid()
    assert marks(layer / "usr/bin/tool") == {"user.overlay.metacopy": b"", "user.overlay.redirect": b"/usr/bin/tool"}
    assert (layer / "usr/bin/tool").read_bytes().strip(b"\0") == b""


def test_the_awkward_tree_is_all_there(cache: Path, awkward: Path) -> None:
    layer = Path(Setting(awkward, Said()).obtain().tree)
    there = [os.path.relpath(os.path.join(here, name), awkward) for here, directories, files in os.walk(awkward)
             for name in (*directories, *files)]  # fmt: skip
    assert len(there) > 80
    for path in there:
        real, made = os.lstat(awkward / path), os.lstat(layer / path)
        for field in ("st_mode", "st_size", "st_mtime_ns", "st_nlink"):
            if not (stat.S_ISDIR(real.st_mode) and field in ("st_size", "st_nlink")):
                assert getattr(made, field) == getattr(real, field), (path, field)
        if stat.S_ISLNK(real.st_mode):
            assert os.readlink(layer / path) == os.readlink(awkward / path)
    assert os.path.samefile(layer / "links/target", layer / "links/hard")
    assert os.getxattr(layer / "kinds/empty", "user.color") == b"blue\0green"


def test_a_directory_layer_has_directories_alone(setting: Setting) -> None:
    layer = setting.obtain(kind="directory")
    names = {os.path.relpath(os.path.join(here, name), layer.tree)
             for here, directories, files in os.walk(layer.tree) for name in directories + files}  # fmt: skip
    assert names == {"etc", "usr", "usr/bin"}


@only_root
def test_root_keeps_the_owners(setting: Setting) -> None:
    os.chown(setting.base / "etc/passwd", 12, 34)
    made = os.stat(Path(setting.obtain(owners=True).tree) / "etc/passwd")
    assert (made.st_uid, made.st_gid) == (12, 34)


def test_paths_longer_than_the_kernel_takes(setting: Setting) -> None:
    """Their redirects could not be looked up, so what is behind them is copied."""
    here = os.open(setting.base, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    with open(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=here), "w") as file:
        file.write("deep\n")
    os.close(here)
    layer = setting.obtain()
    top = os.open(layer.tree, os.O_RDONLY)
    path = b"/".join([b"d" * 200] * 25) + b"/bottom"
    with open(deep.open_below(top, path, os.O_RDONLY)) as file:
        assert file.read() == "deep\n"
    os.close(top)
    assert setting.obtain().record == layer.record
    assert setting.said.made == 1
    metalayer_cache.clean()
    assert not os.path.exists(layer.path)
    deep.remove(str(setting.base))


def test_threads_see_what_one_sees(awkward: Path) -> None:
    one = sorted(metalayer_walk.Walk(str(awkward)))
    assert sorted(metalayer_walk.Walk(str(awkward), threads=8)) == one


def test_a_thread_that_fails_is_heard(awkward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "readlink", lambda *_, **__: os.open("/no/such/file", 0))
    with pytest.raises(FileNotFoundError):
        list(metalayer_walk.Walk(str(awkward), threads=4))


def test_nodes_may_come_from_a_catalog(setting: Setting) -> None:
    """No file of the base is looked at: these do not exist."""
    base = metalayer.base_of(str(setting.base))._replace(key=b"catalog")
    nodes = [
        Node(b"", 0o40755, 0, 0, 0, 10**18),
        Node(b"lib", 0o40700, 0, 0, 0, 2 * 10**18),
        Node(b"lib/libc.so", 0o100755, 0, 0, 1 << 40, 5, links=2, inode=7),
        Node(b"lib/libc.so.6", 0o100755, 0, 0, 1 << 40, 5, links=2, inode=7),
        Node(b"lib64", 0o120777, 0, 0, 3, 6, target=b"lib"),
        Node(b"null", 0o20666, 0, 0, 0, 7, device=os.makedev(1, 3)),
        Node(b"whiteout", 0o20000, 0, 0, 0, 7, device=0),
    ]
    asked = Asked("metadata")
    metalayer_cache.prepare()
    made = metalayer.build(base, asked, nodes, lambda n: None, lambda t: None, fingerprint=False, unreadable=[])
    made.release()
    found = metalayer.find(base, asked, setting.said)
    assert found is not None
    found.release()
    tree = Path(found.tree)
    assert os.stat(tree / "lib/libc.so.6").st_size == 1 << 40
    assert os.stat(tree / "lib/libc.so.6").st_nlink == 2
    assert os.readlink(tree / "lib64") == "lib"
    assert os.stat(tree / "lib").st_mtime_ns == 2 * 10**18
    left_out = (b"null", b"whiteout") if os.geteuid() else (b"whiteout",)
    assert found.record.left_out == left_out
    assert os.path.lexists(tree / "null") == (b"null" not in left_out)


# -- when it is made anew ------------------------------------------------------------------------------


def test_it_is_made_once(setting: Setting) -> None:
    first = setting.obtain()
    assert (setting.obtain().path, setting.said.made, setting.said.warnings) == (first.path, 1, [])


CHANGES: dict[str, Callable[[Path], None]] = {
    "size": grow,
    "content": lambda base: (base / "etc/passwd").write_text("ROOT:x:0:0\n"),  # type: ignore[dict-item, return-value]
    "mode": lambda base: (base / "etc/passwd").chmod(0o600),
    "added": lambda base: (base / "usr/bin/new").touch(),
    "removed": lambda base: (base / "usr/bin/tool").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_base_gets_a_new_layer(setting: Setting, change: str) -> None:
    setting.obtain()
    CHANGES[change](setting.base)
    layer = setting.obtain()
    assert setting.said.made == 2
    assert "has changed" in setting.said.warnings[0]
    for path in ("etc/passwd", "usr/bin/new", "usr/bin/tool"):
        made, real = Path(layer.tree) / path, setting.base / path
        assert made.exists() == real.exists()
        assert not real.exists() or made.stat().st_size == real.stat().st_size
    setting.obtain()
    assert setting.said.made == 2


def test_a_directory_layer_stands_changed_files(setting: Setting) -> None:
    setting.obtain(kind="directory")
    grow(setting.base)
    setting.obtain(kind="directory")
    assert setting.said.made == 1
    (setting.base / "usr/lib").mkdir()
    assert (Path(setting.obtain(kind="directory").tree) / "usr/lib").is_dir()
    assert setting.said.made == 2


def test_a_large_tree_that_nothing_identifies_is_refused(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metalayer, "MOST_WALKED", 3)
    with pytest.raises(Unavailable, match="more than 3 entries"):
        setting.obtain()
    setting.obtain(kind="directory")
    monkeypatch.setattr(metalayer, "_walk", None)  # known to be large: it is not walked again
    with pytest.raises(Unavailable, match="more than 3 entries"):
        setting.obtain()
    monkeypatch.undo()
