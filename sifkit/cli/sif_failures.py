"""How the errors of our SIF library become sentences for a person. Without click, as `sifkit.cli.sif_see` is."""

from __future__ import annotations

from overlay.failure import OURS, Failure, of_path
from overlay.records import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_HINTS = {
    "Signed": "--force does it; the signature is then broken",
    "InUse": "stop the containers that use this image",
    "NotSif": "sifkit sif works on SIF images only; file(1) says what this is",
    "Truncated": "the file is incomplete: copy or download it again",
    "Corrupt": "sifkit sif check FILE lists everything that is wrong",
    "ObjectNotFound": "sifkit sif list FILE shows the IDs",
    "MultipleObjects": "sifkit sif check FILE lists everything that is wrong",
    "PrimaryExists": "--parttype system, then: sifkit sif setprim ID FILE",
    "HardLinked": "copy the file to another name, and compact the copy",
    "Mislabelled": "--force does it all the same",
}


class failures:
    """A context in which our library's errors, and the system's, become a `Failure` that starts with ``brief``."""

    def __init__(self, brief: str) -> None:
        self._brief = brief

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        if not isinstance(error, Exception):
            return
        from sifkit.sif.errors import BadValue, SifError

        if isinstance(error, SifError):
            where = f" (byte {error.offset})" if error.offset is not None else ""
            code = 2 if isinstance(error, BadValue) else OURS  # a value that does not fit is a wrong command line
            raise Failure(self._brief, error.text + where, _HINTS.get(type(error).__name__, ""), code) from error
        if isinstance(error, EOFError):
            raise Failure(self._brief, str(error), "the image changed meanwhile; run again") from error
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # that one has a status: 141
            raise of_path(self._brief, error) from error
