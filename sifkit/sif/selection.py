"""Choosing objects: small tests that compose with ``all_of``, ``any_of`` and ``negate``.

::

    sif.select(image.objects, sif.of_group(1), sif.of_part_type(sif.PartType.OVERLAY))
    sif.one(image.objects, sif.by_id(3))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sifkit.sif.errors import MultipleObjects, ObjectNotFound
from sifkit.sif.records import (
    Descriptor,
)

Selector = Callable[[Descriptor], bool]


def by_id(number: int) -> Selector:
    """The object with this ID."""
    return lambda d: d.id == number


def of_type(data_type: int) -> Selector:
    """Objects of an `enums.DataType`."""
    return lambda d: d.data_type == data_type


def of_group(number: int) -> Selector:
    """Objects of group ``number``; 0 takes those of no group."""
    return lambda d: d.group_id == number


def linked_to(number: int) -> Selector:
    """Objects that link to object ``number``."""
    return lambda d: number != 0 and d.link_id == number


def linked_to_group(number: int) -> Selector:
    """Objects that link to group ``number``."""
    return lambda d: number != 0 and d.link_group == number


def of_part_type(part_type: int) -> Selector:
    """Partitions of an `enums.PartType`."""
    return lambda d: d.partition is not None and d.partition.part == part_type


def of_fs_type(fs_type: int) -> Selector:
    """Partitions with an `enums.FsType`."""
    return lambda d: d.partition is not None and d.partition.fs == fs_type


def with_digest(digest: str) -> Selector:
    """OCI objects with this ``sha256:...``."""
    return lambda d: d.digest == digest != ""


def all_of(*selectors: Selector) -> Selector:
    """Objects that pass every one of ``selectors``."""
    return lambda d: all(test(d) for test in selectors)


def any_of(*selectors: Selector) -> Selector:
    """Objects that pass at least one of ``selectors``."""
    return lambda d: any(test(d) for test in selectors)


def negate(selector: Selector) -> Selector:
    """Objects that do not pass ``selector``."""
    return lambda d: not selector(d)


def select(objects: Iterable[Descriptor], *selectors: Selector) -> tuple[Descriptor, ...]:
    """Those of ``objects`` that pass all ``selectors``, in the order of the table."""
    return tuple(d for d in objects if all(test(d) for test in selectors))


def one(objects: Iterable[Descriptor], *selectors: Selector, path: str = "") -> Descriptor:
    """The only object that passes. Raises `ObjectNotFound` and `MultipleObjects`."""
    found = select(objects, *selectors)
    if not found:
        raise ObjectNotFound("object not found", path=path)
    if len(found) > 1:
        ids = ", ".join(str(d.id) for d in found)
        raise MultipleObjects(f"multiple objects found (IDs {ids})", path=path)
    return found[0]
