"""From the options of exec, shell and run to a `Request`. What only some runs need is imported when they do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from overlay.features import fuse_usable
from overlay.layer import Arranged, Directory, SquashImage, Tmpfs
from sifkit.cli import config, options
from sifkit.cli.console import CONSOLE
from sifkit.image.resolve import resolve
from sifkit.runtime import environ, plan, userns

if TYPE_CHECKING:
    from overlay.layer import Lower
    from overlay.spec import LayerSpec
    from sifkit.image.embedded import Chosen
    from sifkit.image.resolve import Image
    from sifkit.runtime.steps import Bind


def build(
    verb: str, image: str, args: tuple[str, ...], given: dict[str, Any], settings: config.Config
) -> plan.Request:
    """What the command line and the configuration ask for, with image and overlays found."""
    tmpfs = _tmpfs(given, settings)
    if given["writable"] and given["read_only"]:
        raise click.UsageError("--writable and --read-only exclude each other")
    found = resolve(image)
    stacked = _arrange(given["overlay"], tmpfs)
    inside = _embedded(found, given, may_write=stacked.upper is None and not stacked.demoted)
    for warning in (*stacked.warnings, *(inside.warnings if inside else ())):
        CONSOLE.warning(warning)
    if inside:
        stacked = stacked._replace(lowers=(*stacked.lowers, *inside.lowers), upper=stacked.upper or inside.upper)
    in_place = given["writable"] and not (inside and inside.upper)
    return plan.Request(
        verb=verb,
        image=found.path,
        base=_base(found, given["unsquash"], in_place),
        args=args,
        lowers=stacked.lowers,
        upper=stacked.upper,
        in_place=in_place,
        create_dirs=given["create_dir"],
        binds=_binds((*settings.bind, *given["bind"])),
        env=_assignments(given["env"]),
        clean_env=given["cleanenv"],
        contain=given["contain"],
        home=not given["no_home"],
        cwd=given["cwd"] or "",
        shell=given.get("shell_path") or os.environ.get("SIFKIT_SHELL", ""),
        wait=given["wait"],
    )


def _base(found: Image, unsquash: bool, in_place: bool) -> Lower:
    """The root file system: as it is, or unpacked when that was asked for or nothing else can work."""
    if isinstance(found.layer, Directory) or in_place:  # what is unpacked is nobody's to write into
        return found.layer
    if not unsquash and (fuse_usable() or userns.privileged()):
        return found.layer
    if not isinstance(found.layer, SquashImage):
        return found.layer
    from sifkit.cli.progress import task
    from sifkit.image.unpack import unpacked

    return unpacked(found.layer, task)


def _open_sif(spec: LayerSpec) -> Chosen:
    from sifkit.image import embedded

    return embedded.of_spec(spec)


def _embedded(found: Image, given: dict[str, Any], may_write: bool) -> Chosen | None:
    """The overlays inside a SIF image; None for images that cannot hold any."""
    if not found.is_sif or not (found.embedded or found.strays or given["writable"]):
        return None
    if given["writable"] and not may_write:
        raise click.UsageError("--writable excludes other overlays that take the writes: leave it out, or use :ro")
    from sifkit.image import embedded

    return embedded.of_image(found, given["writable"], may_write and not given["read_only"])


def _arrange(texts: tuple[str, ...], tmpfs: Tmpfs | None) -> Arranged:
    if not texts:
        return Arranged((), tmpfs, ())
    from overlay.arrange import arrange
    from overlay.spec import parse

    return arrange(tuple(spec for text in texts for spec in parse(text)), tmpfs, _open_sif)


def _binds(texts: tuple[str, ...]) -> tuple[Bind, ...]:
    if not texts:
        return ()
    from sifkit.runtime import binds

    return tuple(bind for text in texts for bind in binds.parse(text))


def _tmpfs(given: dict[str, Any], settings: config.Config) -> Tmpfs | None:
    if not given["writable_tmpfs"]:
        if given["tmpfs_size"]:
            raise click.UsageError("--tmpfs-size goes with --writable-tmpfs")
        return None
    if given["writable"]:
        raise click.UsageError("--writable and --writable-tmpfs exclude each other")
    from sifkit.runtime import memory

    text = given["tmpfs_size"] or settings.tmpfs_size
    return Tmpfs(options.size(text, "--tmpfs-size") if text else memory.tmpfs_default())


def _assignments(texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(environ.parse_assignment(text) for text in texts)
    except ValueError as error:
        raise click.UsageError(f"--env: {error}") from None
