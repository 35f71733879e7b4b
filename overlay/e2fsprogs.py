"""Typed calls on a `Section`: mke2fs, debugfs, e2fsck, resize2fs, tune2fs, dumpe2fs, e2undo.

All but two of them take a file system inside a file as ``file?offset=N`` (libext2fs, unix_io.c); mke2fs
takes ``-E offset=N`` and e2undo ``-o N``. A section whose path is ``/proc/self/fd/N`` names an open file:
the descriptor is handed down, so a file without a name can be formatted too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence

from overlay import tools
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.section import Section

if TYPE_CHECKING:
    from typing import Final

FD_PREFIX: Final = "/proc/self/fd/"
_WHY: Final = "to work with ext3 images"

# e2fsck(8), EXIT CODE
FSCK_MENDED, FSCK_REBOOT, FSCK_LEFT, FSCK_BROKEN_OFF = 1, 2, 4, 8

# debugfs reads a line of commands into a buffer of BUFSIZ bytes and would run the rest as another command.
_LONGEST_LINE: Final = 8000


class ToolError(Exception):
    """A tool of e2fsprogs failed: ``program``, the ``path`` it worked on, and what it ``said``."""

    def __init__(self, program: str, path: str, status: int, said: str) -> None:
        super().__init__(program, path, status, said)
        self.program = program
        self.path = path
        self.status = status
        self.said = said

    def __str__(self) -> str:
        ending = f"killed by signal {-self.status}" if self.status < 0 else f"exit status {self.status}"
        return f"{self.program} on {self.path}: {self.said or ending}"


class Fsck(NamedTuple):
    """What e2fsck answered: its exit ``status`` (FSCK_* bits) and output."""

    status: int
    said: str


@contextlib.contextmanager
def _reachable(section: Section, write: bool) -> Iterator[tuple[Section, tuple[int, ...]]]:
    """The section under a name that libext2fs takes literally, and the descriptors the tool must inherit."""
    if section.path.startswith(FD_PREFIX):
        yield section, (int(section.path.removeprefix(FD_PREFIX)),)
    elif "?" in section.path:  # libext2fs would read options behind it
        fd = os.open(section.path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            yield section._replace(path=f"{FD_PREFIX}{fd}"), (fd,)
        finally:
            os.close(fd)
    else:
        yield section._replace(path=os.path.abspath(section.path)), ()


def _run(
    program: str, section: Section, before: Sequence[str], after: Sequence[str] = (), *, write: bool,
    plain: bool = False, input: bytes | None = None, env: dict[str, str] | None = None,
) -> tools.Result:  # fmt: skip
    """``program BEFORE section AFTER``, the section named by its ``spec``, or by path alone if ``plain``."""
    with _reachable(section, write) as (there, fds):
        name = there.path if plain else there.spec
        result = tools.run(program, *before, name, *after, why=_WHY, input=input, env=env, pass_fds=fds)
        return tools.Result(
            result.status,
            result.out.replace(there.path, section.path),
            result.err.replace(there.path, section.path),
        )


def _demand(program: str, section: Section, result: tools.Result) -> str:
    if result.status != 0:
        raise ToolError(program, section.path, result.status, _essence(program, result.err or result.out))
    return result.out


def _essence(program: str, text: str) -> str:
    """What a tool complained of, without its version banner and prefix, on one line."""
    lines = []
    for line in text.splitlines():
        line = line.strip().removeprefix(f"{program}: ")
        if line and not line.startswith(f"{program} 1.") and not line.startswith("Warning: the fs_type"):
            lines.append(line)
    return "; ".join(lines)


def mke2fs(section: Section, *options: str, extended: Iterable[str] = (), block_size: int) -> None:
    """Make a file system that fills the section; ``options`` alone count, never mke2fs.conf.

    ``extended`` are ``-E`` options. Raises ToolError, whose text names what mke2fs objects to.
    """
    several = [*extended, *([f"offset={section.offset}"] if section.offset else [])]
    before = ["-q", "-F", "-b", str(block_size), *options, *(["-E", ",".join(several)] if several else [])]
    blocks = str(section.size // block_size)
    result = _run(
        "mke2fs", section, before, [blocks], write=True, plain=True,
        env={"MKE2FS_CONFIG": "/dev/null"},
    )  # fmt: skip
    _demand("mke2fs", section, result)


def quote(name: bytes) -> bytes:
    """``name`` as one argument of a debugfs command. Raises ValueError where debugfs has no spelling.

    libss splits at blanks outside double quotes and takes a doubled quote inside them for one quote.
    """
    if b"\n" in name or b"\0" in name:
        raise ValueError(f"debugfs cannot name {os.fsdecode(name)!r}: it holds a newline or NUL")
    if not name:
        raise ValueError("debugfs cannot name a file by an empty name")
    return b'"' + name.replace(b'"', b'""') + b'"'


def debugfs(section: Section, commands: Iterable[Sequence[bytes]], *, write: bool) -> str:
    """Run commands, each a verb and its arguments, in one debugfs; returns what it printed.

    Raises ToolError when debugfs objects to any of them: its exit status is 0 even then, so its standard
    error decides. Raises ValueError for an argument it cannot express. Name files by absolute paths: a bare
    ``<12>`` is an inode number to debugfs. But ``mknod`` and ``write`` take a bare name in the current
    directory: a slash would become part of the name.
    """
    lines = [b" ".join([verb, *map(quote, arguments)]) for verb, *arguments in commands]
    for line in lines:
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"too long for debugfs: {os.fsdecode(line[:80])!r}...")
    before = ["-w", "-f", "-"] if write else ["-f", "-"]
    result = _run("debugfs", section, before, write=write, input=b"\n".join(lines) + b"\n")
    complaint = _essence("debugfs", result.err)
    if result.status != 0 or complaint:
        raise ToolError("debugfs", section.path, result.status, complaint)
    return result.out


def e2fsck(section: Section, *options: str, write: bool) -> Fsck:
    """e2fsck with ``options`` (``-p``, ``-fn``); never raises for its verdict. ``write``: may change it."""
    result = _run("e2fsck", section, options, write=write)
    return Fsck(result.status, "\n".join(filter(None, (result.out.strip(), _essence("e2fsck", result.err)))))


def resize2fs(section: Section, size: int | None = None, *, force: bool = False) -> str:
    """Resize the file system to ``size`` bytes, or to the least it needs when None (resize2fs -M).

    Only for a section that is its whole file, else ValueError: resize2fs cuts the file at the new size of the
    file system, whatever the offset and whatever lies behind (1.47.0). Copy other sections out, or attach
    them to a loop device.
    """
    if section.offset or os.stat(section.path).st_size > section.size:
        raise ValueError(f"{section.describe()}: resize2fs would cut off the file that the section lies in")
    before = [*(["-f"] if force else []), *([] if size is not None else ["-M"])]
    after = [] if size is None else [f"{size // 1024}K"]
    return _demand("resize2fs", section, _run("resize2fs", section, before, after, write=True))


def minimum_size(section: Section, block_size: int) -> int:
    """Bytes resize2fs thinks the file system can be shrunk to (resize2fs -P counts blocks)."""
    said = _demand("resize2fs", section, _run("resize2fs", section, ["-P"], write=False))
    return int(said.rpartition(":")[2]) * block_size


def tune2fs(section: Section, *options: str) -> str:
    """tune2fs with ``options`` (``-j``, ``-m 0``, ``-L NAME``)."""
    return _demand("tune2fs", section, _run("tune2fs", section, options, write=True))


def dumpe2fs(section: Section) -> dict[str, str]:
    """The superblock's fields under the names dumpe2fs -h prints."""
    said = _demand("dumpe2fs", section, _run("dumpe2fs", section, ["-h"], write=False))
    pairs = (line.partition(":") for line in said.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def e2undo(undo_file: str, section: Section) -> None:
    """Take back what ``undo_file`` records. Never forced: on a cut undo file ``-f`` leaves errors behind."""
    offset = ["-o", str(section.offset)] if section.offset else []
    before = [*offset, os.path.abspath(undo_file)]
    _demand("e2undo", section, _run("e2undo", section, before, write=True, plain=True))
