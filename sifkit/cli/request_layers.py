"""From the options about layers to `Layers`, with image and overlays found."""

from __future__ import annotations

from overlay.failure import Failure
from overlay.features import fuse_usable
from overlay.records import TYPE_CHECKING
from overlay.stack.driver import WAYS
from overlay.stack.layer import Arranged, Directory, SquashImage, Tmpfs
from sifkit.cli import config
from sifkit.cli.console import CONSOLE
from sifkit.cli.usage import UsageError, size_of
from sifkit.runtime import userns
from sifkit.runtime.request import Layers, OnBase, Staging

if TYPE_CHECKING:
    from overlay.stack.layer import Lower
    from overlay.stack.spec import LayerSpec
    from sifkit.cli.spec import Given
    from sifkit.image.embedded import Chosen
    from sifkit.image.resolve import Image


def layers(found: Image, given: Given, settings: config.Config) -> Layers:
    """The stack that the command line and the configuration ask for; warnings are given."""
    stacked = _arrange(given["overlay"] or (), _tmpfs(given, settings), found)
    if given["compat"] and stacked.upper is None and not given["writable"]:
        stacked = stacked._replace(upper=_throwaway(given, settings))
    inside = _embedded(found, given, may_write=stacked.upper is None and not stacked.demoted)
    for warning in (*stacked.warnings, *(inside.warnings if inside else ())):
        CONSOLE.warning(warning)
    if inside:
        stacked = stacked._replace(lowers=(*stacked.lowers, *inside.lowers), upper=stacked.upper or inside.upper)
    in_place = bool(given["writable"]) and not (inside and inside.upper)
    base = _base(found, bool(given["unsquash"]), in_place)
    made = Layers(base, stacked.lowers, stacked.upper, in_place, given["create_dir"] or (), staging=_staging(given))
    return made._replace(on_base=_on_base(given, settings)) if isinstance(base, Directory) else made


def _staging(given: Given) -> Staging:
    if given["no_grow"] and given["max_size"]:
        raise UsageError("--no-grow and --max-size exclude each other")
    most = size_of(given["max_size"], "--max-size") if given["max_size"] else 0
    return Staging(given["session_dir"] or "", not given["no_grow"], most)


def _base(found: Image, unsquash: bool, in_place: bool) -> Lower:
    """The root file system: as it is, or unpacked when that was asked for or nothing else can work."""
    if isinstance(found.layer, Directory) or in_place:  # what is unpacked is nobody's to write into
        return found.layer
    if not unsquash and (fuse_usable() or userns.privileged()):
        return found.layer
    if not isinstance(found.layer, SquashImage):
        return found.layer
    from sifkit.image.unpack import unpacked

    return unpacked(found.layer, CONSOLE.task)


def _on_base(given: Given, settings: config.Config) -> OnBase:
    wanted = OnBase(given["foreign"] or "auto", bool(given["metadata_cache"]))
    if settings.foreign and not given["foreign"]:
        if settings.foreign not in ("auto", *WAYS):
            source = dict(settings.sources)["foreign"]
            raise Failure(f"{source}: foreign = {settings.foreign!r}", f"it may be auto, {', '.join(WAYS)}")
        wanted = wanted._replace(foreign=settings.foreign)
    if settings.metadata_size:
        source = dict(settings.sources)["metadata_size"]
        size = size_of(settings.metadata_size, f"metadata_size in {source}", least=0)
        wanted = wanted._replace(most_bytes=size)
    return wanted


def _open_sif(spec: LayerSpec) -> Chosen:
    from sifkit.image import embedded

    return embedded.of_spec(spec)


def _embedded(found: Image, given: Given, may_write: bool) -> Chosen | None:
    """The overlays inside a SIF image; None for images that cannot hold any."""
    if not found.is_sif or not (found.embedded or found.strays or given["writable"]):
        return None
    if given["writable"] and not may_write:
        raise UsageError("--writable excludes other overlays that take the writes: leave it out, or use :ro")
    from sifkit.image import embedded

    return embedded.of_image(found, bool(given["writable"]), may_write and not given["read_only"])


def _arrange(texts: tuple[str, ...], tmpfs: Tmpfs | None, found: Image) -> Arranged:
    if not texts:
        return Arranged((), tmpfs, ())
    from overlay.stack.arrange import arrange, without_repeats
    from overlay.stack.spec import parse

    specs = tuple(spec for text in texts for spec in parse(text))
    return without_repeats(found.layer, arrange(specs, tmpfs, _open_sif))


def _tmpfs(given: Given, settings: config.Config) -> Tmpfs | None:
    if not given["writable_tmpfs"]:
        if given["tmpfs_size"] and not given["compat"]:
            raise UsageError("--tmpfs-size goes with --writable-tmpfs")
        return None
    if given["writable"]:
        raise UsageError("--writable and --writable-tmpfs exclude each other")
    return _throwaway(given, settings)


def _throwaway(given: Given, settings: config.Config) -> Tmpfs:
    from sifkit.runtime import memory

    if given["tmpfs_size"]:
        return Tmpfs(size_of(given["tmpfs_size"], "--tmpfs-size", least=1), asked=True)
    if settings.tmpfs_size:
        source = dict(settings.sources)["tmpfs_size"]
        return Tmpfs(size_of(settings.tmpfs_size, f"tmpfs_size in {source}", least=1))
    return Tmpfs(memory.tmpfs_default())
