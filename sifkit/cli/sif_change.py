"""``sifkit sif add`` and ``sifkit sif set``: the commands with siftool's flags for an object's fields."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sifkit.cli import sif_types as types
from sifkit.cli.sif_failures import failures
from sifkit.sif.arch import ARCHITECTURES

if TYPE_CHECKING:
    from sifkit.sif import Descriptor, Edit, NewObject, PartitionExtra

_FIELDS: list[Callable[[Any], Any]] = [
    click.option("--filename", "--name", "name", metavar="NAME", help="Name of the object. Default: none."),
    click.option("--groupid", "--group", "group", type=int, metavar="N", help="Group; 0 is none. Default: see above."),
    click.option("--link", type=int, metavar="ID", help="Object that this one belongs to. Default: none."),
    click.option("--link-group", type=int, metavar="N", help="Group that this one belongs to. Default: none."),
    click.option("--partfs", "fs", type=types.FS_TYPE, metavar="FS", help=f"File system: {types.FS_TYPE.choices()}."),
    click.option("--parttype", "part", type=types.PART_TYPE, metavar="TYPE", help=f"Use: {types.PART_TYPE.choices()}."),
    click.option("--partarch", "arch", type=types.ARCH, metavar="ARCH", help=f"Machine: {types.ARCH.choices()}."),
    click.option("--signhash", "hash_type", type=types.HASH, metavar="HASH", help=f"Hash: {types.HASH.choices()}."),
    click.option("--signentity", "entity", type=types.Fingerprint(), metavar="HEX", help="Fingerprint of the signer."),
    click.option("--sbomformat", "sbom", type=types.SBOM, metavar="FORMAT", help=f"Format: {types.SBOM.choices()}."),
]


class Fields(NamedTuple):
    """The options that `add` and `set` share; None where not given."""

    name: str | None
    group: int | None
    link: int | None
    link_group: int | None
    fs: int | None
    part: int | None
    arch: int | None
    hash_type: int | None
    entity: bytes | None
    sbom: int | None


def _fields(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_FIELDS):
        command = option(command)
    return command


def _say(text: str) -> None:
    click.echo(text, err=True)


@click.command("add", epilog="Example: sifkit sif add image.sif overlay.img --datatype partition --parttype overlay")
@click.option("--datatype", type=types.DATA_TYPE, required=True, metavar="TYPE", help=types.DATA_TYPE.choices() + ".")
@_fields
@click.option("--alignment", type=int, metavar="BYTES", help="Alignment. Default: 4096 for partitions, else none.")
@click.option("--force", is_flag=True, help="Do it also when that breaks a signature or OBJECT is not what is said.")
@click.argument("file", type=types.FILE, metavar="FILE")
@click.argument("source", type=types.FILE, metavar="OBJECT")
def add(file: str, source: str, datatype: int, alignment: int | None, force: bool, **options: Any) -> None:
    """Add OBJECT, a file or - for standard input, to the image.

    A partition's file system and architecture are taken from OBJECT when not given, and it goes into the
    group of the primary partition; other objects go into no group. A full table grows.
    """
    from sifkit import sif as library

    fields = Fields(**options)
    _require(datatype, fields)
    with failures(f"cannot add {source} to {file}"), _opened(source) as fd:
        with library.editing(file, force=force) as edit:
            new = _new_object(edit, datatype, fields, fd, alignment)
            early = stat.S_ISREG(os.fstat(fd).st_mode)
            if new.data_type == library.DataType.PARTITION and early:
                start = os.lseek(fd, 0, os.SEEK_CUR)
                size = os.fstat(fd).st_size - start
                new = new._replace(extra=_partition(edit, fields, (fd, start, size), force))
            added = library.add_object(edit, new)
            _say_of_link(edit, fields)
            if new.data_type == library.DataType.PARTITION and not early:
                extra = _partition(edit, fields, (edit.fd, added.offset, added.size), force)
                library.settle(edit, added, extra)
            broke = edit.broken()
        _say(f"added as object {added.id}")
    if broke:
        _say("WARNING: the signature of this image is now broken")


class _opened:
    """OBJECT as a descriptor; "-" is standard input."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __enter__(self) -> int:
        self._fd = 0 if self._source == "-" else os.open(self._source, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd

    def __exit__(self, *error: object) -> None:
        if self._source != "-":
            os.close(self._fd)


def _require(datatype: int, fields: Fields) -> None:
    """Usage errors for flags that the type needs, or that belong to another."""
    belongs = {0x4004: ("fs", "part", "arch"), 0x4005: ("hash_type", "entity"), 0x4009: ("sbom",)}
    flags = {"fs": "--partfs", "part": "--parttype", "arch": "--partarch", "hash_type": "--signhash",
             "entity": "--signentity", "sbom": "--sbomformat"}  # fmt: skip
    for kind, names in belongs.items():
        for name in names:
            if kind != datatype and getattr(fields, name) is not None:
                raise click.UsageError(f"{flags[name]} does not fit this --datatype")
    for kind, name in ((0x4004, "part"), (0x4005, "hash_type"), (0x4009, "sbom")):
        if kind == datatype and getattr(fields, name) is None:
            raise click.UsageError(f"this --datatype needs {flags[name]}")


def _new_object(edit: Edit, datatype: int, fields: Fields, fd: int, alignment: int | None) -> NewObject:
    from sifkit import sif as library

    extra: Any = b""
    if datatype == library.DataType.PARTITION:
        extra = library.PartitionExtra(fields.fs or 0, fields.part or 0)
    elif datatype == library.DataType.SIGNATURE:
        extra = library.SignatureExtra(fields.hash_type or 0, (fields.entity or b"").ljust(256, b"\0"))
    elif datatype == library.DataType.SBOM:
        extra = library.SbomExtra(fields.sbom or 0)
    return library.NewObject(
        datatype, fd, fields.name or "", _group(edit, datatype, fields), fields.link or 0, fields.link_group or 0,
        alignment, None, extra,
    )  # fmt: skip


def _say_of_link(edit: Edit, fields: Fields) -> None:
    """A link may come before what it leads to, so it is no error."""
    objects = edit.objects.values()
    if fields.link and all(d.id != fields.link for d in objects):
        _say(f"WARNING: it links to object {fields.link}, which is not there")
    if fields.link_group and all(d.group_id != fields.link_group for d in objects):
        _say(f"WARNING: it links to group {fields.link_group}, which is empty")


def _group(edit: Edit, datatype: int, fields: Fields) -> int:
    from sifkit.sif import DataType

    if fields.group is not None:
        return fields.group
    if datatype != DataType.PARTITION:
        return 0
    primary = edit.primary
    if primary is None:
        _say("group: 1 (--groupid sets another)")
        return 1
    group = primary.group_id or "none"
    _say(f"group: {group}, that of the primary partition, object {primary.id} (--groupid sets another)")
    return primary.group_id


def _partition(edit: Edit, fields: Fields, where: tuple[int, int, int], force: bool) -> PartitionExtra:
    """The extra of a partition whose bytes are at ``where``: descriptor, offset, size."""
    from sifkit.sif import BadObject, Mislabelled, PartitionExtra, architecture, fs_text
    from sifkit.sif.infer import disagreement, file_system
    from sifkit.sif.sniff import HEAD

    fd, offset, size = where
    fs = fields.fs
    if fs is None:
        fs = file_system(fd, offset)
        if not fs:
            raise BadObject("no file system that is known; --partfs raw adds it as it is", path=edit.path)
        _say(f"file system: {fs_text(fs)}, from the object")
    if not force and (wrong := disagreement(os.pread(fd, min(HEAD, size), offset), size, fs)):
        raise Mislabelled(wrong, path=edit.path)
    return PartitionExtra(fs, fields.part or 0, architecture(_arch(edit, fields, where)))


def _arch(edit: Edit, fields: Fields, where: tuple[int, int, int]) -> str:
    from sifkit.sif import PartType, arch_text, infer

    if fields.arch is not None:
        return ARCHITECTURES[fields.arch]
    if found := infer.architecture(*where):
        _say(f"architecture: {found}, from a program in the object")
        return found
    primary = arch_text(edit.header.arch)
    if primary != "unknown" and fields.part != PartType.PRIMARY:
        _say(f"architecture: {primary}, that of the primary partition (--partarch sets another)")
        return primary
    host = infer.host_architecture()
    _say(f"architecture: {host}, this machine's (--partarch sets another)")
    return host


@click.command("set", epilog="Example: sifkit sif set 4 image.sif --group 1 --parttype overlay")
@_fields
@click.option("--force", is_flag=True, help="Do it also when that breaks a signature or does not fit the bytes.")
@click.argument("number", type=int, metavar="ID")
@click.argument("file", type=types.FILE, metavar="FILE")
def set_(number: int, file: str, force: bool, **options: Any) -> None:
    """Change the name, group, link or type of object ID; its bytes stay."""
    from sifkit import sif as library

    fields = Fields(**options)
    if all(value is None for value in fields):
        raise click.UsageError("nothing to change: give at least one option")
    with failures(f"cannot change object {number} of {file}"):
        with library.open(file) as image:
            found = image.one(library.by_id(number))
            _check_fs(image.fd, found, fields, force)
        arch = None if fields.arch is None else ARCHITECTURES[fields.arch]
        done = library.change(
            file, number, name=fields.name, group=fields.group, link=fields.link, link_group=fields.link_group,
            fs=fields.fs, part=fields.part, arch=arch, extra=_changed_extra(found, fields), force=force,
        )  # fmt: skip
    if done.broke:
        _say("WARNING: the signature of this image is now broken")


def _check_fs(fd: int, found: Descriptor, fields: Fields, force: bool) -> None:
    from sifkit.sif import Mislabelled
    from sifkit.sif.infer import disagreement
    from sifkit.sif.sniff import HEAD

    if fields.fs is None or force or found.offset < 0 or found.size < 0:
        return
    if wrong := disagreement(os.pread(fd, min(HEAD, found.size), found.offset), found.size, fields.fs):
        raise Mislabelled(wrong)


def _changed_extra(found: Descriptor, fields: Fields) -> Any:
    from sifkit.sif import SbomExtra, SignatureExtra, WrongObject

    extra = found.extra
    if fields.hash_type is not None or fields.entity is not None:
        if not isinstance(extra, SignatureExtra):
            raise WrongObject(f"object {found.id} is not a signature")
        hash_type = extra.hash_type if fields.hash_type is None else fields.hash_type
        entity = extra.entity if fields.entity is None else fields.entity.ljust(256, b"\0")
        return extra._replace(hash_type=hash_type, entity=entity)
    if fields.sbom is not None:
        if not isinstance(extra, SbomExtra):
            raise WrongObject(f"object {found.id} is not an SBOM")
        return extra._replace(format=fields.sbom)
    return None
