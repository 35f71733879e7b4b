"""Mount points that a base lacks, in a layer of their own below it, or right above its metadata layer."""

from __future__ import annotations

import os
import stat

from overlay.records import TYPE_CHECKING
from overlay.stack.layer import Directory
from sifkit.runtime import inroot
from sifkit.runtime.plan import Plan
from sifkit.runtime.scratch import SCRATCH

if TYPE_CHECKING:
    from overlay.stack.driver import Points
    from sifkit.runtime.step import Step

PLACE = f"{SCRATCH}/points"


def make(plan: Plan, base: str) -> list[Step]:
    """Make in points/ every mount point that ``base`` lacks; the steps that need them.

    Being the lowest layer it adds names and changes nothing: directories of the base keep their attributes.
    What lies inside something that an earlier step mounts is made there, when it is.
    """
    top = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    points = os.open(PLACE, os.O_PATH | os.O_CLOEXEC)
    lacking: list[Step] = []
    mounted: list[str] = []
    try:
        for step in plan.steps:
            inside = any(step.destination.startswith(place) for place in mounted)
            mounted.append(step.destination.rstrip("/") + "/")
            if inside:
                continue
            try:
                found, names = inroot.missing(top, step.destination)
            except OSError:  # unreadable or a loop of links: applying the step says so
                continue
            if names:
                path = "/".join([found, *names])
                os.close(inroot.create(points, path, step.is_directory()))
                lacking.append(step)
    finally:
        os.close(top)
        os.close(points)
    return lacking


def look_like(layer: str) -> None:
    """Give the directories of points/ modes and times of those in ``layer``, over which they are to lie."""
    for here, _, _ in os.walk(PLACE):
        try:
            found = os.lstat(layer + here[len(PLACE) :])
        except FileNotFoundError:  # one that the base lacks
            continue
        os.chmod(here, stat.S_IMODE(found.st_mode))
        os.utime(here, ns=(found.st_mtime_ns, found.st_mtime_ns))


def lacking(plan: Plan) -> Points:
    """Which mount points the base lacks; of an image, which would have to be attached, the mildest guess."""
    if plan.stack.in_place:
        return "none"
    base = plan.stack.base
    return kind(make(plan, base.path)) if isinstance(base, Directory) else "optional"


def kind(steps: list[Step]) -> Points:
    """What it means for the choice of a driver that the mount points of ``steps`` are missing."""
    if not steps:
        return "none"
    return "optional" if all(step.optional for step in steps) else "needed"
