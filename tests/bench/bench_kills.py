"""kill -9 of staged runs at random moments: how many of them lost nothing, and how long one takes with its recovery."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import setting
from row import Row

TEST = Path(__file__).resolve().parent.parent / "kernel/test_staged_kill.py"


def rows(quick: bool) -> Iterator[Row]:
    """Whole runs killed: monitor, init, commit in turn; every second time the run that recovers is killed too."""
    for kind in ("standalone", "embedded"):
        yield kills(kind, 10 if quick else 200)


def kills(kind: str, count: int) -> Row:
    """``count`` runs killed on an overlay of ``kind``; the test stops at the first that lost something."""
    here = setting.here()
    report = here.directory(f"kills-{kind}") / "report"
    argv = [str(here.venv / "bin/python"), "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TEST), "-k", kind]
    variables = {"SIFKIT_TEST_KILLS": str(count), "SIFKIT_TEST_KILLS_REPORT": str(report)}
    begin = time.perf_counter()
    done = subprocess.run(
        here.command(*argv), env={**here.environment, **variables}, cwd=here.scratch, check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-500:])
    whole, put_in = (int(word) for word in report.read_text().split()) if report.exists() else (0, 0)
    title = f"{count} runs killed, {kind}: {whole} recovered, {put_in} of them when the next run looked"
    return Row(title, seconds / max(1, whole), "", None, "all recovered", done.returncode == 0 and whole == count)
