"""Put an ext3 overlay into a SIF image, made at its final place: no temporary copy, and holes stay holes."""

from __future__ import annotations

from collections.abc import Iterable

from overlay.failure import Failure
from overlay.manage.create import Created, format_ext3
from overlay.section import Section
from sifkit import sif
from sifkit.sif import Descriptor, FsType, PartType


def create_overlay(
    path: str,
    size: int,
    *,
    dirs: Iterable[str] = (),
    sparse: bool = False,
    inodes: int | None = None,
    bytes_per_inode: int | None = None,
    owner: tuple[int, int] | None = None,
    label: str | None = None,
) -> Created:
    """Add an ext3 overlay partition of ``size`` bytes to the image ``path``, in the group of its root.

    The other arguments are those of `overlay.manage.create.format_ext3`.

    `Failure`, each with its own sentence, for an image that is signed, encrypted, has no root or has an ext3
    overlay already. Interrupted at any point, the image is as it was.
    """
    made: list[Created] = []

    def format_in_place(file: str, offset: int) -> None:
        section = Section(file, offset, size)
        made.append(
            format_ext3(
                section, dirs=dirs, sparse=sparse, inodes=inodes, bytes_per_inode=bytes_per_inode, owner=owner,
                label=label,
            )
        )  # fmt: skip

    try:
        with sif.editing(path) as edit:
            primary = _check(path, list(edit.objects.values()))
            extra = primary.partition
            assert extra is not None
            fill = sif.Fill(size, format_in_place)
            group = primary.group_id or 1
            sif.add_object(edit, sif.partition(fill, FsType.EXT3, PartType.OVERLAY, extra.arch, group=group))
            edit.commit()
    except sif.Signed:
        raise _signed(path) from None
    except sif.SifError as error:
        raise Failure(f"cannot add an overlay to {path}", str(error), f"sifkit sif check {path}") from None
    return made[0]


def _check(path: str, objects: list[Descriptor]) -> Descriptor:
    primary = next((d for d in objects if d.is_primary), None)
    brief = f"cannot add an overlay to {path}"
    if primary is None or primary.partition is None:
        hint = "a SIF of overlays only is made with sifkit sif new and sifkit sif add"
        raise Failure(brief, "it has no root file system to be an overlay on", hint)
    if any(d.data_type == sif.DataType.SIGNATURE for d in objects):
        raise _signed(path)
    if primary.partition.fs in (FsType.ENCRYPTED_SQUASHFS, FsType.GOCRYPTFS_SQUASHFS):
        raise Failure(brief, "its root file system is encrypted, and what is written would not be")
    for d in objects:
        if d.partition and d.partition.part == PartType.OVERLAY and d.partition.fs == FsType.EXT3:
            hint = f"sifkit sif del {d.id} {path} removes it, with all that is in it"
            if not d.group_id:
                hint = f"it is in no group and so never shown; sifkit sif set {d.id} {path} --group 1 mends that"
            raise Failure(brief, f"it has a writable overlay already (object {d.id})", hint)
    return primary


def _signed(path: str) -> Failure:
    return Failure(
        f"cannot add an overlay to {path}",
        "it is signed, and a change would break the signature",
        "use an overlay beside it: sifkit overlay create changes.img",
    )
