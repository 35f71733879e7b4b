"""The numbers of the format, and the words for them. Tables of sylabs/sif ``pkg/sif`` (v2.24) and
apptainer/sif.

``*_text`` functions take any number, as files hold any number, and give siftool's wording.
"""

from __future__ import annotations

from enum import IntEnum

from sifkit.sif.arch import ARCHITECTURES


class DataType(IntEnum):
    """What an object is (descriptor, i32 at 0). ``siftool --datatype N`` is ``0x4000 + N``."""

    DEFFILE = 0x4001
    ENV_VAR = 0x4002
    LABELS = 0x4003
    PARTITION = 0x4004
    SIGNATURE = 0x4005
    GENERIC_JSON = 0x4006
    GENERIC = 0x4007
    CRYPTO_MESSAGE = 0x4008
    SBOM = 0x4009
    OCI_ROOT_INDEX = 0x400A
    OCI_BLOB = 0x400B


class FsType(IntEnum):
    """File system of a partition (extra, i32 at 0). 6 is apptainer/sif only."""

    SQUASHFS = 1
    EXT3 = 2
    ARCHIVE = 3
    RAW = 4
    ENCRYPTED_SQUASHFS = 5
    GOCRYPTFS_SQUASHFS = 6


class PartType(IntEnum):
    """Use of a partition (extra, i32 at 4). An image has at most one `PRIMARY`."""

    SYSTEM = 1
    PRIMARY = 2
    DATA = 3
    OVERLAY = 4


class HashType(IntEnum):
    """Hash of a signature (extra, i32 at 0)."""

    SHA256 = 1
    SHA384 = 2
    SHA512 = 3
    BLAKE2S_256 = 4
    BLAKE2B_256 = 5


class CryptoFormat(IntEnum):
    """Format of a cryptographic message (extra, i32 at 0)."""

    OPENPGP = 1
    PEM = 2


class CryptoMessage(IntEnum):
    """Kind of a cryptographic message (extra, i32 at 4)."""

    CLEAR_SIGNATURE = 0x100
    RSA_OAEP = 0x200


class SbomFormat(IntEnum):
    """Format of a software bill of materials (extra, i32 at 0)."""

    CYCLONEDX_JSON = 1
    CYCLONEDX_XML = 2
    GITHUB_JSON = 3
    SPDX_JSON = 4
    SPDX_RDF = 5
    SPDX_TAG_VALUE = 6
    SPDX_YAML = 7
    SYFT_JSON = 8


_DATA = {
    DataType.DEFFILE: "Def.FILE",
    DataType.ENV_VAR: "Env.Vars",
    DataType.LABELS: "JSON.Labels",
    DataType.PARTITION: "FS",
    DataType.SIGNATURE: "Signature",
    DataType.GENERIC_JSON: "JSON.Generic",
    DataType.GENERIC: "Generic/Raw",
    DataType.CRYPTO_MESSAGE: "Cryptographic Message",
    DataType.SBOM: "SBOM",
    DataType.OCI_ROOT_INDEX: "OCI.RootIndex",
    DataType.OCI_BLOB: "OCI.Blob",
}
_FS = {1: "Squashfs", 2: "Ext3", 3: "Archive", 4: "Raw", 5: "Encrypted squashfs", 6: "Gocryptfs squashfs"}
_PART = {1: "System", 2: "*System", 3: "Data", 4: "Overlay"}
_HASH = {1: "SHA-256", 2: "SHA-384", 3: "SHA-512", 4: "BLAKE2s-256", 5: "BLAKE2b-256"}
_FORMAT = {1: "OpenPGP", 2: "PEM"}
_MESSAGE = {0x100: "Clear Signature", 0x200: "RSA-OAEP"}
_SBOM = {f.value: f.name.lower().replace("_", "-") for f in SbomFormat}


def data_type_text(number: int) -> str:
    """siftool's text for an object's type; "Unknown" for a number it does not know."""
    return _DATA.get(number, "Unknown")  # type: ignore[call-overload, no-any-return]


def fs_text(number: int) -> str:
    """siftool's text for a file system; "Unknown" for a number it does not know."""
    return _FS.get(number, "Unknown")


def part_text(number: int) -> str:
    """siftool's text for a partition type; "Unknown" for a number it does not know."""
    return _PART.get(number, "Unknown")


def hash_text(number: int) -> str:
    """siftool's text for a hash type; "Unknown" for a number it does not know."""
    return _HASH.get(number, "Unknown")


def format_text(number: int) -> str:
    """siftool's text for a crypto format; "Unknown" for a number it does not know."""
    return _FORMAT.get(number, "Unknown")


def message_text(number: int) -> str:
    """siftool's text for a crypto message; "Unknown" for a number it does not know."""
    return _MESSAGE.get(number, "Unknown")


def sbom_text(number: int) -> str:
    """siftool's text for an SBOM format; "unknown" for a number it does not know."""
    return _SBOM.get(number, "unknown")


# Words that the command line takes beside the numbers; the first word of a number is the one help shows.
DATA_TYPE_WORDS = {
    "deffile": 0x4001, "envvar": 0x4002, "labels": 0x4003, "partition": 0x4004, "signature": 0x4005,
    "genericjson": 0x4006, "generic": 0x4007, "cryptomessage": 0x4008, "sbom": 0x4009,
    "ocirootindex": 0x400A, "ociblob": 0x400B, "oci.rootindex": 0x400A, "oci.blob": 0x400B,
    "generic-json": 0x4006, "json": 0x4006, "oci-root-index": 0x400A, "oci-blob": 0x400B,
}  # fmt: skip
FS_WORDS = {
    "squashfs": 1, "ext3": 2, "archive": 3, "raw": 4, "encryptfs": 5, "gocryptfs": 6,
    "squash": 1, "immuobj": 3, "encrypted-squashfs": 5, "gocryptfs-squashfs": 6,
}  # fmt: skip
PART_WORDS = {"system": 1, "primsys": 2, "data": 3, "overlay": 4, "primary": 2}
HASH_WORDS = {
    "sha256": 1, "sha384": 2, "sha512": 3, "blake2s_256": 4, "blake2b_256": 5,
    "sha-256": 1, "sha-384": 2, "sha-512": 3, "blake2s-256": 4, "blake2b-256": 5,
}  # fmt: skip
SBOM_WORDS = {name: number for number, name in _SBOM.items()}
ARCH_WORDS = {name: number for number, name in enumerate(ARCHITECTURES) if number}
