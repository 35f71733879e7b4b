"""What can be wrong with an image or with a wish about it. Each error names the file and, where there is one,
the byte.

Failing system calls stay ``OSError``. Everything here derives from `SifError`, so that
``except (sif.SifError, OSError)`` is all that a caller needs.
"""

from __future__ import annotations


class SifError(Exception):
    """Base of this package's errors.

    ``text``: one sentence without the file's name. ``path``: the image, "" when there is none.
    ``offset``: where in the image the offending bytes start, None when no byte is to blame.
    """

    def __init__(self, text: str, *, path: str = "", offset: int | None = None) -> None:
        super().__init__(text, path, offset)
        self.text = text
        self.path = path
        self.offset = offset

    def __str__(self) -> str:
        where = self.path
        if self.offset is not None:
            where = f"{where}: byte {self.offset}" if where else f"byte {self.offset}"
        return f"{where}: {self.text}" if where else self.text


class NotSif(SifError):
    """The file has no SIF magic: it is something else."""


class BadVersion(SifError):
    """A SIF version that this library, like the Go one, does not read."""


class Truncated(SifError):
    """The file ends before what its header or a descriptor promises."""


class Corrupt(SifError):
    """A number in the image is impossible: negative, too large, or pointing into the wrong place."""


class ObjectNotFound(SifError):
    """No object fits the selection."""


class MultipleObjects(SifError):
    """More than one object fits a selection that asks for exactly one."""


class PrimaryExists(SifError):
    """The image has a primary system partition already; it can have one."""


class WrongObject(SifError):
    """The object exists but is not of the type that the operation needs."""


class InUse(SifError):
    """A container, or another program, holds a lock on the bytes of the object."""


class LockUnavailable(SifError):
    """The file system has no locks; two editors could destroy each other's work, so none edits."""


class Signed(SifError):
    """The change would break a signature in the image."""


class BadObject(SifError):
    """What is to be added cannot be an object: a directory, the image itself, a file that changed meanwhile."""


class HardLinked(SifError):
    """The file has several names; a new file in place of one would leave the others on the old image."""


class Mislabelled(BadObject):
    """The bytes of an object are not what they are said to be."""


class BadValue(SifError, ValueError):
    """An argument does not fit the field it is for."""
