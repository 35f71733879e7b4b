"""Run the tests as the caller, and when that is root also as an ordinary user; see what they left behind.

    run_tests.py [PYTEST-ARGUMENT...]

Started as root it makes what an ordinary user's tests need: the account, its subordinate ids, a usable
/dev/fuse. SIFKIT_MUST_WORK=1 turns tests skipped for a missing capability into failures.
SIFKIT_TEST_KEEP=1 keeps the temporary directory of each run; SIFKIT_TEST_DIR says where they lie (/var/tmp).
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import account
import leftovers

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(sys.prefix)
ISOLATED = "SIFKIT_TEST_ISOLATED"
KEPT = ("SIFKIT_MUST_WORK", "SIFKIT_TEST_EXAMPLES", "TERM", "LANG", "CI")
IGNORED = shutil.ignore_patterns("__pycache__", "mypy*", "ruff*", "*_cache", ".venv", ".git", ".demo", "build")


class Place(NamedTuple):
    """Where the tests and the interpreter that runs them lie."""

    tree: Path
    venv: Path


def main() -> int:
    """Run everything; 0 when all passed and nothing was left behind."""
    if os.geteuid() == 0:
        isolate_mounts()
    leftovers.adopt_orphans()
    mend_dev_fuse()
    users = [pwd.getpwuid(os.geteuid())]
    if os.geteuid() == 0:
        users.append(account.ensure())
    results = [run_as(user) for user in users]
    print("\n" + "\n".join(line for line, _ in results))
    return 0 if all(ok for _, ok in results) else 1


def isolate_mounts() -> None:
    """Start again in a mount namespace of our own, so that a mount left behind is surely ours.

    Made shared again inside: a mount that escapes from a container must stay visible as an error.
    """
    if ISOLATED in os.environ:
        return
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        print("set-up: no mount namespace of our own here (no CAP_SYS_ADMIN); the tests run in the host's")
        return
    os.environ[ISOLATED] = "1"
    script = 'mount --make-rshared / && exec "$@"'
    command = [*unshare, "sh", "-c", script, "sh", sys.executable, *sys.argv]
    os.execvp(command[0], command)


def mend_dev_fuse() -> None:
    """Everybody may use /dev/fuse on an ordinary host; where not, say so, and as root change it."""
    device = Path("/dev/fuse")
    usable = device.exists() and stat.S_IMODE(device.stat().st_mode) & 0o666 == 0o666
    if usable:
        return
    what = "is missing" if not device.exists() else "is closed to ordinary users"
    if os.geteuid() != 0:
        print(f"set-up: /dev/fuse {what}; as root: modprobe fuse; chmod 666 /dev/fuse")
        return
    print(f"set-up: /dev/fuse {what}; mending that")
    try:
        if not device.exists():
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(10, 229))
        device.chmod(0o666)
    except OSError as error:
        print(f"set-up: cannot mend it: {error}")


def run_as(user: pwd.struct_passwd) -> tuple[str, bool]:
    """Run pytest as ``user`` in a directory of that user's; the line for the end, and whether all is well."""
    scratch = make_scratch(user)
    try:
        place = place_for(user, scratch)
        print(f"\n== tests as {user.pw_name} (uid {user.pw_uid}) in {place.tree}", flush=True)
        places = (scratch / "tmp", Path("/dev/shm"))
        before = leftovers.mounts() | leftovers.directories(*places)
        status = run_pytest(user, place, scratch)
        left = leftovers.end_orphans() | leftovers.loops(scratch)
        left |= (leftovers.mounts() | leftovers.directories(*places)) - before
        for thing in sorted(left):
            print(f"left behind by the tests as {user.pw_name}: {thing}")
        line = f"as {user.pw_name}: {summary(scratch / 'report.xml', status)}"
        if left:
            line += f", {len(left)} things left behind"
        return line, status == 0 and not left
    finally:
        if "SIFKIT_TEST_KEEP" not in os.environ:
            remove(scratch)


def make_scratch(user: pwd.struct_passwd) -> Path:
    """A directory of ``user`` on a disk file system: an upper directory cannot lie on every kind."""
    scratch = Path(tempfile.mkdtemp(prefix="st-", dir=os.environ.get("SIFKIT_TEST_DIR", "/var/tmp")))
    (scratch / "tmp").mkdir()
    scratch.chmod(0o755)
    for path in (scratch, scratch / "tmp"):
        os.chown(path, user.pw_uid, user.pw_gid)
    return scratch


def place_for(user: pwd.struct_passwd, scratch: Path) -> Place:
    """The checkout itself when ``user`` can read it and run from it, else an installed copy."""
    here = Place(ROOT, VENV)
    check = "import pytest, sifkit, pathlib; pathlib.Path('tests/conftest.py').read_text()"
    command = [*account.become(user), str(VENV / "bin/python"), "-P", "-c", check]
    if user.pw_uid == os.geteuid():
        return here
    try:
        environ = environment(user, here, scratch)
        tried = subprocess.run(command, cwd=ROOT, env=environ, stderr=subprocess.DEVNULL)
    except OSError:
        return copy(scratch)
    return here if tried.returncode == 0 else copy(scratch)


def copy(scratch: Path) -> Place:
    """Copy the tests and the environment they are installed in to where everybody may read them."""
    there = Place(scratch / "copy", scratch / "venv")
    shutil.copytree(ROOT, there.tree, symlinks=True, ignore=IGNORED)
    shutil.copytree(VENV, there.venv, symlinks=True, ignore=IGNORED)
    for script in (there.venv / "bin").iterdir():
        if script.is_file() and not script.is_symlink():
            script.write_bytes(script.read_bytes().replace(bytes(VENV), bytes(there.venv)))
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", there.tree, there.venv], check=True)
    compile_all = ["-m", "compileall", "-q", there.venv / "lib"]
    subprocess.run([there.venv / "bin/python", *compile_all], check=False)
    return there


def environment(user: pwd.struct_passwd, place: Place, scratch: Path) -> dict[str, str]:
    """The environment of a login of ``user``, and nothing that two runs would share."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {
        "LANG": "C.UTF-8",
        **kept,
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": "/bin/sh",
        "PATH": f"{place.venv}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TMPDIR": f"{scratch}/tmp",
        "XDG_CACHE_HOME": f"{scratch}/tmp/cache",
        "HYPOTHESIS_STORAGE_DIRECTORY": f"{scratch}/hypothesis",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run_pytest(user: pwd.struct_passwd, place: Place, scratch: Path) -> int:
    """Start pytest and wait for it, collecting the orphans that it leaves meanwhile; its exit status."""
    command = [
        *account.become(user),
        f"{place.venv}/bin/python",
        *("-P", "-m", "pytest", "-p", "no:cacheprovider", "--continue-on-collection-errors", "-rfEs"),
        f"--basetemp={scratch}/t",
        *("-o", "tmp_path_retention_policy=failed", f"--junitxml={scratch}/report.xml", *sys.argv[1:]),
    ]
    started = subprocess.Popen(command, cwd=place.tree, env=environment(user, place, scratch))
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == started.pid:
            started.returncode = os.waitstatus_to_exitcode(status)
            return started.returncode


def summary(report: Path, status: int) -> str:
    """One line from pytest's own report."""
    try:
        suite = next(ElementTree.parse(report).iter("testsuite"))
    except (OSError, ElementTree.ParseError, StopIteration):
        return f"pytest ended with status {status} and no report"
    total, failed, errors, skipped = (int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped"))
    passed = total - failed - errors - skipped
    time = float(suite.get("time", "0"))
    return f"{passed} passed, {failed + errors} failed, {skipped} skipped in {time:.0f} s"


def remove(scratch: Path) -> None:
    """Remove a run's directory, closed directories in it too; never what an escaped mount shows there, such as /dev."""
    for point in leftovers.points(scratch):
        subprocess.run(["umount", "--lazy", point], check=False)
    if left := leftovers.points(scratch):
        print(f"not removed, for something is mounted below it: {left}")
        return
    subprocess.run(["chmod", "-R", "u+rwX", scratch], stderr=subprocess.DEVNULL)
    shutil.rmtree(scratch, ignore_errors=True)
    if scratch.exists():
        print(f"could not remove all of {scratch}")


if __name__ == "__main__":
    sys.exit(main())
