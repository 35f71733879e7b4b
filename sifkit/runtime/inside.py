"""Work in a child in a user namespace: where all that the caller's ids own can be read, given away and removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from overlay.failure import Failure, defect, from_oserror
from sifkit.runtime import children, userns

if TYPE_CHECKING:
    from sifkit.runtime.idmap import IdMap


class Killed(Exception):
    """The child was killed by the signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def call(ids: IdMap | None, work: Callable[[], str], brief: str) -> str:
    """What ``work`` returns, called in a child in a namespace with ``ids`` (None: the caller's own).

    Raises `Killed`, and `Failure` as ``work`` does; any other error is one that begins with ``brief``.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(ids, work, brief, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        text = said.read().decode("utf-8", "surrogateescape")
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        raise Killed(os.WTERMSIG(status))
    if children.exit_code(status) != 0:
        what, _, rest = text.partition("\0")
        cause, _, hint = rest.partition("\0")
        raise Failure(what or brief, cause, hint)
    return text


def _child(ids: IdMap | None, work: Callable[[], str], brief: str, said: int) -> NoReturn:
    try:
        userns.enter(os.geteuid(), os.getegid(), userns.privileged() and ids is None, ids)
        text = work().encode("utf-8", "surrogateescape")
        while text:
            text = text[os.write(said, text) :]
        os._exit(0)
    except Failure as failure:
        _say(said, failure)
    except OSError as error:
        _say(said, from_oserror(brief, error))
    except Exception as error:
        _say(said, defect(error))
    finally:
        os._exit(255)


def _say(pipe: int, failure: Failure) -> None:
    os.write(pipe, "\0".join((failure.brief, failure.cause, failure.hint)).encode("utf-8", "surrogateescape"))
