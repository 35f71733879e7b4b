"""Work inside: 10 000 small files created, read and deleted, beside kernel overlayfs mounted by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import setting
import work
from row import Row

Command = Callable[[int], list[str]]  # given the number of the run

PHASES = ("create", "read", "delete")
MOST = 1.15

WORK = f"""{work.CREATE}
for file in */*; do read line < $file; done
echo read
{work.DELETE}
rmdir /usr/share/io
"""

BY_HAND = """
set -e
cd "$1"
if [ -n "$3" ]; then
    mount -t tmpfs -o mode=755 tmpfs "$1"
    cd "$1"
fi
mkdir -p upper work merged
lower=$2
if [ -f "$lower" ]; then
    setpriv --pdeathsig TERM squashfuse -f -o uid=0,gid=0 "$lower" "$4" &
    server=$!
    lower=$4
    until mountpoint -q "$lower"; do sleep 0.01; done
fi
mount -t overlay -o "userxattr,lowerdir=$lower,upperdir=upper,workdir=work" overlay merged
chroot merged /bin/sh -c "$5"
umount merged
[ -z "${server:-}" ] || { kill $server; wait $server || :; }
"""


def rows(quick: bool) -> Iterator[Row]:
    """The figures of this module, each as soon as it is there."""
    here = setting.here()
    count = 3 if quick else 20
    yield from beside("directory overlay", here.rootfs, False, count)
    yield from beside("tmpfs", here.rootfs, True, count)
    yield from beside("directory overlay on squashfs", here.squash, False, count)


def beside(name: str, base: Path, tmpfs: bool, count: int) -> list[Row]:
    """Ours and the hand-made mount in turn; Apptainer's fewer times, because it can take ten seconds."""
    label = name.replace(" ", "-")
    given: dict[str, Command] = {
        "ours": lambda turn: ours(f"{label}-{turn}", base, tmpfs),
        "by hand": lambda turn: by_hand(f"{label}-{turn}", base, tmpfs),
    }
    taken = alternate(given, count)
    found = []
    for phase in PHASES:
        mine, theirs = taken["ours"][phase], taken["by hand"][phase]
        title = f"{phase} 10 000 files, {name}"
        found.append(Row(title, mine, "overlayfs by hand", theirs, f"<= {MOST} x", mine <= MOST * theirs))
    if apptainer := setting.apptainer():
        theirs_too: dict[str, Command] = {
            "apptainer": lambda turn: by_apptainer(apptainer, f"{label}-{turn}", base, tmpfs)
        }
        peer = alternate(theirs_too, min(count, 3))["apptainer"]
        for phase in PHASES:
            title = f"{phase} 10 000 files, {name}"
            found.append(Row(title, taken["ours"][phase], "apptainer", peer[phase], "", None))
    return found


def ours(label: str, base: Path, tmpfs: bool) -> list[str]:
    """The work in a container of ours."""
    here = setting.here()
    layer = ["--writable-tmpfs"] if tmpfs else ["--overlay", str(here.directory(f"ours-{label}"))]
    return here.sifkit("exec", *layer, str(base), "sh", "-c", WORK)


def by_hand(label: str, base: Path, tmpfs: bool) -> list[str]:
    """The work on an overlay mounted with mount(8) in a user namespace."""
    here = setting.here()
    place, served = here.directory(f"hand-{label}"), here.directory(f"served-{label}")
    script = ["sh", "-c", BY_HAND, "sh", str(place), str(base), "1" if tmpfs else "", str(served), WORK]
    return here.command("unshare", "--map-root-user", "--mount", *script)


def by_apptainer(peer: setting.Apptainer, label: str, base: Path, tmpfs: bool) -> list[str]:
    """The work in one of Apptainer's containers."""
    changes = peer.give(setting.here().directory(f"apptainer-{label}"))
    layer = ["--writable-tmpfs"] if tmpfs else ["--overlay", str(changes)]
    tree = peer.rootfs() if base.is_dir() else base
    return peer.exec(*layer, str(tree), "sh", "-c", WORK)


def alternate(given: dict[str, Command], count: int) -> dict[str, dict[str, float]]:
    """Medians of each phase of each command, run in turn after one run that warms caches.

    Every run has directories of its own: ext4 does not give out an inode again for a minute after its deletion,
    and looks at every such inode each time (``recently_deleted``), which would make each run slower than the last.
    """
    taken: dict[str, list[list[float]]] = {name: [] for name in given}
    for turn in range(count + 1):
        for name, command in given.items():
            phases = work.timed(command(turn), len(PHASES))
            if turn:
                taken[name].append(phases)
    return {
        name: {phase: median(times[index] for times in runs) for index, phase in enumerate(PHASES)}
        for name, runs in taken.items()
    }
