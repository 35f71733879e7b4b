"""What --fakeroot makes of a run: root's identity and home, for who is not root."""

from __future__ import annotations

import os

from overlay.records import TYPE_CHECKING
from sifkit.runtime import identity

if TYPE_CHECKING:
    from sifkit.runtime.identity import Identity
    from sifkit.runtime.idmap import IdMap
    from sifkit.runtime.request import Request


def of(request: Request, caller: Identity) -> tuple[Request, Identity]:
    """``request`` with the caller's home shown at root's, and the identity in the container.

    With --contain that is empty (Apptainer issue 5211), and --home says itself what is shown where.
    """
    who = identity.root(caller)
    home = request.mounts.home
    if not home.shown or home.source or request.mounts.contain:
        return request, who
    # The host's own /root is not to be seen for want of a home.
    there = os.path.isdir(caller.home) and caller.home != "/"
    home = home._replace(shown=there, source=caller.home if there else "", destination=who.home)
    return request._replace(mounts=request.mounts._replace(home=home)), who


def remark(ids: IdMap | None) -> str:
    """What the user is to know who asked for it; "" where all is well."""
    if ids is None:
        return "--fakeroot: you are root already, and stay it"
    from sifkit.runtime import idmap

    return idmap.remark(ids)
