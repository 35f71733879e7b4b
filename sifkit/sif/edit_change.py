"""Change what a descriptor says: the primary partition, name, group, link, and the type's own fields."""

from __future__ import annotations

from typing import Any

from sifkit.sif.arch import NO_ARCH
from sifkit.sif.edit import Edit, Written, editing
from sifkit.sif.enums import PartType
from sifkit.sif.errors import BadValue, WrongObject
from sifkit.sif.layout import build_descriptor
from sifkit.sif.objects import architecture, extra_field, group_field, link_field, name_field
from sifkit.sif.reader import Path
from sifkit.sif.records import (
    Descriptor,
    Extra,
    PartitionExtra,
)


def set_primary(path: Path, number: int, *, time: int | None = None, force: bool = False) -> Written:
    """Make system partition ``number`` the primary one; the one before becomes a plain system partition.

    The header takes the new one's architecture (sylabs/sif v2.11.2 and later). No change when it is already
    primary. Raises `WrongObject` when it is no system partition, `ObjectNotFound`, `InUse`, `Signed`, ...
    """
    with editing(path, time=time, force=force) as edit:
        _make_primary(edit, edit.find(number))
        edit.require_unbroken("setting the primary partition")
        edit.commit()
        return edit.result((number,))


def _make_primary(edit: Edit, descriptor: Descriptor) -> None:
    extra = descriptor.partition
    if extra is None:
        raise WrongObject(f"object {descriptor.id} is not a partition", path=edit.path)
    if extra.part == PartType.PRIMARY:
        return
    if extra.part != PartType.SYSTEM:
        raise WrongObject(f"object {descriptor.id} is not a system partition", path=edit.path)
    old = edit.primary
    if old is not None:
        _put(edit, old, extra=_part(old, PartType.SYSTEM))
    _put(edit, descriptor, extra=_part(descriptor, PartType.PRIMARY))
    edit.header = edit.header._replace(arch=extra.arch)


def _part(descriptor: Descriptor, part: int) -> PartitionExtra:
    assert descriptor.partition is not None
    return descriptor.partition._replace(part=part)


def _put(edit: Edit, descriptor: Descriptor, **fields: Any) -> Descriptor:
    edit.claim(descriptor)
    changed = descriptor._replace(**fields, modified=edit.now)
    try:
        build_descriptor(changed)
    except ValueError as error:
        raise BadValue(str(error), path=edit.path) from error
    edit.put(changed)
    edit.header = edit.header._replace(modified=edit.now)
    return changed


def change(path: Path, number: int, *, name: str | bytes | None = None, group: int | None = None,
           link: int | None = None, link_group: int | None = None, fs: int | None = None,
           part: int | None = None, arch: str | bytes | None = None, extra: Extra | None = None,
           time: int | None = None, force: bool = False) -> Written:  # fmt: skip
    """Change fields of object ``number``; None leaves a field as it is, 0 takes group or link away.

    ``fs``, ``part``, ``arch`` are for partitions; ``extra`` replaces the record or bytes of the type. A part
    type of primary demotes the primary partition that there is, and the header's architecture follows. Raises
    `BadValue`, `WrongObject`, `ObjectNotFound`, `InUse`, `Signed`, ``OSError`` and the errors of
    `reader.open`.
    """
    with editing(path, time=time, force=force) as edit:
        descriptor = edit.find(number)
        fields = _plain_fields(name, group, link, link_group)
        if extra is not None:
            fields["extra"] = extra_field(descriptor.data_type, extra)
        if fields:
            descriptor = _put(edit, descriptor, **fields)
        if not (fs is None and part is None and arch is None):
            _change_partition(edit, descriptor, fs, part, arch)
        edit.require_unbroken(f"changing object {number}")
        edit.commit()
        return edit.result((number,))


def _plain_fields(name: str | bytes | None, group: int | None, link: int | None,
                  link_group: int | None) -> dict[str, Any]:  # fmt: skip
    fields: dict[str, Any] = {}
    if name is not None:
        fields["name"] = name_field(name)
    if group is not None:
        fields["group"] = group_field(group)
    if link is not None or link_group is not None:
        fields["link"] = link_field(link or 0, link_group or 0)
    return fields


def _change_partition(edit: Edit, descriptor: Descriptor, fs: int | None, part: int | None,
                      arch: str | bytes | None) -> None:  # fmt: skip
    old = descriptor.partition
    if old is None:
        raise WrongObject(f"object {descriptor.id} is not a partition", path=edit.path)
    new = old._replace(
        fs=old.fs if fs is None else fs,
        part=old.part if part is None else part,
        arch=old.arch if arch is None else architecture(arch),
    )
    other = edit.primary
    if new.part == PartType.PRIMARY:
        if other is not None and other.slot != descriptor.slot:
            _put(edit, other, extra=_part(other, PartType.SYSTEM))
        edit.header = edit.header._replace(arch=new.arch)
    elif old.part == PartType.PRIMARY:
        edit.header = edit.header._replace(arch=NO_ARCH)
    _put(edit, descriptor, extra=new)
