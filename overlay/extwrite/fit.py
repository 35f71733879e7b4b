"""Which ext file systems are written without mounting: ext2 and ext3 as mke2fs makes them, left clean."""

from __future__ import annotations

from overlay.records import TYPE_CHECKING
from overlay.superblock import Superblock

if TYPE_CHECKING:
    from typing import Final

_WRITABLE_INCOMPAT: Final = 0x2 | 0x10
_WRITABLE_RO: Final = 0x1 | 0x2 | 0x4
_NO_COMPAT: Final = 0x200 | 0x400 | 0x1000  # sparse_super2, fast_commit, orphan_file


def refusal(sb: Superblock) -> str:
    """Why `overlay.extwrite.writer.Writer` does not write into a file system like this; empty when it does."""
    strange = sb._replace(
        compat=sb.compat & _NO_COMPAT,
        incompat=sb.incompat & ~_WRITABLE_INCOMPAT,
        ro_compat=sb.ro_compat & ~_WRITABLE_RO,
    )
    if sb.needs_recovery:
        return "its journal holds writes to replay"
    if strange.features:
        return f"it has features that ext3 lacks: {', '.join(strange.features)}"
    return "" if sb.clean else "it was not left clean"
