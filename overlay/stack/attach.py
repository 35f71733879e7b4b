"""Images made into directories: a mount of each in our namespace, all started before any is waited for."""

from __future__ import annotations

import os

from overlay import linux, tools
from overlay.failure import Failure, from_oserror
from overlay.features import Features, without
from overlay.records import TYPE_CHECKING
from overlay.stack import fuse, loop
from overlay.stack.attached import Attached, Owner
from overlay.stack.layer import Directory, ExtImage, ExtOverlay, Lower, SquashImage

if TYPE_CHECKING:
    from overlay.extread.reader import ExtError

_FOREVER = "kernel_cache,entry_timeout=86400,attr_timeout=86400,negative_timeout=86400"  # seconds


def attach_all(layers: tuple[Lower, ...], place: str, features: Features, owner: Owner | None) -> list[Attached]:
    """Make every layer a directory (image N under ``place``/N) and return when all can be read."""
    attached: list[Attached] = []
    for number, layer in enumerate(layers):
        point = f"{place}/{number}"
        if not isinstance(layer, Directory):
            os.mkdir(point)
        attached.append(_attach(layer, point, features, owner))
    servers = [entry.server for entry in attached if entry.server]
    if servers:
        fuse.wait_mounted(servers)
        for server in servers:
            # Until somebody asks, the kernel holds mode 000 for the top directory of a FUSE mount, and
            # overlayfs would copy that for good.
            _look_at(server)
    for layer, entry in zip(layers, attached, strict=True):
        if isinstance(layer, ExtImage) and not os.path.isdir(entry.path):
            raise Failure(f"{layer.describe()} is not an overlay", f"it has no directory {layer.inside}/")
    return attached


def _look_at(server: fuse.Server) -> None:
    try:
        os.stat(server.point)
    except OSError as error:
        cause = fuse.messages(server) or error.strerror or str(error)
        raise Failure(
            f"{server.name} could not show it", cause, "sifkit overlay check tells whether it is damaged"
        ) from None


def kernel_layers(layer: Lower, entry: Attached, place: str) -> list[str]:
    """The directories that stand for ``layer`` in a kernel overlay, topmost first.

    Three for an image that spells deletions as the kernel does not read them; made at ``place``.
    """
    if not isinstance(layer, ExtImage):
        return [entry.path]
    from overlay.stack import content

    known = content.known(layer.section) if layer.inside == "upper" else None
    if known is not None and known.plain and (not known.devices or _typed(entry)):
        return [entry.path]
    from overlay import whiteout
    from overlay.extread.reader import ExtError, ExtReader
    from overlay.stack import whiteout_layer

    top = b"/" + layer.inside.encode()
    above, below = f"{place}.above", f"{place}.below"
    try:
        with ExtReader(layer.section) as reader:
            found = whiteout.scan_image(reader, top)
            if found.empty:
                return [entry.path]
            mark, typed = whiteout.KERNEL_MARK, _typed(entry)
            made = whiteout_layer.build(reader, found, above, below, typed=typed, mark=mark, top=top)
    except ExtError as error:
        raise _unreadable(layer, error) from None
    return [path for path in (made.above, entry.path, made.below) if path]


def _typed(entry: Attached) -> bool:
    """Whether overlayfs gets to know the types of names in the image that is mounted at ``entry``."""
    return entry.server is None or linux.gives_types(os.path.dirname(entry.path))


def _unreadable(layer: ExtImage, error: ExtError) -> Failure:
    hint = f"sifkit overlay check {layer.section.path}"
    return Failure(f"cannot read {layer.describe()}", f"it is damaged: {error}", hint)


def _attach(layer: Lower, point: str, features: Features, owner: Owner | None) -> Attached:
    if isinstance(layer, Directory):
        return Attached(layer.path, "as it is")
    inside = f"{point}/{layer.inside}" if isinstance(layer, ExtImage) else point
    if features.loop:
        try:
            _by_kernel(layer, point)
            return Attached(inside, "kernel, loop device")
        except OSError:  # no free device, or a kernel without this file system: FUSE reads it as well
            if not features.fuse:
                raise
    if not features.fuse:
        raise Failure(
            f"cannot read {layer.describe()}",
            "it needs FUSE, and /dev/fuse is missing or closed to you",
            "ask the administrator for /dev/fuse with mode 666, or use an unpacked directory; see sifkit doctor",
        )
    server = _squashfuse(layer, point, owner) if isinstance(layer, SquashImage) else _ext(layer, point)
    return Attached(inside, server.name, server)


def _by_kernel(layer: SquashImage | ExtImage, point: str) -> None:
    device, descriptor = loop.attach(layer.section, readonly=True)
    fstype, options = ("squashfs", None) if isinstance(layer, SquashImage) else ("ext4", "noload")
    try:
        linux.mount(device, point, fstype, linux.MS_RDONLY | linux.MS_NODEV | linux.MS_NOSUID, options)
    finally:
        os.close(descriptor)


def _squashfuse(layer: SquashImage, point: str, owner: Owner | None) -> fuse.Server:
    section, owned = layer.section, ""
    program = tools.need("squashfuse", "to read a squashfs image without root")
    if owner:
        owned = f",uid={owner.uid},gid={owner.gid}"
        faster = tools.find("squashfuse_ll")
        # The multi-threaded one is the better server, but old ones (Debian 12) refuse uid=.
        if faster and tools.mentions(faster, "uid="):
            program = faster
    offset = f",offset={section.offset}" if section.offset else ""
    options = f"ro,nosuid,nodev,allow_other{owned}{offset}"
    return fuse.start(program, [program, "-f", "-o", options, section.path, point], point)


def _ext(layer: ExtImage, point: str) -> fuse.Server:
    if not without("ext_server"):
        from overlay.extread.reader import ExtError
        from overlay.stack import content, ext_server

        try:
            known = content.known(layer.section)
            return ext_server.start(layer.section, point, bare=known is not None and not known.attributes)
        except ExtError as error:  # features that we do not read, mostly
            if not tools.find("fuse2fs"):
                raise _unreadable(layer, error) from None
        except OSError as error:
            raise from_oserror(f"cannot mount {layer.describe()}", error) from None
    return _fuse2fs(layer, point)


def _fuse2fs(layer: ExtImage, point: str) -> fuse.Server:
    section = layer.section
    program = tools.need("fuse2fs", "to read an ext3 image without root")
    offset = f",offset={section.offset}" if section.offset else ""
    # It is locked, so nobody changes it: what the kernel has once asked it may keep. Of its own default options, which
    # come after ours, one would have it asked for the attributes of every file again.
    options = f"ro,norecovery,nosuid,nodev,no_default_opts,use_ino,allow_other,default_permissions,{_FOREVER}{offset}"
    return fuse.start(program, [program, section.path, point, "-f", "-o", options], point)


def attach_writable(layer: ExtOverlay, point: str, by_kernel: bool) -> fuse.Server | None:
    """Mount ``layer`` for writing on ``point``: by the kernel (None is returned), or by fuse2fs."""
    section = layer.section
    if by_kernel:
        device, descriptor = loop.attach(section, readonly=False)
        try:
            linux.mount(device, point, "ext4", linux.MS_NODEV, "errors=remount-ro")
        finally:
            os.close(descriptor)
        return None
    program = tools.need("fuse2fs", "to write into an ext3 image without root")
    offset = f",offset={section.offset}" if section.offset else ""
    # fakeroot: we are the only user there is in the namespace, whoever owns the files in the image.
    options = f"rw,fakeroot,nosuid,nodev,allow_other{offset}"
    server = fuse.start(program, [program, section.path, point, "-f", "-o", options], point, writes=True)
    fuse.wait_mounted([server])
    os.stat(point)
    return server
