"""Which ids --fakeroot maps."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.stack.layer import Directory
from sifkit.runtime import identity, idmap, plan, preflight_programs
from sifkit.runtime.identity import Identity
from sifkit.runtime.idmap import Span
from sifkit.runtime.request import Home, Layers, Mounts, Namespaces, Request
from sifkit.runtime.steps import Bind, Memory

_USUAL = Mounts()


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[tuple[int, int], ...]]:
    """What /etc/subuid and /etc/subgid give, to be filled by the test; both programs are there."""
    given: dict[str, tuple[tuple[int, int], ...]] = {}

    def subordinate(file: str, name: str, uid: int) -> preflight_programs.Ranges:
        return preflight_programs.Ranges(file, given.get(file, ()), "")

    monkeypatch.setattr(preflight_programs, "subordinate", subordinate)
    monkeypatch.setattr("overlay.tools.find", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("SIFKIT_DEBUG_WITHOUT", raising=False)
    return given


def test_several_ranges_lie_one_behind_the_other(tables: dict[str, tuple[tuple[int, int], ...]]) -> None:
    tables["/etc/subuid"] = ((100000, 1000), (0, 0), (300000, 500))
    tables["/etc/subgid"] = ((200000, 65536),)
    ids = idmap.of_root("ann", 1000, 1001)
    assert ids.uids == (Span(0, 1000, 1), Span(1, 100000, 1000), Span(1001, 300000, 500))
    assert ids.gids == (Span(0, 1001, 1), Span(1, 200000, 65536))
    assert ids.ranges and ids.inside(1500, 65536) and not ids.inside(1501, 0)
    assert ids.outside_uid(300499) and not ids.outside_uid(300500) and ids.outside_gid(1001)
    assert idmap.decode(ids.encode()) == ids
    assert idmap.remark(ids) == ""


def test_a_range_with_the_caller_in_it_is_left_out(tables: dict[str, tuple[tuple[int, int], ...]]) -> None:
    tables["/etc/subuid"] = ((1000, 10), (5000, 10))
    tables["/etc/subgid"] = ((5000, 10),)
    assert idmap.of_root("ann", 1001, 1001).uids == (Span(0, 1001, 1), Span(1, 5000, 10))


def test_without_ranges_root_is_alone_and_why_is_said(tables: dict[str, tuple[tuple[int, int], ...]]) -> None:
    tables["/etc/subuid"] = ((100000, 65536),)
    ids = idmap.of_root("ann", 1000, 1001)
    assert (ids.uids, ids.gids) == ((Span(0, 1000, 1),), (Span(0, 1001, 1),))
    assert "/etc/subgid gives ann no ids" in idmap.remark(ids)


def test_without_the_programs_too(
    tables: dict[str, tuple[tuple[int, int], ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables["/etc/subuid"] = tables["/etc/subgid"] = ((100000, 65536),)
    monkeypatch.setattr("overlay.tools.find", lambda name: None)
    assert "newuidmap and newgidmap (package uidmap)" in idmap.of_root("ann", 1000, 1000).note


@pytest.mark.parametrize("text", ["", "0 1", "0 1000 1", "x/y", "0 1000 1/"])
def test_what_is_no_map(text: str) -> None:
    assert idmap.decode(text) is None


def made(tmp_path: Path, mounts: Mounts = _USUAL, privileged: bool = False) -> plan.Plan:
    me = Identity(54321, 54321, (54321,), "me", str(tmp_path), "/bin/sh")
    layers = Layers(Directory(str(tmp_path)))
    request = Request("exec", "image", layers, ("x",), mounts=mounts, namespaces=Namespaces(fakeroot=True))
    return plan.build(request, me, {}, privileged)


def test_home_is_roots_and_shows_the_callers(tmp_path: Path) -> None:
    """3.4: HOME=/root with the host's home on it."""
    done = made(tmp_path)
    assert (done.who.uid, done.who.name, done.who.home) == (0, "root", "/root")
    assert Bind(str(tmp_path), "/root") in done.steps
    assert done.environment.start()["HOME"] == "/root"


def test_contained_home_is_empty(tmp_path: Path) -> None:
    """5211: the host's home is not to be seen."""
    done = made(tmp_path, Mounts(contain=True))
    assert Memory("/root", 0o700, optional=True) in done.steps
    assert str(tmp_path) not in [getattr(step, "source", "") for step in done.steps]


def test_home_as_asked(tmp_path: Path) -> None:
    done = made(tmp_path, Mounts(home=Home(True, "/usr", "/where")))
    assert done.who.home == "/where" and Bind("/usr", "/where") in done.steps


def test_root_stays_root(tmp_path: Path) -> None:
    done = made(tmp_path, privileged=True)
    assert done.ids is None and done.who.uid == 54321


def test_roots_line_is_the_callers() -> None:
    who = identity.root(Identity(5, 5, (5, 6), "me", "/home/me", "/bin/zsh"))
    assert identity.passwd("", who) == "root:x:0:0:root:/root:/bin/zsh\n"
