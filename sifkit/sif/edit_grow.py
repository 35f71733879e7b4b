"""A larger table. It is written behind all data and the header points to it; nothing else moves.

The Go library follows the header's offsets and puts the next object past the data offset, so the header
says that the data (to come) start after the new table. Rejected: a new file with the data moved up, which
costs a copy of the image and cannot be done while a container uses it. `edit_compact` puts the table back to
the front.
"""

from __future__ import annotations

from sifkit.sif.edit import Edit, Written, editing
from sifkit.sif.errors import BadValue
from sifkit.sif.reader import MAX_CAPACITY, Path
from sifkit.sif.records import (
    SLOT_SIZE,
)


def grow(path: Path, capacity: int, *, time: int | None = None) -> Written:
    """Give the image room for ``capacity`` descriptors; signatures stay valid. Less than now is `BadValue`."""
    with editing(path, time=time) as edit:
        if capacity < edit.header.total:
            raise BadValue(
                f"{capacity} descriptors are fewer than the {edit.header.total} of the image", path=edit.path
            )
        if capacity > edit.header.total:
            grow_table(edit, capacity)
            edit.header = edit.header._replace(modified=edit.now)
        edit.commit()
        return edit.result(())


def grow_table(edit: Edit, capacity: int) -> None:
    """Within a change: a table of ``capacity`` slots behind the data."""
    if capacity > MAX_CAPACITY:
        raise BadValue(f"{capacity} descriptors are more than the {MAX_CAPACITY} that are read", path=edit.path)
    end = edit.data_end()
    size = capacity * SLOT_SIZE
    edit.header = edit.header._replace(
        total=capacity, table_size=size, table_offset=end, data_offset=end + size, data_size=0
    )
    edit.length = max(edit.length, edit.header.data_offset)
