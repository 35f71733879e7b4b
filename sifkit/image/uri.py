"""Images that are named by where they come from, which we do not fetch: what each is, and how to have it as a file."""

from __future__ import annotations

import re

from overlay.failure import USAGE, Failure

_UNPACK = "umoci unpack --rootless --image {layout} bundle; then bundle/rootfs is the image"
_COPY = "skopeo copy {uri} oci:layout:x && " + _UNPACK.format(layout="layout:x")
_SIF = "apptainer pull image.sif {uri}"

# Beginning of the name -> what it is, what to do instead.
KNOWN = {
    "docker": ("an image of an OCI registry", "apptainer build --sandbox image/ {uri}; or: " + _COPY),
    "docker-daemon": ("an image that a Docker daemon holds", _COPY),
    "docker-archive": ("a file of docker save", _COPY),
    "oci": ("an OCI layout", _UNPACK.format(layout="LAYOUT:TAG")),
    "oci-archive": ("an OCI layout in a tar file", _COPY),
    "library": ("a SIF image of a container library", _SIF),
    "oras": ("a SIF image of an OCI registry", _SIF),
    "shub": ("an image of Singularity Hub", _SIF),
    "http": ("a file of a web server", "curl -fLO {uri}"),
    "https": ("a file of a web server", "curl -fLO {uri}"),
    "instance": ("a running instance of Apptainer", "apptainer exec {uri}; sifkit has none of its own"),
    "file": ("a path", "write the path alone"),
}


def refuse(reference: str) -> None:
    """Raise `Failure` when ``reference``, which is no file, names an image in one of these ways."""
    kind = re.match(r"([a-z-]+):", reference)
    if kind and kind[1] in KNOWN:
        what, instead = KNOWN[kind[1]]
        cause = f"it is {what}, and sifkit runs what is a directory or a file here"
        raise Failure(f"cannot run {reference}", cause, instead.format(uri=reference), USAGE)
