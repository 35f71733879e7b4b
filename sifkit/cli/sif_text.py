"""How an image is shown: siftool's text, character for character, and JSON.

Differs from siftool (2.24) on purpose in two places: control characters of names and launch scripts are escaped,
and a signature with an unknown hash is shown as such, where siftool prints half a line.
"""

from __future__ import annotations

from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from sifkit.sif import Descriptor, Header

ZERO_TIME = -62135596800  # Go's time.Time{}; shown as no time
_RULE = "-" * 78
_GO_FIRST = 9223372028741760000  # Go counts seconds from March of the year -292277022400, unsigned


def go_time(seconds: int) -> str:
    """A time as Go prints it in UTC; any 64-bit number has one, wrapping around as Go's do."""
    days, rest = divmod((seconds + _GO_FIRST) % (1 << 64) - _GO_FIRST, 86400)
    era, day = divmod(days + 719468, 146097)  # eras of 400 years that start on March 1st of year 0
    of_era = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day -= 365 * of_era + of_era // 4 - of_era // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    month += 3 if month < 10 else -9
    year = of_era + era * 400 + (month <= 2)
    sign = "-" if year < 0 else ""
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{sign}{abs(year):04}-{month:02}-{day + 1:02} {clock} +0000 UTC"


def size_text(size: int) -> str:
    """A number of bytes as siftool prints it in the header: "27 KiB", rounded to whole units."""
    if size < 1024:
        return f"{size} B"
    power = 1
    while size >> 10 * (power + 1):
        power += 1
    return f"{size / (1 << 10 * power):.0f} {'KMGTPE'[power - 1]}iB"


def printable(text: str) -> str:
    """``text`` with everything that could move a cursor or forge a line escaped."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _rows(rows: list[tuple[str, str]], indent: str, gap: int) -> str:
    width = max(len(key) for key, _ in rows) + 1 + gap
    return "".join(f"{indent}{key + ':':{width}}{value}\n" for key, value in rows)


def header_text(header: Header) -> str:
    """What ``siftool header`` prints."""
    from sifkit import sif

    rows = []
    if header.launch_text:
        rows.append(("Launch Script", printable(header.launch_text.removesuffix("\n"))))
    rows.append(("Version", printable(header.version.rstrip(b"\0").decode("latin-1"))))
    if (arch := sif.arch_text(header.arch)) != "unknown":
        rows.append(("Primary Architecture", arch))
    if any(header.uuid):
        rows.append(("ID", _uuid(header.uuid)))
    rows += _times(header.created, header.modified)
    rows += [
        ("Descriptors Free", str(header.free)),
        ("Descriptors Total", str(header.total)),
        ("Descriptors Offset", str(header.table_offset)),
        ("Descriptors Size", size_text(header.table_size)),
        ("Data Offset", str(header.data_offset)),
        ("Data Size", size_text(header.data_size)),
    ]
    return _rows(rows, "", 1)


def _uuid(raw: bytes) -> str:
    text = raw.hex()  # the module uuid takes longer to load than an image to read
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _times(created: int, modified: int) -> list[tuple[str, str]]:
    rows = [("Created At", created), ("Modified At", modified)]
    return [(key, go_time(seconds)) for key, seconds in rows if seconds != ZERO_TIME]


def list_text(objects: tuple[Descriptor, ...]) -> str:
    """What ``siftool list`` prints."""
    lines = [_RULE, "ID   |GROUP   |LINK    |SIF POSITION (start-end)  |TYPE", _RULE]
    for d in objects:
        link = f"{d.link_group:<3} (G)" if d.link_group else str(d.link_id or "NONE")
        position = f"|{d.offset}-{_int64(d.end)} "
        lines.append(f"{d.id:<4} |{d.group_id or 'NONE':<7} |{link:<7} {position:<26} |{type_text(d)}")
    return "\n".join(lines) + "\n"


def _int64(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def type_text(d: Descriptor) -> str:
    """An object's type with its details, as in the last column of ``siftool list``."""
    details = [value for key, value in _details(d) if key not in ("Entity", "Digest")]
    kind = _kind(d)
    return f"{kind} ({'/'.join(details)})" if details else kind


def _kind(d: Descriptor) -> str:
    from sifkit import sif

    return sif.data_type_text(d.data_type)


def _details(d: Descriptor) -> list[tuple[str, str]]:
    from sifkit import sif
    from sifkit.sif import enums
    from sifkit.sif.arch import arch_text

    extra = d.extra
    if isinstance(extra, sif.PartitionExtra):
        return [
            ("Filesystem Type", enums.fs_text(extra.fs)),
            ("Partition Type", enums.part_text(extra.part)),
            ("Architecture", arch_text(extra.arch)),
        ]
    if isinstance(extra, sif.SignatureExtra):
        rows = [("Hash Type", enums.hash_text(extra.hash_type))]
        return rows + [("Entity", extra.fingerprint.hex().upper())] if extra.fingerprint else rows
    if isinstance(extra, sif.CryptoExtra):
        formats = enums.format_text(extra.format), enums.message_text(extra.message)
        return [("Format Type", formats[0]), ("Message Type", formats[1])]
    if isinstance(extra, sif.SbomExtra):
        return [("Format", enums.sbom_text(extra.format))]
    return [("Digest", printable(d.digest))] if d.digest else []


def info_text(d: Descriptor) -> str:
    """What ``siftool info`` prints."""
    link = f"{d.link_group} (G)" if d.link_group else str(d.link_id or "NONE")
    rows = [
        ("Data Type", _kind(d)),
        ("ID", str(d.id)),
        ("Group ID", str(d.group_id or "NONE")),
        ("Linked ID", link),
        ("Offset", str(d.offset)),
        ("Size", str(d.size)),
        *_times(d.created, d.modified),
    ]
    if d.name_text:
        rows.append(("Name", printable(d.name_text)))
    return _rows(rows + _details(d), "  ", 2)


def header_json(header: Header) -> dict[str, Any]:
    """The header; sizes and offsets in bytes, times in Unix seconds, null for what is not set."""
    from sifkit import sif

    arch = sif.arch_text(header.arch)
    return {
        "launch_script": header.launch_text or None,
        "version": header.version.rstrip(b"\0").decode("latin-1"),
        "primary_architecture": None if arch == "unknown" else arch,
        "id": _uuid(header.uuid) if any(header.uuid) else None,
        **_times_json(header.created, header.modified),
        "descriptors_free": header.free,
        "descriptors_total": header.total,
        "descriptors_offset": header.table_offset,
        "descriptors_size": header.table_size,
        "data_offset": header.data_offset,
        "data_size": header.data_size,
    }


def _times_json(created: int, modified: int) -> dict[str, int | None]:
    times = {"created_at": created, "modified_at": modified}
    return {key: None if seconds == ZERO_TIME else seconds for key, seconds in times.items()}


def object_json(d: Descriptor) -> dict[str, Any]:
    """A descriptor; sizes and offsets in bytes, times in Unix seconds, null for what is not set."""
    details = {key.lower().replace(" ", "_"): value for key, value in _details(d)}
    return {
        "id": d.id,
        "data_type": _kind(d),
        "data_type_number": d.data_type,
        "group": d.group_id or None,
        "link": d.link_id or None,
        "link_group": d.link_group or None,
        "offset": d.offset,
        "size": d.size,
        "size_with_padding": d.padded_size,
        **_times_json(d.created, d.modified),
        "uid": d.uid,
        "gid": d.gid,
        "name": d.name_text or None,
        **details,
    }
