"""What ``sifkit sif`` shows of an image: ``header``, ``list``, ``info``, ``check`` and ``dump``.

Without click, which takes longer than all that they do (`sifkit.cli.start`).
"""

from __future__ import annotations

import os
import stat
import sys

from overlay.failure import Failure
from overlay.records import TYPE_CHECKING
from sifkit.cli.sif_failures import failures

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sifkit.cli.spec import Given


def carry_out(verb: str, given: Given) -> int:
    """Do what `sifkit.cli.start` has understood; the exit status. Raises `Failure`."""
    verbs: dict[str, Callable[..., int | None]] = {
        "header": header, "list": list_, "info": info, "check": check, "dump": dump,
    }  # fmt: skip
    return verbs[verb](**given) or 0


def _print_json(value: Any) -> None:
    import json  # 6 ms, for those who ask for it

    print(json.dumps(value, indent=2))


def header(file: str, as_json: bool = False) -> None:
    """Show the image's global header: architecture, ID, times, sizes."""
    from sifkit import sif
    from sifkit.cli import sif_text

    with failures(f"cannot read {file}"), sif.open(file) as image:
        if as_json:
            _print_json(sif_text.header_json(image.header))
        else:
            print(sif_text.header_text(image.header), end="")


def list_(file: str, as_json: bool = False) -> None:
    """Show one line for each object of the image."""
    from sifkit import sif
    from sifkit.cli import sif_text

    with failures(f"cannot read {file}"), sif.open(file) as image:
        if as_json:
            _print_json([sif_text.object_json(d) for d in image.objects])
        else:
            print(sif_text.list_text(image.objects), end="")


def info(number: int, file: str, as_json: bool = False) -> None:
    """Show everything about object ID of the image."""
    from sifkit import sif
    from sifkit.cli import sif_text

    with failures(f"cannot read object {number} of {file}"), sif.open(file) as image:
        found = image.one(sif.by_id(number))
        if as_json:
            _print_json(sif_text.object_json(found))
        else:
            print(sif_text.info_text(found), end="")


def check(file: str, as_json: bool = False) -> int:
    """Show everything that is wrong with the image, one line each.

    Exit status 1 when anything is. Keys and signatures as such are not verified.
    """
    from sifkit import sif
    from sifkit.cli.sif_text import printable

    with failures(f"cannot check {file}"):
        found = sif.check(file)
    if as_json:
        _print_json([finding._asdict() for finding in found])
    for finding in () if as_json else found:
        what = f"object {finding.object_id}: " if finding.object_id else ""
        print(f"{printable(file)}: byte {finding.offset}: {what}{finding.text}")
    if not found and not as_json:
        print(f"{printable(file)}: nothing wrong")
    return 1 if found else 0


def dump(number: int, file: str, output: str | None = None, force: bool = False) -> None:
    """Write the bytes of object ID to standard output, or to a file.

    Never to a terminal: redirect it, or use -o.
    """
    from sifkit.sif import glance, transfer

    if output in (None, "-") and os.isatty(sys.stdout.fileno()):
        raise Failure("not written to a terminal", "objects are binary", f"sifkit sif dump {number} {file} -o OUT", 2)
    with failures(f"cannot dump object {number} of {file}"):
        source, offset, size = glance.find(file, number)
        if output is None or output == "-":
            sys.stdout.flush()
            transfer.pour(source, offset, size, sys.stdout.fileno())
        else:
            _dump_to(source, offset, size, output, force)
        os.close(source)


def _dump_to(source: int, offset: int, size: int, output: str, force: bool) -> None:
    from sifkit.sif import transfer

    new = not force and not _is_stream(output)
    how = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | (os.O_EXCL if new else 0)
    try:
        target = os.open(output, how, 0o666)
    except (FileExistsError, IsADirectoryError):
        if os.path.isdir(output):
            raise Failure(f"{output} is a directory", "an object is one file", "name a file in it") from None
        raise Failure(f"{output} exists already", "it was not touched", "--force overwrites it") from None
    try:
        if os.isatty(target):
            raise Failure("not written to a terminal", "objects are binary", exit_code=2)
        if os.path.samestat(os.fstat(source), os.fstat(target)):
            raise Failure(f"{output} is the image itself", "an object cannot replace it")
        if os.fstat(target).st_size:
            os.ftruncate(target, 0)  # also makes ext4 write it all out on close, so not for a new file
        if stat.S_ISREG(os.fstat(target).st_mode):
            transfer.copy(source, offset, target, 0, size)
        else:
            transfer.pour(source, offset, size, target)
    except BaseException:
        if new:
            os.unlink(output)
        raise
    finally:
        os.close(target)


def _is_stream(path: str) -> bool:
    """Whether a pipe or a character device is there, of which writing destroys nothing."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # nothing is there, or opening it tells what is wrong
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
