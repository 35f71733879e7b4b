"""The step that shows what is in an image at a directory of the container (``--bind IMG:/data:image-src=/``).

Init attaches the images, as it does layers; the payload binds what it wants of them.
"""

from __future__ import annotations

import os

from overlay import linux
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.stack.layer import ExtImage, ExtOverlay, SquashImage
from sifkit.runtime import bindmount, inroot
from sifkit.runtime.inroot import Root
from sifkit.runtime.scratch import SCRATCH
from sifkit.runtime.steps import Target

if TYPE_CHECKING:
    from overlay.features import Features
    from overlay.stack import fuse
    from overlay.stack.attached import Owner

PLACE = f"{SCRATCH}/data"


class DataImage(NamedTuple):
    """``inside`` of image ``number`` of the run, at ``destination``; an `ExtOverlay` is one that is written to."""

    layer: SquashImage | ExtImage | ExtOverlay
    inside: str
    destination: str
    number: int
    optional: bool = False

    @property
    def readonly(self) -> bool:
        return not isinstance(self.layer, ExtOverlay)

    @property
    def place(self) -> str:
        return f"{PLACE}/{self.number}/0"

    def is_directory(self) -> bool:
        if not os.path.isdir(self.place):  # of a plan that is only shown
            return True
        descriptor = self._open()
        try:
            return os.path.isdir(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)

    def describe(self) -> str:
        what = f"{self.inside} of {self.layer.describe()}" if self.inside != "/" else self.layer.describe()
        return f"image {what} -> {self.destination}" + ("  (read-only)" if self.readonly else "")

    def apply(self, root: Root) -> None:
        source = self._open()
        attributes = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
        attributes |= linux.MOUNT_ATTR_RDONLY if self.readonly else 0
        try:
            with Target(root, self.destination, self.is_directory()) as target:
                bindmount.bind(f"/proc/self/fd/{source}", target, attributes, recursive=False)
        finally:
            os.close(source)

    def _open(self) -> int:
        """What is shown, found with the image's own links, of which none leads out of the image."""
        top = os.open(self.place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return inroot.locate(top, self.inside)
        finally:
            os.close(top)


def attach(images: tuple[DataImage, ...], features: Features, owner: Owner | None) -> tuple[fuse.Server, ...]:
    """Mount ``images`` in our namespace; the servers are to be stopped at the end."""
    from overlay.stack.attach import attach_all, attach_writable

    servers = []
    os.mkdir(PLACE, 0o755)
    for image in images:
        os.mkdir(os.path.dirname(image.place), 0o755)
        if isinstance(image.layer, ExtOverlay):
            os.mkdir(image.place, 0o755)
            servers.append(attach_writable(image.layer, image.place, features.loop))
        else:
            (attached,) = attach_all((image.layer,), os.path.dirname(image.place), features, owner)
            servers.append(attached.server)
    return tuple(server for server in servers if server)
