"""Read, write, edit and check SIF images; usable without the rest of the package. Needs construct.

::

    from sifkit import sif

    with sif.open("image.sif") as image:
        for d in image.objects:
            print(d.id, sif.data_type_text(d.data_type), d.offset, d.size, d.name_text)
        squashfs = image.view(image.one(sif.of_part_type(sif.PartType.PRIMARY)))

    sif.create("new.sif", [sif.NewObject(sif.DataType.DEFFILE, b"bootstrap: docker\\n")])
    sif.add("new.sif", sif.partition("rootfs.sqfs", sif.FsType.SQUASHFS, sif.PartType.PRIMARY, "amd64"))
    sif.delete("new.sif", 1, zero=True)
    sif.compact("new.sif")

The bytes are drawn in `sifkit.sif.layout`. Errors are `SifError` and ``OSError``. Names below are loaded on
first use, so that ``sif.is_sif`` costs no construct.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # typing's, which takes longer to load than an image to read
if TYPE_CHECKING:
    from typing import Any

    from sifkit.sif.arch import arch_code, arch_text
    from sifkit.sif.edit import Edit, Written, editing
    from sifkit.sif.edit_add import add, add_object, settle
    from sifkit.sif.edit_change import change, set_primary
    from sifkit.sif.edit_compact import compact
    from sifkit.sif.edit_delete import delete
    from sifkit.sif.edit_grow import grow
    from sifkit.sif.enums import (
        CryptoFormat,
        CryptoMessage,
        DataType,
        FsType,
        HashType,
        PartType,
        SbomFormat,
        data_type_text,
        fs_text,
        hash_text,
        part_text,
        sbom_text,
    )
    from sifkit.sif.errors import (
        BadObject,
        BadValue,
        BadVersion,
        Corrupt,
        HardLinked,
        InUse,
        LockUnavailable,
        Mislabelled,
        MultipleObjects,
        NotSif,
        ObjectNotFound,
        PrimaryExists,
        SifError,
        Signed,
        Truncated,
        WrongObject,
    )
    from sifkit.sif.inspection import Finding, check
    from sifkit.sif.objects import Fill, NewObject, architecture, partition, signature
    from sifkit.sif.reader import Image, open
    from sifkit.sif.records import CryptoExtra, Descriptor, Header, PartitionExtra, SbomExtra, SignatureExtra
    from sifkit.sif.selection import (
        Selector,
        all_of,
        any_of,
        by_id,
        linked_to,
        linked_to_group,
        negate,
        of_fs_type,
        of_group,
        of_part_type,
        of_type,
        one,
        select,
        with_digest,
    )
    from sifkit.sif.sniff import is_sif
    from sifkit.sif.view import ObjectView
    from sifkit.sif.writer import LAUNCH_SCRIPT, create

__all__ = [
    "LAUNCH_SCRIPT",
    "BadObject",
    "BadValue",
    "BadVersion",
    "Corrupt",
    "CryptoExtra",
    "CryptoFormat",
    "CryptoMessage",
    "DataType",
    "Descriptor",
    "Edit",
    "Fill",
    "Finding",
    "FsType",
    "HardLinked",
    "HashType",
    "Header",
    "Image",
    "InUse",
    "LockUnavailable",
    "Mislabelled",
    "MultipleObjects",
    "NewObject",
    "NotSif",
    "ObjectNotFound",
    "ObjectView",
    "PartType",
    "PartitionExtra",
    "PrimaryExists",
    "SbomExtra",
    "SbomFormat",
    "Selector",
    "SifError",
    "SignatureExtra",
    "Signed",
    "Truncated",
    "Written",
    "WrongObject",
    "add",
    "add_object",
    "all_of",
    "any_of",
    "arch_code",
    "arch_text",
    "architecture",
    "by_id",
    "change",
    "check",
    "compact",
    "create",
    "data_type_text",
    "delete",
    "editing",
    "fs_text",
    "grow",
    "hash_text",
    "is_sif",
    "linked_to",
    "linked_to_group",
    "negate",
    "of_fs_type",
    "of_group",
    "of_part_type",
    "of_type",
    "one",
    "open",
    "part_text",
    "partition",
    "sbom_text",
    "select",
    "set_primary",
    "settle",
    "signature",
    "with_digest",
]

# Module -> the names that it gives to this package.
_MODULES = {
    "edit": "Edit Written editing",
    "edit_add": "add add_object settle",
    "edit_change": "change set_primary",
    "edit_compact": "compact",
    "edit_delete": "delete",
    "edit_grow": "grow",
    "arch": "arch_code arch_text",
    "enums": "CryptoFormat CryptoMessage DataType FsType HashType PartType SbomFormat"
    " data_type_text fs_text hash_text part_text sbom_text",
    "errors": "BadObject BadValue BadVersion Corrupt HardLinked InUse LockUnavailable Mislabelled MultipleObjects"
    " NotSif ObjectNotFound PrimaryExists SifError Signed Truncated WrongObject",
    "inspection": "Finding check",
    "records": "CryptoExtra Descriptor Header PartitionExtra SbomExtra SignatureExtra",
    "objects": "Fill NewObject architecture partition signature",
    "reader": "Image open",
    "selection": "Selector all_of any_of by_id linked_to linked_to_group negate of_fs_type of_group"
    " of_part_type of_type one select with_digest",
    "sniff": "is_sif",
    "view": "ObjectView",
    "writer": "LAUNCH_SCRIPT create",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
