"""What a signature covers, and whether it still covers it. Keys and the signatures themselves are not
checked.

A signature's text lists digests of the streams made here (sylabs/sif ``pkg/integrity``, metadata version 1):

- of the header 61 bytes: launch script, magic, version, UUID;
- of each object's descriptor 557 bytes: type, used, ID relative to the lowest in the group, link, size,
  created, uid, gid, name, extra;
- of each object's data all bytes.

Not covered: architecture, counters, offsets, modified times, IDs and groups as such. So moving data and
growing the table keep a signature valid; renaming or adding to the group break it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from sifkit.sif.enums import DataType
from sifkit.sif.layout import build_extra
from sifkit.sif.reader import Image
from sifkit.sif.records import (
    Descriptor,
    Header,
)

MAX_SIGNATURE = 1 << 20  # bytes; real ones have a few thousand


class Mismatch(NamedTuple):
    """``signature`` covers something that has changed: ``text`` says what; ``object_id`` 0 is the header."""

    signature: Descriptor
    object_id: int
    text: str


def header_stream(header: Header) -> bytes:
    """The 61 covered bytes of the header."""
    return header.launch + header.magic + header.version + header.uuid


def descriptor_stream(descriptor: Descriptor, relative_id: int) -> bytes:
    """The 557 covered bytes of a descriptor; ``relative_id`` counts from the lowest ID of its group."""
    d = descriptor
    fixed = struct.pack("<iBIIqqqq", d.data_type, d.used, relative_id, d.link, d.size, d.created, d.uid, d.gid)
    return fixed + d.name + build_extra(d)


def group_members(objects: Iterable[Descriptor], group: int) -> list[tuple[int, Descriptor]]:
    """Objects of the raw ``group`` with their relative IDs, by ascending ID."""
    members = sorted((d for d in objects if d.group == group), key=lambda d: d.id)
    return [(d.id - members[0].id, d) for d in members]


def is_signature(descriptor: Descriptor) -> bool:
    """Whether the object is a signature."""
    return descriptor.data_type == DataType.SIGNATURE


def signed_groups(objects: Iterable[Descriptor]) -> set[int]:
    """Raw IDs of the groups with a signature; also of groups with a signed object (signatures before 2020)."""
    objects = list(objects)
    group_of = {d.id: d.group for d in objects}
    found = set()
    for d in filter(is_signature, objects):
        found.add(d.link if d.links_group else group_of.get(d.link_id, 0))
    return found - {0}


def coverage(header: Header, objects: Iterable[Descriptor]) -> dict[int, tuple[bytes, ...]]:
    """What the signatures of an image cover, by raw group; None-like key 0 for what must not be there.

    Key 0 holds the groups of all objects that no signature covers: verification of the whole image fails as
    soon as there is one more of them. Two states with equal coverage verify alike, as long as data keep their
    bytes.
    """
    objects = list(objects)
    covered = signed_groups(objects)
    if not covered:
        return {}
    found: dict[int, tuple[bytes, ...]] = {}
    for group in covered:
        members = [m for m in group_members(objects, group) if not is_signature(m[1])]
        found[group] = (header_stream(header), *(descriptor_stream(d, relative) for relative, d in members))
    loose = {d.group for d in objects if d.group not in covered and not is_signature(d)}
    found[0] = tuple(struct.pack("<I", group) for group in sorted(loose))
    return found


def breaks(before: dict[int, tuple[bytes, ...]], after: dict[int, tuple[bytes, ...]]) -> bool:
    """Whether a change from one `coverage` to another makes a signature fail. New signatures break nothing."""
    if not before:
        return False
    kept = all(after.get(group) == streams for group, streams in before.items() if group)
    return not (kept and set(after[0]) <= set(before[0]))


def signed_text(data: bytes) -> dict[str, Any] | None:
    """The signed JSON of a signature object: PGP clear text or DSSE. None for other kinds, legacy ones too."""
    import base64  # a run asks which groups are signed, and nothing more
    import json

    try:
        is_dsse = data.lstrip()[:1] == b"{"
        payload = base64.b64decode(json.loads(data)["payload"]) if is_dsse else _clear_text(data)
        text = json.loads(payload)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return text if isinstance(text, dict) and text.get("version") == 1 else None


def _clear_text(data: bytes) -> bytes:
    import re

    body = data.partition(b"-----BEGIN PGP SIGNED MESSAGE-----")[2].partition(b"-----BEGIN PGP SIGNATURE-----")[0]
    text = re.split(rb"\r?\n\r?\n", body, maxsplit=1)[-1]
    return re.sub(rb"(?m)^- ", b"", text)


def mismatches(image: Image) -> Iterator[Mismatch]:
    """Everything that the signatures of ``image`` list and that is different now. Reads all signed data."""
    for found in filter(is_signature, image.objects):
        if not found.links_group or not 0 <= found.size <= MAX_SIGNATURE or found.end > image.length:
            continue
        text = signed_text(image.read(found))
        if text is not None:
            yield from _compare(image, found, text)


def _compare(image: Image, signature: Descriptor, text: dict[str, Any]) -> Iterator[Mismatch]:
    header, listed = text.get("header"), text.get("objects")
    if not isinstance(header, dict) or not isinstance(listed, list):
        yield Mismatch(signature, 0, "the signed text is incomplete")
        return
    if not _equal(header.get("digest"), [header_stream(image.header)]):
        yield Mismatch(signature, 0, "the header is not the signed one")
    members = dict(group_members(image.objects, signature.link))
    for entry in listed:
        relative = entry.get("relativeId") if isinstance(entry, dict) else None
        member = members.pop(relative, None) if isinstance(relative, int) else None
        if member is None or not isinstance(relative, int):
            yield Mismatch(signature, 0, f"signed object {relative!r} of group {signature.link_group} is gone")
            continue
        if not _equal(entry.get("descriptorDigest"), [descriptor_stream(member, relative)]):
            yield Mismatch(signature, member.id, "the descriptor is not the signed one")
        if not _equal(entry.get("objectDigest"), _blocks(image, member)):
            yield Mismatch(signature, member.id, "the data are not the signed ones")


def _blocks(image: Image, descriptor: Descriptor) -> Iterator[bytes]:
    with image.view(descriptor) as view:
        while block := view.read(1 << 20):
            yield block


def _equal(digest: object, blocks: Iterable[bytes]) -> bool:
    name, _, wanted = digest.partition(":") if isinstance(digest, str) else ("", "", "")
    if name not in ("sha1", "sha224", "sha256", "sha384", "sha512", "sha512_224", "sha512_256"):
        return False
    import hashlib

    state = hashlib.new(name)
    for block in blocks:
        state.update(block)
    return state.hexdigest() == wanted
