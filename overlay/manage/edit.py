"""An ext3 image edited in place by a command of ours: all of it happens, or nothing.

`overlay.manage.check` takes a cut-off edit back, by its log, before it looks at anything else.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from overlay.failure import Failure
from overlay.manage import edit_log
from overlay.records import TYPE_CHECKING
from overlay.section import Section

if TYPE_CHECKING:
    from overlay.extwrite.writer import Writer


def ready(section: Section, brief: str) -> list[str]:
    """Take back what was cut off and mend what is safe to mend; what was done, a sentence each.

    The caller holds the lock exclusively. `Failure` beginning with ``brief`` for damage, and while changes of a run
    wait to be committed. Raises OSError, ToolError.
    """
    from overlay.manage import check
    from overlay.session import pending as session_pending

    said = session_pending.make_current(section, brief)
    verdict = check.check(section, mend=True)
    if not verdict.usable:
        raise Failure(brief, verdict.summary, verdict.command)
    return said


@contextlib.contextmanager
def editing(section: Section, brief: str) -> Iterator[Writer]:
    """A writer into the image, whose changes are made at the end of the block, or dropped if that fails.

    The caller holds the lock exclusively and has made the image `ready`. Raises `Failure` beginning with ``brief``,
    ExtError for an image with features that ext3 lacks, OSError (ENOSPC: the image is full), ToolError.
    """
    from overlay.commit.rollback import rollback
    from overlay.extwrite.writer import Writer

    undo = edit_log.place(section)
    if not os.access(os.path.dirname(undo), os.W_OK | os.X_OK):
        raise Failure(brief, "its directory cannot be written, and the log that could take the change back lies there")
    edit_log.clear(undo)
    try:
        with Writer(section, undo) as writer:
            yield writer
            writer.finish()
    except BaseException:
        rollback(section, undo)
        raise
    # From here on nothing is taken back.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(undo)
    edit_log.clear(undo)


def upper(writer: Writer, brief: str) -> int:
    """The inode of ``upper/``, which is made, with ``work/``, in an image that is still empty.

    `Failure` for one that holds something else: that would not be seen any more as soon as there is an upper/.
    """
    import time

    from overlay.extwrite.inode import Attributes

    found = writer.lookup(writer.root, b"upper")
    if found:
        if not writer.inode(found).is_directory:
            raise Failure(brief, "upper in it is not a directory")
        return found
    if any(name != b"lost+found" for name, _, _ in writer.directory(writer.root)):
        raise Failure(brief, "it is no overlay: it has no upper/, and holds something else")
    now = time.time_ns()
    for name in (b"work", b"upper"):
        number = writer.mkdir(
            writer.root, name, Attributes(stat.S_IFDIR | 0o755, os.geteuid(), os.getegid(), now, now, now)
        )
    return number
