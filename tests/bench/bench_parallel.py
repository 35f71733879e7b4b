"""Many starts at once: 50 on all processors beside 50 in a row."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator

import setting
from row import Row

STARTS = 50


def rows(quick: bool) -> Iterator[Row]:
    """The figures of this module."""
    here = setting.here()
    one = shlex.join([str(here.venv / "bin/sifkit"), "exec", str(here.rootfs), "true"])
    loop = f"i=0; while [ $i -lt {STARTS} ]; do i=$((i+1)); {one}"
    # Fifty are counted on two processors, as a laptop or a slot of a batch system has them.
    used = sorted(os.sched_getaffinity(0))[:2]
    tasks = {
        "serial": lambda: _seconds(f"{loop}; done", used),
        "parallel": lambda: _seconds(f"{loop} & done; wait", used),
    }
    taken = setting.interleaved(tasks, 1 if quick else 5)
    serial, parallel = taken["serial"], taken["parallel"]
    share = serial / len(used)
    name = f"{STARTS} starts at once on {len(used)} processors"
    yield Row(name, parallel, "the same in a row, shared", share, "<= 1.3 x", parallel <= 1.3 * share)


def _seconds(script: str, processors: list[int]) -> float:
    here = setting.here()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        begin = time.perf_counter()
        setting.run(here.command("sh", "-c", script))
        return time.perf_counter() - begin
    finally:
        os.sched_setaffinity(0, before)
