"""Take the figures of every bench_*.py beside their peers' in the same run: a table, and JSON for programs.

    run.py [--quick] [--json FILE] [NAME...]

NAME limits it to bench_NAME.py. The peer Apptainer is taken from PATH, or from the words in SIFKIT_BENCH_APPTAINER
(which must end in the program itself). Status 1 when a figure misses its limit. Not a test: machines differ.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pwd
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

import account  # noqa: E402 - needs the path above
import run_tests  # noqa: E402
import setting  # noqa: E402
from row import Row  # noqa: E402


def main() -> int:
    """Take the figures that were asked for; 1 when one misses its limit or could not be taken."""
    options = parse()
    run_tests.mend_dev_fuse()
    user = account.ensure() if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    found: list[Row] = []
    failed = False
    scratch = make_scratch(user)
    try:
        place = run_tests.place_for(user, scratch)
        environment = run_tests.environment(user, place, scratch)
        setting.use(user, place.venv, environment, scratch)
        for module in wanted(options.names):
            try:
                for row in importlib.import_module(module).rows(options.quick):
                    found.append(row)
            except Exception:  # one module's trouble must not cost the figures of the others
                traceback.print_exc()
                failed = True
    finally:
        os.chdir("/")
        run_tests.remove(scratch)
    print(table(found))
    options.json.write_text(json.dumps([row._asdict() for row in found], indent=1) + "\n")
    return 1 if failed or any(row.ok is False for row in found) else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Take figures beside their peers'.")
    parser.add_argument("--quick", action="store_true", help="fewer runs of each")
    parser.add_argument("--json", type=Path, default=HERE.parent.parent / "bench.json", metavar="FILE")
    parser.add_argument("names", nargs="*", metavar="NAME", help="the modules to run (default: all)")
    return parser.parse_args()


def make_scratch(user: pwd.struct_passwd) -> Path:
    """A directory of the ordinary user below /tmp, which a peer in another root may share."""
    scratch = Path(tempfile.mkdtemp(prefix="sifkit-bench-", dir="/tmp"))
    scratch.chmod(0o755)
    # Spread its directories over the disk (chattr(1)): see bench_io.alternate. Where it means nothing it fails.
    subprocess.run(["chattr", "+T", scratch], stderr=subprocess.DEVNULL, check=False)
    (scratch / "tmp").mkdir()
    for path in (scratch, scratch / "tmp"):
        os.chown(path, user.pw_uid, user.pw_gid)
    return scratch


def wanted(names: list[str]) -> list[str]:
    """The modules to run."""
    there = sorted(path.stem for path in HERE.glob("bench_*.py"))
    return [name for name in there if not names or name.removeprefix("bench_") in names]


def table(found: list[Row]) -> str:
    """The rows in columns."""
    lines = [("figure", "ours", "peer", "theirs", "ratio", "limit", "")]
    for row in found:
        ratio = f"{row.ours / row.theirs:.2f}" if row.theirs else ""
        verdict = {True: "ok", False: "MISSED", None: ""}[row.ok]
        lines.append((row.name, ms(row.ours), row.peer, ms(row.theirs), ratio, row.limit, verdict))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)  # fmt: skip


def ms(seconds: float | None) -> str:
    """Seconds as milliseconds, or microseconds where they are few."""
    if seconds is None:
        return ""
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.001 else f"{seconds * 1000000:.1f} us"


if __name__ == "__main__":
    sys.exit(main())
