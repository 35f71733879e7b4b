"""Make new image files."""

from __future__ import annotations

import contextlib
import errno
import os
import time as clock
import uuid
from collections.abc import Iterable

from sifkit.sif import nameless
from sifkit.sif.arch import NO_ARCH
from sifkit.sif.edit import Edit
from sifkit.sif.edit_add import add_object
from sifkit.sif.errors import BadValue
from sifkit.sif.layout import build_header
from sifkit.sif.objects import NewObject
from sifkit.sif.reader import MAX_CAPACITY, Path, Table
from sifkit.sif.records import (
    CAPACITY,
    HEADER_SIZE,
    MAGIC,
    SLOT_SIZE,
    TABLE_OFFSET,
    VERSION,
    ZERO_TIME,
    Header,
)

LAUNCH_SCRIPT = "#!/usr/bin/env run-singularity\n"  # what the builders put first, so that the image can be executed


def create(path: Path, objects: Iterable[NewObject] = (), *, capacity: int = CAPACITY, launch: str = "",
           id: uuid.UUID | None = None, time: int | None = None, deterministic: bool = False,
           mode: int = 0o755) -> None:  # fmt: skip
    """Make a new image holding ``objects``; never over an existing file (``FileExistsError``).

    ``capacity``: slots of the table, at least 0. ``launch``: launch script, at most 31 bytes. ``id``: None
    for a random one. ``time``: Unix seconds for all times, None for now. ``deterministic``: no ID and no
    times, unless given. ``mode`` is subject to the umask. On any error, and after a kill, there is no file: it gets
    its name when it is complete. Raises `BadValue`, `BadObject`, `PrimaryExists` and ``OSError``.
    """
    header = _header(capacity, launch, id, time, deterministic)
    name = os.fspath(path)
    if os.path.lexists(name):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    named = nameless.beside(name)
    fd = nameless.open_nameless(name, named, mode)
    try:
        os.ftruncate(fd, header.table_end)
        edit = Edit(name, fd, Table(header, (), header.table_end), header.created, True)
        edit.reached = f"/proc/{os.getpid()}/fd/{fd}"
        for new in objects:
            add_object(edit, new)
        edit.header = edit.header._replace(modified=header.modified)
        edit.commit()
        if not edit.objects:
            os.pwrite(fd, build_header(header), 0)
        os.fsync(fd)
        nameless.give_name(fd, named, name)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(named)
        raise
    finally:
        os.close(fd)


def _header(capacity: int, launch: str, id: uuid.UUID | None, time: int | None, deterministic: bool) -> Header:
    script = os.fsencode(launch)
    if len(script) > 31:
        raise BadValue(f"a launch script of {len(script)} bytes, 31 have room")
    if not 0 <= capacity <= MAX_CAPACITY:
        raise BadValue(f"{capacity} descriptors are not in 0 to {MAX_CAPACITY}")
    unset = uuid.UUID(int=0) if deterministic else uuid.uuid4()
    now = time if time is not None else ZERO_TIME if deterministic else int(clock.time())
    size = capacity * SLOT_SIZE
    end = TABLE_OFFSET + size
    assert end > HEADER_SIZE
    return Header(
        script.ljust(32, b"\0"), MAGIC, VERSION, NO_ARCH, (unset if id is None else id).bytes, now, now,
        capacity, capacity, TABLE_OFFSET, size, end, 0,
    )  # fmt: skip
