"""Mount points that a base lacks, in a layer of their own below it."""

from __future__ import annotations

import os

from overlay.layer import Directory
from sifkit.runtime import inroot
from sifkit.runtime.plan import Plan
from sifkit.runtime.scratch import SCRATCH

PLACE = f"{SCRATCH}/points"


def make(plan: Plan, base: str) -> bool:
    """Make in points/ every mount point that ``base`` lacks; whether there was any.

    Being the lowest layer it adds names and changes nothing: directories of the base keep their attributes.
    What lies inside something that an earlier step mounts is made there, when it is.
    """
    top = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    points = os.open(PLACE, os.O_PATH | os.O_CLOEXEC)
    made = False
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
                made = True
    finally:
        os.close(top)
        os.close(points)
    return made


def lacking(plan: Plan) -> bool:
    """Whether the base lacks a mount point; True for an image, which only attaching it could tell."""
    base = plan.stack.base
    if not isinstance(base, Directory):
        return True
    return not plan.stack.in_place and make(plan, base.path)
