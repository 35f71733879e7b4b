"""Architectures: two digits on disk and a NUL, and the names that Go has for them."""

from __future__ import annotations

# Go's names of architectures; the index is both the number of --partarch and the two digits on disk.
ARCHITECTURES = (
    "unknown", "386", "amd64", "arm", "arm64", "ppc64", "ppc64le", "mips", "mipsle", "mips64", "mips64le",
    "s390x", "riscv64", "loong64",
)  # fmt: skip
NO_ARCH = b"00\0"


def arch_text(code: bytes) -> str:
    """Go's name for the three bytes on disk (``b"02\\0"`` is "amd64"); "unknown" for all others."""
    if len(code) == 3 and code[2] == 0 and code[:2].isdigit():
        number = int(code[:2])
        return ARCHITECTURES[number] if number < len(ARCHITECTURES) else "unknown"
    return "unknown"


def arch_code(name: str) -> bytes:
    """The three bytes on disk for Go's ``name`` of an architecture. Raises ``KeyError``."""
    if name not in ARCHITECTURES:
        raise KeyError(name)
    return b"%02d\0" % ARCHITECTURES.index(name)
