"""Work that is killed, or fails, at each of its calls in turn that change something."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from overlay import linux_file, tools


class Points:
    """Counts the calls that change something; at number ``last`` does ``then`` instead."""

    def __init__(self, last: int, then: Callable[[], Any]) -> None:
        self.count, self.last, self.then = 0, last, then

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.last:
                self.then()
            return function(*args, **options)

        return called

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for module, names in (
            (os, ("pwrite", "ftruncate", "truncate", "link", "rename", "fchmod")),
            (linux_file, ("fallocate",)),
            (tools, ("run",)),
        ):
            for name in names:
                patch.setattr(module, name, self.around(getattr(module, name)))
        # What is killed is a process, not the host: nothing has to be on disk, and the disk is slow.
        patch.setattr(os, "fsync", self.around(lambda fd: None))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def outcome(work: Callable[[], object], last: int, then: Callable[[], Any]) -> int:
    """The wait status of a child in which the call number ``last`` is ``then``."""
    child = os.fork()
    if child == 0:
        status = 3
        try:
            with pytest.MonkeyPatch.context() as patch:
                Points(last, then).install(patch)
                work()
            status = 0
        except OSError:
            status = 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]
