"""What real drivers leave in an image: fuse-overlayfs's whiteouts, and what a killed fuse2fs leaves behind."""

from __future__ import annotations

import os
import random
import subprocess
import textwrap
from pathlib import Path

import pytest
from probes import needs

from overlay import whiteout
from overlay.extread.reader import ExtReader
from overlay.manage import check
from overlay.manage.create import create_ext3
from overlay.section import Section
from overlay.stack import whiteout_layer

MIB = 2**20
PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"

# Waits for a mount by looking at it; ends the server by unmounting, and waits for it to have written all.
PRELUDE = """
    set -e
    serve() { point=$1; shift; "$@" >/dev/null & server=$!; n=0
      until mountpoint -q "$point"; do n=$((n + 1)); [ $n -lt 500 ]; kill -0 $server; sleep 0.01; done; }
"""


def in_namespace(place: Path, script: str) -> str:
    """Run ``script`` as the root of a user and a mount namespace of its own; what it printed."""
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(script)],
        cwd=place, capture_output=True, text=True, env={**os.environ, "PATH": PATH}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def image(place: Path, size: int = 64 * MIB) -> Section:
    # In a namespace that maps the caller to 0, the image's root is the caller.
    return create_ext3(str(place / "i"), size, sparse=True, owner=(0, 0)).section


LIST = r"find . -printf '%y %m %P\n' | sort"
WORK = f"""
    mkdir fuse merged lower
    mkdir -p lower/dir/sub lower/full/sub lower/gone
    for f in dir/a dir/b dir/sub/c full/old full/sub/old gone/x top; do echo lower > lower/$f; done
    serve fuse fuse2fs -f i fuse
    image=$server
    serve merged fuse-overlayfs -f -o lowerdir=lower,upperdir=fuse/upper,workdir=fuse/work merged
    (cd merged
    rm top dir/a 'dir/sub/c'
    rm -r gone full
    mkdir full; echo new > full/new
    rm dir/b; echo again > dir/b
    echo 'odd' > 'dir/odd name'; rm 'dir/odd name'
    mkdir fresh; echo x > fresh/x; rm fresh/x
    chmod 750 dir)
    (cd merged; {LIST})
    umount merged; wait $server
    umount fuse; wait $image
"""


@needs("userns", "overlayfs", "fuse2fs", "fuse-overlayfs", "unshare", "mountpoint")
def test_the_kernel_sees_the_tree_that_fuse_overlayfs_showed(tmp_path: Path) -> None:
    section = image(tmp_path)
    seen = in_namespace(tmp_path, WORK).splitlines()
    assert not [line for line in seen if ".wh." in line]
    with ExtReader(section) as reader:
        assert not reader.needs_recovery
        found = whiteout.scan_image(reader)
        assert {b"top", b"dir/a", b"dir/sub/c", b"gone"} <= set(found.deleted)
        assert b"full" in found.opaque
        above, below = str(tmp_path / "above"), str(tmp_path / "below")
        made = whiteout_layer.build(reader, found, above, below, typed=False, mark=whiteout.KERNEL_MARK)
    assert made == (above, below)
    shown = in_namespace(
        tmp_path,
        f"""
        serve fuse fuse2fs -f -o ro,norecovery i fuse
        mount -t overlay -o userxattr,lowerdir=above:fuse/upper:below:lower none merged
        (cd merged; {LIST})
        umount merged fuse; wait $server
        """,
    ).splitlines()
    assert shown == seen


@needs("userns", "fuse2fs", "unshare", "mountpoint")
@pytest.mark.parametrize("seed", range(6))
def test_a_killed_server_leaves_what_can_be_mended(tmp_path: Path, seed: int) -> None:
    section = image(tmp_path)
    moment = random.Random(seed).uniform(0.0, 0.3)
    in_namespace(
        tmp_path,
        f"""
        mkdir fuse
        serve fuse fuse2fs -f i fuse
        (n=0; while mkdir fuse/upper/d$n 2>/dev/null && echo $n > fuse/upper/d$n/f; do n=$((n + 1)); done) 2>/dev/null &
        sleep {moment}
        kill -9 $server; wait $server || :
        wait || :
        umount -l fuse
        """,
    )
    assert check.needs_check(section)
    verdict = check.check(section, mend=True)
    assert verdict.outcome is check.Outcome.MENDED, verdict
    assert check.check(section, mend=False).outcome is check.Outcome.CLEAN
    assert not check.needs_check(section)
    with ExtReader(section) as reader:
        for _, inode in reader.walk():
            if inode.is_file:
                reader.open(inode).read()
