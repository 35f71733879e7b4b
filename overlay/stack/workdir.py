"""What root's kernel overlayfs leaves behind in ``work/``, which an ordinary user could not remove.

The kernel keeps ``work/work`` with the whiteout that it links to every deleted name, and clears it at the next
mount. Where that next mount is an ordinary user's, whose the overlay is, it may not, and the kernel then mounts
read-only without an error: Apptainer takes that for a writable mount and fails ("operation not permitted").
"""

from __future__ import annotations

import contextlib

from overlay.remove import remove
from overlay.section import Section

PLACE = b"/".join((b"", b"work", b"work"))


def clear_image(section: Section) -> None:
    """Remove ``work/work`` from an image that is not mounted any more; the caller holds its lock. Raises OSError.

    An image that is damaged, or that its writer did not leave properly, stays as it is: the next run checks it.
    """
    from overlay import e2fsprogs  # none of this for a directory, which has the other function
    from overlay.extread.reader import ExtError, ExtReader
    from overlay.manage import check

    with contextlib.suppress(ExtError, e2fsprogs.ToolError):
        if check.needs_check(section):
            return
        with ExtReader(section) as reader:
            found = list(reader.walk(PLACE))
        verbs = {path: b"rmdir" if inode.is_directory else b"rm" for path, inode in found}
        commands = [[verbs[path], PLACE + b"/" + path if path else PLACE] for path, _ in reversed(found)]
        if commands:
            e2fsprogs.debugfs(section, commands, write=True)


def clear_directory(work: str) -> None:
    """Remove ``work``/work; what cannot be removed is the next run's matter."""
    with contextlib.suppress(OSError):
        remove(f"{work}/work")
