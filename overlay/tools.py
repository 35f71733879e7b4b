"""The only place that runs helper programs: found once, started without a shell, without our descriptors.

`run` waits for a short-lived tool and returns what it said. `overlay.stack.fuse` builds the long-lived FUSE
servers on `argv`. Nothing here is imported for a run that needs no helper.
"""

from __future__ import annotations

import os

from overlay.failure import Failure
from overlay.records import NamedTuple

# Program -> Debian package; other distributions name them alike, and the hint says "package NAME or like it".
PACKAGES = {
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "tune2fs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "e2undo": "e2fsprogs",
    "fuse2fs": "fuse2fs",
    "fuse-overlayfs": "fuse-overlayfs",
    "squashfuse": "squashfuse",
    "squashfuse_ll": "squashfuse",
    "mksquashfs": "squashfs-tools",
    "unsquashfs": "squashfs-tools",
    "newuidmap": "uidmap",
    "newgidmap": "uidmap",
    "getsubids": "uidmap",
    "fusermount3": "fuse3",
}

# Users' PATH often lacks the sbin directories, where e2fsprogs lives.
_EXTRA = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")

_paths: dict[str, str] = {}


class Result(NamedTuple):
    """What a tool said: exit ``status`` (negative: the signal that ended it) and its output as text."""

    status: int
    out: str
    err: str


def configure(paths: dict[str, str]) -> None:
    """Use these files for these programs (configuration ``[helpers]``), before any look-up."""
    _paths.update(paths)


def find(name: str) -> str | None:
    """The path of program ``name``, or None when this host lacks it. A path stands for itself."""
    if "/" in name:
        return name
    if name not in _paths:
        for directory in (*os.environ.get("PATH", os.defpath).split(os.pathsep), *_EXTRA):
            if not directory.startswith("/"):  # init is elsewhere, and the caller's directory may be anybody's
                continue
            # Not shutil.which: importing shutil costs more than all the look-ups of a start.
            if os.access(f"{directory}/{name}", os.X_OK) and os.path.isfile(f"{directory}/{name}"):
                _paths[name] = f"{directory}/{name}"
                break
    return _paths.get(name)


def need(name: str, why: str) -> str:
    """The path of ``name``; a `Failure` that names its package when it is missing."""
    found = find(name)
    if found is None or not os.access(found, os.X_OK):
        package = PACKAGES.get(name, name)
        raise Failure(
            f"the program {name} is missing" if found is None else f"cannot run {found} for {name}",
            f"it is needed {why}",
            f"install the package {package}, or name the program in the configuration ([helpers] {name} = ...)",
        )
    return found


def run(
    name: str,
    *args: str,
    why: str,
    input: bytes | None = None,
    env: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Result:
    """Run ``name`` to its end in the C locale; never raises for its exit status.

    Raises `Failure` when the program is missing, OSError when it cannot be started.
    """
    import subprocess  # 7 ms that only tool users pay

    done = subprocess.run(
        [need(name, why), *args],
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        pass_fds=pass_fds,
        check=False,
    )
    return Result(
        done.returncode,
        done.stdout.decode("utf-8", "surrogateescape"),
        done.stderr.decode("utf-8", "surrogateescape"),
    )


def mentions(program: str, word: str) -> bool:
    """Whether ``program --help`` shows ``word``. Remembered per program file, for it costs a process to ask."""
    found = os.stat(program)
    key = f"{program}\t{found.st_mtime_ns}\t{found.st_size}\t{word}\t"
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "sifkit")
    memory = f"{cache}/helpers"
    try:
        with open(memory, encoding="utf-8") as file:
            known = [line for line in file if line.startswith(key)]
    except OSError:
        known = []
    if known:
        return known[-1].strip().endswith("yes")
    said = run(program, "--help", why="")
    answer = word in said.out + said.err
    try:
        os.makedirs(cache, exist_ok=True)
        with open(memory, "a", encoding="utf-8") as file:
            file.write(f"{key}{'yes' if answer else 'no'}\n")
    except OSError:  # without a cache the question is asked again, nothing else
        return answer
    return answer
