"""What of our own is put on a base: the layer that makes somebody else's the caller's, or its metadata local."""

from __future__ import annotations

import os

from overlay.failure import Failure
from overlay.records import TYPE_CHECKING, NamedTuple
from overlay.stack import driver
from overlay.stack.layer import Directory
from sifkit.runtime import points
from sifkit.runtime.scratch import SCRATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlay.features import Features
    from overlay.metalayer.cache import Stored
    from overlay.metalayer.layers import Asked
    from sifkit.runtime.notify import Notify
    from sifkit.runtime.plan import Plan


class Chosen(NamedTuple):
    """The driver's choice, and the layer it takes; the layer is locked as long as this process lives."""

    decision: driver.Decision
    layer: Stored | None = None


def wanted(plan: Plan) -> bool:
    """Whether a metadata layer may come in question, so that the kernel is asked if it can do that."""
    if not isinstance(plan.stack.base, Directory) or plan.stack.in_place:
        return False
    return bool(plan.foreign_base and plan.stack.upper) or plan.on_base.build or plan.revision is not None


def foresee(plan: Plan, found: Features, situation: driver.Situation) -> driver.Decision:
    """The driver's choice for a plan that is only shown; layers are neither made nor looked at closely."""
    if not wanted(plan):
        return driver.choose(plan.stack, found, situation)
    from overlay.metalayer import layers as metalayer

    def cached(asked: Asked) -> bool:
        assert isinstance(plan.stack.base, Directory)
        return metalayer.is_cached(metalayer.base_of(plan.stack.base.path, plan.revision), asked)

    if _beside(plan) and (plan.on_base.build or cached(_asked(plan, "metadata"))):
        situation = situation._replace(layer="a metadata layer of the base")
    decision = driver.choose(plan.stack, found, situation)
    if not decision.layer:
        return decision
    state = "it is in the cache" if cached(_asked(plan, decision.layer)) else "it will be made"
    return decision._replace(reason=f"{decision.reason}; {state}")


def choose(plan: Plan, found: Features, situation: driver.Situation, notify: Notify) -> Chosen:
    """The driver's choice, with the layer it takes found or made. `Failure` when what was asked for cannot be."""
    base = plan.stack.base
    if not wanted(plan) or not isinstance(base, Directory):
        return Chosen(driver.choose(plan.stack, found, situation))
    from overlay.metalayer import layers as metalayer

    here = metalayer.base_of(base.path, plan.revision)
    beside = _beside(plan)
    cached: Stored | None = None
    if beside and found.data_layers:
        if not plan.on_base.build:
            try:
                cached = metalayer.find(here, _asked(plan, "metadata"), notify)
            except OSError as error:
                notify.debug(f"no cached layer: {error}")
        if cached or plan.on_base.build:
            situation = situation._replace(layer="a metadata layer of the base")
    while True:
        decision = driver.choose(plan.stack, found, situation)
        if not decision.layer:
            return Chosen(decision)
        if cached:
            return Chosen(decision, cached)
        asked = _asked(plan, decision.layer)
        try:
            return Chosen(decision, metalayer.obtain(here, asked, notify, _trial(decision, here.path), wait=not beside))
        except metalayer.Unavailable as error:
            brief = f"no {decision.layer} layer of {here.path}"
            if not beside and plan.on_base.foreign == decision.layer:
                raise Failure(brief, str(error), "--foreign auto takes the best that can be had") from None
            notify.warning(f"{brief}: {error}")
            situation = situation._replace(layer="", impossible=(*situation.impossible, decision.layer))


def _beside(plan: Plan) -> bool:
    """Whether the run needs no layer, and could be faster with one."""
    foreign_is_written = bool(plan.foreign_base and plan.stack.upper)
    return not foreign_is_written and plan.on_base.foreign in ("auto", "metadata")


def _asked(plan: Plan, kind: driver.Layer) -> Asked:
    from overlay.metalayer.layers import Asked

    explicit = plan.on_base.foreign == kind or plan.on_base.build
    return Asked(kind or "metadata", plan.privileged, plan.on_base.most_bytes, explicit)


def _trial(decision: driver.Decision, base: str) -> Callable[[str], None]:
    """Mounts a new layer as the run will, where nobody sees it: whether the cache's file system serves."""

    def mount_it(tree: str) -> None:
        from overlay.stack import mount

        point = f"{SCRATCH}/probe/layer-{decision.layer}"
        os.mkdir(point)
        parts = mount.Parts((tree,), data=(base,)) if decision.layer == "metadata" else mount.Parts((tree, base))
        mount.kernel(parts, point, decision.by_text, f"{SCRATCH}/links")

    return mount_it


def arrange(lowers: list[str], chosen: Chosen, extra_points: bool) -> tuple[list[str], tuple[str, ...]]:
    """Read-only directories, topmost first, and the data-only ones; ``lowers``: the base is their last.

    A file's content is followed from the lowest ordinary layer alone, so mount points lie above a metadata layer;
    everywhere else they are at the bottom.
    """
    above, base = lowers[:-1], lowers[-1]
    extra = [points.PLACE] if extra_points else []
    layer, decision = chosen.layer, chosen.decision
    if layer is None:
        return [*above, base, *extra], ()
    if decision.layer == "directory":
        return [*above, layer.tree, base, *extra], ()
    if extra:
        points.look_like(layer.tree)
    return [*above, *extra, layer.tree], (base,)


def settle(plan: Plan, notify: Notify) -> None:
    """After a run: say so if the repository moved on under it."""
    before = plan.revision
    if before is None:
        return
    from overlay import revision
    from overlay.metalayer import layers as metalayer

    now = revision.at(before.point)
    if now is None or now.root_hash == before.root_hash:
        return
    assert isinstance(plan.stack.base, Directory)
    if metalayer.base_of(plan.stack.base.path).by_name:  # the tree of a digest is the same in every revision
        return
    numbers = f" (from revision {before.number} to {now.number})" if before.number and now.number else ""
    notify.warning(
        f"{before.name} has moved on during the run{numbers}: what was read of {plan.stack.base.path} may be of both "
        "revisions. Run it again, or on an image that ducc keeps below .flat, which stays the same"
    )
