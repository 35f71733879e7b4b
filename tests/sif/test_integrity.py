"""What signatures cover: equal to what the Go library signed, kept by compact and grow, broken by the rest."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import struct
from pathlib import Path

import pytest

from sifkit import sif
from sifkit.sif import integrity

TEXT = sif.NewObject(sif.DataType.GENERIC, b"text")


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _covered(path: str, group: int) -> dict[str, object]:
    """The text that a signer would sign now, from the bytes of the file alone (not through our parser)."""
    data = Path(path).read_bytes()
    total, table = struct.unpack_from("<qq", data, 88)
    slots = [data[table + n * 585 : table + (n + 1) * 585] for n in range(total)]
    members = []
    for slot in slots:
        kind, used, number, raw, link, offset, size = struct.unpack_from("<iBIIIqq", slot)
        if used and raw == 0xF0000000 | group and kind != 0x4005:
            members.append((number, slot, kind, link, data[offset : offset + size]))
    members.sort()
    objects = []
    for number, slot, kind, link, content in members:
        relative = number - members[0][0]
        stream = struct.pack("<iBIIq", kind, 1, relative, link, len(content)) + slot[41:49] + slot[57:585]
        entry = {"relativeId": relative, "descriptorDigest": _digest(stream), "objectDigest": _digest(content)}
        objects.append(entry)
    return {"version": 1, "header": {"digest": _digest(data[:45] + data[48:64])}, "objects": objects}


@pytest.fixture
def signed(image: str) -> str:
    """The small image with a DSSE envelope about group 1 (nobody signed it; what it covers is right)."""
    text = json.dumps(_covered(image, 1), separators=(",", ":")).encode()
    envelope = {"payloadType": "application/vnd.sylabs.sif-metadata+json", "payload": base64.b64encode(text).decode()}
    sif.add(image, sif.signature(json.dumps({**envelope, "signatures": []}).encode(), 1, link_group=1))
    return image


def _mismatches(path: str) -> list[tuple[int, str]]:
    with sif.open(path) as image:
        return [(m.object_id, m.text) for m in integrity.mismatches(image)]


def test_streams_are_as_long_as_the_format_says(image: str) -> None:
    with sif.open(image) as opened:
        assert len(integrity.header_stream(opened.header)) == 61
        assert {len(integrity.descriptor_stream(d, 0)) for d in opened.objects} == {557}


@pytest.mark.parametrize("name", ["05-signed-tiny.sif", "05-signed-dsse-ed25519.sif"])
def test_what_the_go_library_signed(golden: Path, tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    shutil.copyfile(golden / name, path)
    with sif.open(path) as image:
        found = [d for d in image.objects if integrity.is_signature(d)]
        assert [integrity.signed_text(image.read(d)) for d in found] == [_covered(path, 1)]
    assert _mismatches(path) == []
    sif.grow(path, 100)
    for _ in range(60):
        try:
            sif.add(path, sif.signature(b"another", 1, link_group=1))
        except sif.Signed:
            pytest.fail("one more signature breaks none")
    sif.compact(path)
    assert _mismatches(path) == []
    with pytest.raises(sif.Signed):
        sif.change(path, 1, name="x")
    data = bytearray(Path(path).read_bytes())
    with sif.open(path) as image:
        data[image.objects[0].offset] ^= 1
    Path(path).write_bytes(data)
    assert _mismatches(path) == [(1, "the data are not the signed ones")]
    assert any(finding.object_id == 1 for finding in sif.check(path))


def test_moving_and_growing_keep_signatures(signed: str) -> None:
    before = _covered(signed, 1)
    with sif.open(signed) as image:
        places = [d.offset for d in image.objects]
    sif.grow(signed, 1000)
    assert _covered(signed, 1) == before and _mismatches(signed) == []
    sif.compact(signed)
    assert _covered(signed, 1) == before and _mismatches(signed) == []
    with sif.open(signed) as image:
        assert all(now > then for now, then in zip([d.offset for d in image.objects], places, strict=True))
    assert sif.check(signed) == []


CHANGES = {
    "add to the group": lambda path, force: sif.add(path, TEXT, force=force),
    "add to a new group": lambda path, force: sif.add(path, TEXT._replace(group=2), force=force),
    "add to no group": lambda path, force: sif.add(path, TEXT._replace(group=0), force=force),
    "delete the first": lambda path, force: sif.delete(path, 1, force=force),
    "delete the signature": lambda path, force: sif.delete(path, 4, force=force),
    "rename": lambda path, force: sif.change(path, 3, name="b.json", force=force),
    "link": lambda path, force: sif.change(path, 3, link=1, force=force),
    "regroup": lambda path, force: sif.change(path, 3, group=2, force=force),
    "demote": lambda path, force: sif.change(path, 2, part=sif.PartType.SYSTEM, force=force),
}


@pytest.mark.parametrize("what", CHANGES)
def test_breaking_a_signature_needs_force(signed: str, what: str) -> None:
    before = Path(signed).read_bytes()
    with pytest.raises(sif.Signed):
        CHANGES[what](signed, False)
    assert Path(signed).read_bytes() == before
    assert CHANGES[what](signed, True).broke
    if what not in ("add to a new group", "add to no group", "delete the signature", "add to the group"):
        assert _mismatches(signed)


def test_nothing_is_written_before_the_refusal(signed: str) -> None:
    written: list[int] = []
    new = TEXT._replace(source=sif.Fill(1 << 20, lambda path, offset: written.append(offset)))
    with pytest.raises(sif.Signed):
        sif.add(signed, new)
    assert written == []


def test_what_breaks_nothing_needs_no_force(signed: str, image: str) -> None:
    assert not sif.add(signed, sif.signature(b"second", 1, link_group=1)).broke
    assert not sif.change(signed, 5, name="second").broke
    assert not sif.delete(signed, 5).broke
    assert _mismatches(signed) == []


def test_set_primary_breaks(signed: str) -> None:
    sif.delete(signed, 4, force=True)
    sif.add(signed, sif.partition(b"p", sif.FsType.RAW, sif.PartType.SYSTEM, "amd64"))
    sif.add(signed, sif.signature(b"about group 1", 1, link_group=1))
    with pytest.raises(sif.Signed):
        sif.set_primary(signed, 4)


def test_a_signature_of_an_object(image: str) -> None:
    """As before 2020: the link is to an object, the text has no metadata."""
    sif.add(image, sif.signature(b"SIFHASH:\nabc", 2, link=3))
    with pytest.raises(sif.Signed):
        sif.delete(image, 3)


@pytest.mark.parametrize("data", [
    b"", b"{", b"{}", b'{"payload": 5}', b'{"payload": "AAAA"}', b"-----BEGIN PGP SIGNED MESSAGE-----\n\n{}",
    b"[" * 99999, b'{"a":' * 99999,
    b'{"payload": "' + base64.b64encode(b'{"version":1,"header":[],"objects":{}}') + b'"}',
    b'{"payload": "' + base64.b64encode(b'{"version":1,"header":{},"objects":[1,{},{"relativeId":{}}]}') + b'"}',
])  # fmt: skip
def test_nonsense_is_no_signature_and_no_crash(image: str, data: bytes) -> None:
    sif.add(image, sif.signature(data, 1, link_group=1))
    assert isinstance(_mismatches(image), list)
    assert isinstance(sif.check(image), list)
