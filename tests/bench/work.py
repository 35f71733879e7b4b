"""Work inside that says when each phase of it is done, and the times of its phases.

Taken outside, because busybox has no fine clock.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from itertools import pairwise

import setting

# 10 000 small files below /usr/share/io, where the shell then is, and all of it deleted again.
CREATE = """
mkdir /usr/share/io && cd /usr/share/io && echo begin
i=0
while [ $i -lt 100 ]; do
    mkdir $i; j=0
    while [ $j -lt 100 ]; do echo line > $i/$j; j=$((j+1)); done
    i=$((i+1))
done
echo create
"""
DELETE = """
rm -rf /usr/share/io/*
echo delete
"""


def timed(command: Sequence[str], phases: int) -> list[float]:
    """Seconds of each of the ``phases`` of one run, which says a line before the first and after each."""
    here = setting.here()
    with subprocess.Popen(
        command,
        env=here.environment,
        cwd=here.scratch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        moments = [time.perf_counter() for _ in running.stdout]
        said = running.stderr.read()
    if running.returncode != 0 or len(moments) != phases + 1:
        raise RuntimeError(f"{' '.join(command[:8])}...: status {running.returncode}\n{said}")
    return [later - earlier for earlier, later in pairwise(moments)]
