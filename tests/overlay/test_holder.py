"""Records of who holds a lock: written by hand, read by json, never trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.locks import holder as records


@given(st.text(), st.text(st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)))
def test_what_is_written_is_json_and_reads_back(path: str, command: str) -> None:
    holder = records.myself("x", True)._replace(path=path, command=command)
    assert json.loads(records.encode(holder)) == holder._asdict()
    assert records.decode(records.encode(holder)) == holder


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'{"pid": 1}',
        b"\xff",
        b"[" * 100000,
        b'{"path":1,"exclusive":1,"host":2,"pid":"x","command":[],"since":0}',
    ],
)
def test_rubbish_is_no_record(data: bytes) -> None:
    assert records.decode(data) is None


def test_liveness() -> None:
    me = records.myself("x", True)
    assert records.decode(records.encode(me)) == me
    assert me.alive is True
    assert me._replace(started=me.started - 1).alive is False
    assert me._replace(boot_id="other").alive is False
    assert me._replace(host="elsewhere").alive is None
    assert me._replace(pid_namespace="pid:[1]").alive is None
    assert "\n" not in me._replace(command="a\nb\x1b[31m").describe()
    assert "\x1b" not in me._replace(command="a\nb\x1b[31m").describe()


def test_records_of_another_host_are_told_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = records.myself("/home/me/i", True)._replace(host="node7")
    written = records.write_record(records.Key(99, 5, 0), there, for_other_hosts=True)
    assert written is not None
    assert written.startswith(str(tmp_path / "cache"))
    assert list(records.records(records.Key(42, 5, 0), "/home/me/i")) == [there]
    assert list(records.records(records.Key(42, 5, 0), "/scratch/other")) == []
    assert list(records.records(records.Key(42, 5, 4096), "/home/me/i")) == []
    assert list(records.records()) == [there]
    assert there.alive is None
    assert "on node7" in there.describe()


def test_records_of_the_dead_are_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # records of other hosts, real or of other tests
    dead = records.myself("x", True)._replace(started=1)
    written = records.write_record(records.Key(1, 5, 0), dead, for_other_hosts=False)
    assert written is not None
    assert list(records.records()) == []
    assert not os.path.exists(written)
