"""The step that puts the caller into the container's passwd and group files."""

from __future__ import annotations

import os

from overlay.records import NamedTuple
from sifkit.runtime import identity, inroot
from sifkit.runtime.identity import Identity
from sifkit.runtime.inroot import Root
from sifkit.runtime.steps import File


class Account(NamedTuple):
    """``destination``, /etc/passwd or /etc/group of the image, with the caller's lines; covered, not changed.

    ``kept``: as it is, when it knows the caller's name.
    """

    destination: str
    who: Identity
    optional: bool = True
    kept: bool = False

    def is_directory(self) -> bool:
        return False

    def describe(self) -> str:
        return f"file  {self.destination}  (the image's, with {self.who.name})"

    def apply(self, root: Root) -> None:
        text = _read(root, self.destination)
        if self.kept and f"\n{self.who.name}:" in f"\n{text}":
            return
        complete = identity.passwd if self.destination.endswith("passwd") else identity.group
        File(self.destination, complete(text, self.who)).apply(root)


def _read(root: Root, path: str) -> str:
    try:
        descriptor = inroot.locate(root.fd, path)
    except OSError:  # no such file, or a link to nowhere: the caller's line is then the only one
        return ""
    try:
        if os.fstat(descriptor).st_size == 0:  # the empty file of the mount-point layer, or nothing to keep
            return ""
        with open(f"/proc/self/fd/{descriptor}", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    finally:
        os.close(descriptor)
