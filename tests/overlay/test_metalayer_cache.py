"""Layers that are never used, and several who make, use and remove them at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from layers import Setting, grow
from probes import needs, only_root, only_user

from overlay.metalayer import cache as metalayer_cache
from overlay.metalayer import layers as metalayer
from overlay.metalayer.layers import Asked, Unavailable
from overlay.metalayer.record import BadRecord, decode, encode

pytestmark = needs("xattr")


# -- what is never used --------------------------------------------------------------------------------


def swap(tree: Path) -> None:
    (tree / "etc/passwd").unlink()
    (tree / "etc/passwd").symlink_to("/etc/shadow")


def redirect(target: bytes) -> Callable[[Path], None]:
    return lambda tree: os.setxattr(tree / "etc/passwd", "user.overlay.redirect", target)


TAMPERING: dict[str, Callable[[Path], None]] = {
    "redirect": redirect(b"/etc/shadow"),
    "up": redirect(b"/../../../etc/shadow"),
    "another": redirect(b"/usr/bin/tool"),
    "size": lambda tree: os.truncate(tree / "etc/passwd", 3),
    "content": lambda tree: (tree / "etc/passwd").write_text("x"),  # type: ignore[dict-item, return-value]
    "link": swap,
    "gone": lambda tree: (tree / "usr/bin/tool").unlink(),
    "new": lambda tree: (tree / "usr/bin/evil").touch(),
    "mode": lambda tree: (tree / "usr").chmod(0o777),
}


@pytest.mark.parametrize("tampering", TAMPERING)
def test_a_layer_that_was_tampered_with_is_made_anew(setting: Setting, tampering: str) -> None:
    layer = setting.obtain()
    TAMPERING[tampering](Path(layer.tree))
    again = setting.obtain()
    assert setting.said.made == 2
    assert "changed from outside" in setting.said.warnings[0]
    assert os.getxattr(Path(again.tree) / "etc/passwd", "user.overlay.redirect") == b"/etc/passwd"
    assert os.listdir(metalayer_cache.place()).count(layer.name) == 1


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_damaged_record_is_not_believed(setting: Setting, cut: int) -> None:
    layer = setting.obtain()
    record = Path(layer.path, "record")
    record.write_bytes(record.read_bytes()[:cut])
    setting.obtain()
    assert (setting.said.made, "damaged" in setting.said.warnings[0]) == (2, True)


def test_a_record_is_read_as_it_was_written(setting: Setting) -> None:
    record = setting.obtain().record
    assert decode(encode(record)) == record
    with pytest.raises(BadRecord):
        decode(encode(record).replace(b"metadata", b"mutadata"))


def test_a_cache_that_others_may_write_into_is_not_used(setting: Setting, cache: Path) -> None:
    setting.obtain()
    cache.chmod(0o777)
    with pytest.raises(Unavailable, match="others may write"):
        setting.obtain()


def test_a_layer_that_others_may_write_into_is_made_anew(setting: Setting) -> None:
    Path(setting.obtain().path).chmod(0o770)
    setting.obtain()
    assert (setting.said.made, "others may write" in setting.said.warnings[0]) == (2, True)


@only_root
def test_a_layer_of_somebody_else_is_made_anew(setting: Setting) -> None:
    os.chown(setting.obtain().path, 12, 34)
    setting.obtain()
    assert (setting.said.made, "belongs to somebody else" in setting.said.warnings[0]) == (2, True)


def test_what_cannot_be_read_is_listed(setting: Setting) -> None:
    (setting.base / "private").mkdir(mode=0o000)
    (setting.base / "etc/shadow").touch(mode=0o000)
    layer = setting.obtain()
    (setting.base / "private").chmod(0o700)
    if os.geteuid() != 0:
        assert layer.record.unreadable == (b"etc/shadow", b"private")
        assert "/etc/shadow, /private" in metalayer.unreadable(layer)
    else:
        assert metalayer.unreadable(layer) == ""


# -- several at once -----------------------------------------------------------------------------------

BUILDER = """
import contextlib, os, sys
from overlay.metalayer import layers as metalayer, write as metalayer_write
class Says:
    def warning(self, text): print(text, flush=True)
    info = warning
    @contextlib.contextmanager
    def task(self, text):
        print("making", flush=True)
        if sys.argv[2] == "stop":
            add = metalayer_write._Writer.add
            def slow(self, node):
                if node.path == b"usr/bin/tool":
                    print("half", flush=True); sys.stdin.read()
                add(self, node)
            metalayer_write._Writer.add = slow
        yield lambda done: None
made = metalayer.obtain(metalayer.base_of(sys.argv[1]), metalayer.Asked("metadata"), Says(), lambda tree: None)
print(made.tree, flush=True)
sys.stdin.read()
"""


def builder(base: Path, how: str) -> subprocess.Popen[str]:
    """A process that makes the layer (``stop``: only half of it), and keeps it until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", BUILDER, str(base), how], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("")
    assert process.returncode == 0


def test_one_builds_the_others_wait(setting: Setting) -> None:
    first = builder(setting.base, "stop")
    assert (line(first), line(first)) == ("making", "half")
    with pytest.raises(Unavailable, match="somebody else"):
        metalayer.obtain(
            metalayer.base_of(str(setting.base)), Asked("metadata"), setting.said, lambda tree: None, wait=False
        )
    second = builder(setting.base, "go")
    assert "waiting" in line(second)
    assert first.stdin is not None
    first.stdin.close()
    tree = line(second)
    assert os.path.isdir(tree)
    end(second)
    first.stdin = None
    first.communicate()
    setting.obtain()
    assert setting.said.made == 0


def test_a_builder_that_was_killed_leaves_nothing_to_use(setting: Setting, cache: Path) -> None:
    first = builder(setting.base, "stop")
    assert (line(first), line(first)) == ("making", "half")
    first.kill()
    first.communicate()
    assert [name for name in os.listdir(cache) if name.startswith("new-")]
    assert setting.obtain().record.entries == 6
    assert not [name for name in os.listdir(cache) if name.startswith("new-")]


def test_what_is_in_use_stays(setting: Setting, cache: Path) -> None:
    user = builder(setting.base, "go")
    assert line(user) == "making"
    tree = line(user)
    name = os.path.basename(os.path.dirname(tree))
    assert metalayer_cache.in_use(name)
    gone, stay = metalayer_cache.clean()
    assert (gone, [one.name for one in stay]) == ([], [name])
    grow(setting.base)  # a new one is made beside it
    setting.obtain()
    aside = [entry for entry in os.listdir(cache) if entry.startswith("old-")]
    assert (len(aside), os.path.isdir(cache / aside[0] / "tree/usr/bin")) == (1, True)
    end(user)
    gone, stay = metalayer_cache.clean()
    assert (len(gone), stay, [n for n in os.listdir(cache) if not n.endswith(".lock")]) == (1, [], [])


def test_the_one_used_last_stays(tmp_path: Path, setting: Setting) -> None:
    others = [Setting(tmp_path / f"base{number}", setting.said) for number in range(3)]
    for number, other in enumerate(others):
        other.base.mkdir()
        os.utime(Path(other.obtain().path) / "record", (number, number))
    one = others[0].obtain().record.space
    os.utime(Path(others[0].obtain().path) / "record", (9, 9))
    kept = setting.obtain(most_bytes=setting.obtain().record.space + one)
    metalayer_cache.trim(kept.record.space + one, keep=kept.name)
    names = {entry.name for entry in metalayer_cache.stored()}
    assert names == {kept.name, others[0].obtain().name}


@only_user
@needs("userns")
def test_a_full_disk_is_said_and_nothing_is_left(setting: Setting, tmp_path: Path) -> None:
    script = (
        f"mount -t tmpfs -o size=16k,nr_inodes=9 none {tmp_path}/small && export XDG_CACHE_HOME={tmp_path}/small && "
        f"'{sys.executable}' -P -c \"$1\" {setting.base} go; ls -A {tmp_path}/small/sifkit/metadata"
    )
    (tmp_path / "small").mkdir()
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", BUILDER],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert "No space left on device" in done.stderr
    assert [name for name in done.stdout.split()[1:] if not name.endswith(".lock")] == []
