"""Which ids of the host the ids in a user namespace stand for, and how --fakeroot gets more than the caller's own.

An ordinary user may map one id by himself: his own, to any. More come from ranges that root has given him in
/etc/subuid and /etc/subgid (subuid(5)), or where nsswitch.conf says, and are mapped by newuidmap(1) and newgidmap(1),
which are set-uid. These must run outside the namespace, so a child of ours, forked before it, waits for the word.
"""

from __future__ import annotations

import os

from overlay.failure import Failure
from overlay.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final


_PROGRAMS: Final = ("newuidmap", "newgidmap")


class Span(NamedTuple):
    """``size`` ids from ``inside`` on in the namespace are those from ``outside`` on around it."""

    inside: int
    outside: int
    size: int


class IdMap(NamedTuple):
    """The ids of a namespace. ``note``: why it has the caller's alone, "" when it has ranges."""

    uids: tuple[Span, ...]
    gids: tuple[Span, ...]
    note: str = ""

    @property
    def ranges(self) -> bool:
        """Whether there are more ids than the caller's."""
        return len(self.uids) > 1

    @property
    def caller(self) -> int:
        """The uid of the caller, outside."""
        return self.uids[0].outside

    def inside(self, uid: int, gid: int) -> bool:
        """Whether the namespace has both ids."""
        return any(0 <= uid - span.inside < span.size for span in self.uids) and any(
            0 <= gid - span.inside < span.size for span in self.gids
        )

    def outside_uid(self, uid: int) -> bool:
        """Whether ``uid`` of the host is one of the namespace's."""
        return any(0 <= uid - span.outside < span.size for span in self.uids)

    def outside_gid(self, gid: int) -> bool:
        """Whether ``gid`` of the host is one of the namespace's."""
        return any(0 <= gid - span.outside < span.size for span in self.gids)

    def from_outside(self, uid: int, gid: int) -> tuple[int, int] | None:
        """What ``uid`` and ``gid`` of the host are in the namespace; None when they have no ids there."""
        found = [
            [span.inside + number - span.outside for span in spans if 0 <= number - span.outside < span.size]
            for number, spans in ((uid, self.uids), (gid, self.gids))
        ]
        return (found[0][0], found[1][0]) if all(found) else None

    def describe(self) -> list[str]:
        """A line for each span, for --dry-run."""
        return [*_lines("uid", self.uids), *_lines("gid", self.gids)]

    def encode(self) -> str:
        """As `decode` reads it: numbers of the uids, ``/``, numbers of the gids."""
        return "/".join(" ".join(str(n) for span in spans for n in span) for spans in (self.uids, self.gids))


def _lines(kind: str, spans: Sequence[Span]) -> list[str]:
    def some(first: int, count: int) -> str:
        return str(first) if count == 1 else f"{first} to {first + count - 1}"

    return [f"{kind} {some(span.inside, span.size)}: {some(span.outside, span.size)} of the host" for span in spans]


def decode(text: str) -> IdMap | None:
    """The map that `IdMap.encode` wrote; None for "" and for what it never wrote."""
    try:
        kinds = [[int(word) for word in part.split()] for part in text.split("/")]
        uids, gids = (
            tuple(Span(*numbers[at : at + 3]) for at in range(0, len(numbers), 3)) for numbers in kinds
        )  # fmt: skip
    except (ValueError, TypeError):
        return None
    return IdMap(uids, gids) if uids and gids else None


def of_root(name: str, uid: int, gid: int) -> IdMap:
    """0 stands for the caller, and 1, 2, ... for the ids of their ranges, if there are any and what it takes."""
    alone = IdMap((Span(0, uid, 1),), (Span(0, gid, 1),))
    from overlay import features, tools
    from sifkit.runtime.preflight_programs import subordinate

    if features.without("subids"):
        return alone._replace(note="SIFKIT_DEBUG_WITHOUT says so")
    found = [subordinate(f"/etc/sub{kind}", name, uid) for kind in ("uid", "gid")]
    users, groups = (tuple(span for span in one.ranges if span[1] > 0) for one in found)
    if not users or not groups:
        missing = " and ".join(f"/etc/sub{kind}" for kind, has in (("uid", users), ("gid", groups)) if not has)
        source = f", with {found[0].elsewhere} of nsswitch.conf," if found[0].elsewhere else ""
        return alone._replace(note=f"{missing}{source} gives {name} no ids")
    lacking = [program for program in _PROGRAMS if tools.find(program) is None]
    if lacking:
        return alone._replace(note=f"{' and '.join(lacking)} (package uidmap) is missing")
    return IdMap(_behind(alone.uids[0], users), _behind(alone.gids[0], groups))


def _behind(first: Span, ranges: tuple[tuple[int, int], ...]) -> tuple[Span, ...]:
    spans, at = [first], 1
    for outside, count in ranges:
        # An id stands in the map once; one that is the caller's own, too, would be refused.
        if not outside <= first.outside < outside + count:
            spans.append(Span(at, outside, count))
            at += count
    return tuple(spans)


def remark(ids: IdMap) -> str:
    """What the user is to know of a namespace without ranges; "" where all is well."""
    if not ids.note:
        return ""
    return (
        f"--fakeroot has root alone, no other user or group ({ids.note}): programs that change to another, such as apt "
        "and dpkg, fail at that; sifkit doctor says how to get more"
    )


class Mapper(NamedTuple):
    """A child outside the namespace that waits for the word to map ours."""

    pid: int
    go: int
    answer: int


def start(ids: IdMap) -> Mapper:
    """Fork the child; afterwards enter the namespace and call `finish`."""
    waiting, go = os.pipe2(os.O_CLOEXEC)
    answer, say = os.pipe2(os.O_CLOEXEC)
    target = os.getpid()
    child = os.fork()
    if child:
        os.close(waiting)
        os.close(say)
        return Mapper(child, go, answer)
    try:
        os.close(go)
        os.close(answer)
        if os.read(waiting, 1):
            os.write(say, _run(ids, target).encode("utf-8", "surrogateescape"))
    finally:
        os._exit(0)


def _run(ids: IdMap, target: int) -> str:
    """Map the process ``target``; "." when that is done, else what went wrong."""
    from overlay import tools

    try:
        if os.geteuid() == 0:  # of somebody else's session: root's own ranges are not asked for
            for name, spans in (("uid_map", ids.uids), ("gid_map", ids.gids)):
                with open(f"/proc/{target}/{name}", "wb", buffering=0) as file:
                    file.write("".join(f"{' '.join(map(str, span))}\n" for span in spans).encode())
            return "."
        for program, spans in zip(_PROGRAMS, (ids.uids, ids.gids), strict=True):
            words = (str(number) for span in spans for number in span)
            done = tools.run(program, str(target), *words, why="to map subordinate ids")
            if done.status != 0:
                return f"{program}: {done.err.strip().removeprefix(f'{program}: ') or f'status {done.status}'}"
    except (Failure, OSError) as error:
        return str(error)
    return "."


def finish(mapper: Mapper) -> None:
    """Have the namespace mapped that this process has entered. `Failure` with what the programs said."""
    os.write(mapper.go, b".")
    said = _end(mapper)
    if said != ".":
        hint = "SIFKIT_DEBUG_WITHOUT=subids runs with root alone; sifkit doctor says what the ranges need"
        raise Failure("cannot map the ids that /etc/subuid and /etc/subgid give you", said or "no answer", hint)
    if os.geteuid() != 0:  # real root is nobody there, unless it takes the place
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


def abandon(mapper: Mapper) -> None:
    """End the child: there is no namespace."""
    _end(mapper)


def _end(mapper: Mapper) -> str:
    os.close(mapper.go)
    with os.fdopen(mapper.answer, "rb") as file:
        said = file.read().decode("utf-8", "surrogateescape")
    os.waitpid(mapper.pid, 0)
    return said
