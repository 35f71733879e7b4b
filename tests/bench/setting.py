"""Where the figures are taken: as whom, with which program, on which trees; and how a time is taken.

`run.py` calls `use` before it asks any module for its rows; they ask `here`.
"""

from __future__ import annotations

import os
import pwd
import random
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import account
import images


class Setting(NamedTuple):
    """The ordinary user, the environment to measure, and what is measured on, below /tmp and of that user."""

    user: pwd.struct_passwd
    venv: Path
    environment: dict[str, str]
    scratch: Path
    rootfs: Path
    squash: Path

    def command(self, *argv: str) -> list[str]:
        """``argv`` as the ordinary user."""
        return [*account.become(self.user), *argv]

    def sifkit(self, *argv: str) -> list[str]:
        """The installed program as the ordinary user."""
        return self.command(str(self.venv / "bin/sifkit"), *argv)

    def directory(self, name: str) -> Path:
        """A new directory of the ordinary user."""
        path = self.scratch / name
        path.mkdir()
        os.chown(path, self.user.pw_uid, self.user.pw_gid)
        return path


_settings: list[Setting] = []


def here() -> Setting:
    """The setting of this program."""
    return _settings[-1]


def use(user: pwd.struct_passwd, venv: Path, environment: dict[str, str], scratch: Path) -> None:
    """Build what is measured on, and make it the setting."""
    rootfs = images.make_rootfs(scratch / "rootfs")
    subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", str(rootfs)], check=True)
    squash = images.make_squash(rootfs, scratch / "rootfs.sqfs", "-all-root")
    _settings.append(Setting(user, venv, environment, scratch, rootfs, squash))


class Apptainer(NamedTuple):
    """The peer: the words that start it as an ordinary user, who may be another than ours, and that user's ids."""

    prefix: tuple[str, ...]
    owner: str

    def exec(self, *argv: str) -> list[str]:
        """Its `exec` with these arguments."""
        return [*self.prefix, "exec", *argv]

    def give(self, path: Path) -> Path:
        """Make ``path`` and all in it that user's."""
        subprocess.run(["chown", "-R", self.owner, str(path)], check=True)
        return path

    def rootfs(self) -> Path:
        """The root file system as a tree of that user's."""
        tree = here().scratch / "rootfs-of-apptainer"
        return tree if tree.exists() else self.give(images.make_rootfs(tree))


@cache
def apptainer() -> Apptainer | None:
    """Apptainer from SIFKIT_BENCH_APPTAINER or PATH; None where there is none."""
    given = os.environ.get("SIFKIT_BENCH_APPTAINER")
    found = shutil.which("apptainer")
    if not given and not found:
        return None
    prefix = shlex.split(given) if given else here().command(found or "")
    said = subprocess.run([*prefix[:-1], "sh", "-c", "id -u; id -g"], check=True, capture_output=True, text=True)
    return Apptainer(tuple(prefix), ":".join(said.stdout.split()))


def run(command: Sequence[str]) -> None:
    """Run ``command`` to its end; it must succeed."""
    done = subprocess.run(
        command,
        env=here().environment,
        cwd=here().scratch,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: status {done.returncode}\n{done.stderr}")


def once(command: Sequence[str]) -> float:
    """Seconds that one run of ``command`` takes."""
    with open(os.devnull, "r+b") as nothing:
        begin = time.perf_counter()
        started = subprocess.Popen(command, env=here().environment, stdin=nothing, stdout=nothing, stderr=nothing)
        status = started.wait()
        end = time.perf_counter()
    if status != 0:
        run(command)
    return end - begin


def interleaved(tasks: Mapping[str, Callable[[], float]], count: int) -> dict[str, float]:
    """Medians of ``count`` figures of each task, taken in turn after one run that warms caches.

    Each time in another order: what a task leaves in memory and on its way to the disk is the next one's to bear.
    """
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    order, chance = list(tasks), random.Random(0)
    for turn in range(count + 1):
        for name in order:
            seconds = tasks[name]()
            if turn:
                taken[name].append(seconds)
        chance.shuffle(order)
    return {name: median(seconds) for name, seconds in taken.items()}


def commands(given: Mapping[str, Sequence[str]], count: int) -> dict[str, float]:
    """Medians of whole commands, less what it costs here to become the user who runs them."""
    os.chdir(here().scratch)
    for command in given.values():
        run(command)
    extra = {name: overhead(tuple(command)) for name, command in given.items()}
    tasks = {name: (lambda command=command: once(command)) for name, command in given.items()}
    return {name: seconds - extra[name] for name, seconds in interleaved(tasks, count).items()}


def overhead(command: tuple[str, ...]) -> float:
    """Seconds spent in the words before the program proper: setpriv, or what leads to the peer."""
    peer = apptainer()
    prefix = tuple(account.become(here().user))
    if peer and command[: len(peer.prefix)] == peer.prefix:
        prefix = peer.prefix[:-1]
    return _overhead(prefix) if prefix else 0.0


@cache
def _overhead(prefix: tuple[str, ...]) -> float:
    tasks = {"with": lambda: once([*prefix, "true"]), "bare": lambda: once(["true"])}
    taken = interleaved(tasks, 20)
    return max(0.0, taken["with"] - taken["bare"])
