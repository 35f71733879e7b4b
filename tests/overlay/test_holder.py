"""Records of who holds a lock: written by hand, read by json, never trusted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import holder as records


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
