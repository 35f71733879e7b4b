"""Starts: `exec DIR true` and what overlays add to it, as an ordinary user."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import setting
from row import Row

MS = 0.001


def rows(quick: bool) -> Iterator[Row]:
    """The figures of this module, each as soon as it is there."""
    count = 5 if quick else 20
    yield from plain(count)
    yield from overlays(count)
    yield from options(count)
    yield from many(max(3, count // 4))


def plain(count: int) -> list[Row]:
    """A read-only run beside its peers."""
    here = setting.here()
    tree = str(here.rootfs)
    given = {
        "ours": here.sifkit("exec", tree, "true"),
        "import click": here.command(str(here.venv / "bin/python"), "-c", "import click"),
    }
    if shutil.which("bwrap"):
        bwrap = ["bwrap", "--ro-bind", tree, "/", "--proc", "/proc", "--dev", "/dev", "true"]
        given["bwrap"] = here.command(*bwrap)
    if apptainer := setting.apptainer():
        given["apptainer"] = apptainer.exec(str(apptainer.rootfs()), "true")
    taken = setting.commands(given, count)
    ours = taken["ours"]
    name = "exec DIR true"
    found = [
        Row(name, ours, "", None, "<= 40 ms", ours <= 40 * MS),
        compared(name, taken, "import click", 1.7),
    ]
    if "apptainer" in taken:
        found.append(compared(name, taken, "apptainer", 0.9))
    if "bwrap" in taken:
        found.append(Row(name, ours, "bwrap", taken["bwrap"], "", None))
    return found


def compared(name: str, taken: dict[str, float], peer: str, most: float) -> Row:
    """Our figure against ``most`` times the peer's."""
    return Row(name, taken["ours"], peer, taken[peer], f"<= {most} x", taken["ours"] <= most * taken[peer])


def overlays(count: int) -> list[Row]:
    """What a writable layer adds."""
    here = setting.here()
    tree = str(here.rootfs)
    changes = str(here.directory("changes"))
    given = {
        "plain": here.sifkit("exec", tree, "true"),
        "directory": here.sifkit("exec", "--overlay", changes, tree, "true"),
        "tmpfs": here.sifkit("exec", "--writable-tmpfs", tree, "true"),
    }
    if apptainer := setting.apptainer():
        base = str(apptainer.rootfs())
        theirs = str(apptainer.give(here.directory("changes-of-apptainer")))
        given["apptainer directory"] = apptainer.exec("--overlay", theirs, base, "true")
        given["apptainer tmpfs"] = apptainer.exec("--writable-tmpfs", base, "true")
    taken = setting.commands(given, count)
    found = []
    for kind, option in {"directory": "--overlay DIR", "tmpfs": "--writable-tmpfs"}.items():
        ours = taken[kind]
        within = ours <= taken["plain"] + 5 * MS
        found.append(Row(f"exec {option}", ours, "without it", taken["plain"], "<= 5 ms more", within))
        if apptainer:
            found.append(Row(f"exec {option}", ours, "apptainer", taken[f"apptainer {kind}"], "", None))
    return found


def options(count: int) -> list[Row]:
    """What options and variables add: the tables are read, and the image's shell evaluates."""
    here = setting.here()
    tree, shown = str(here.rootfs), str(here.directory("shown"))
    words = ["--contain", "--bind", f"{shown}:/new/dir:ro", "--env", "A=$PATH", "--hostname", "here", "--no-umask"]
    given = {"plain": here.sifkit("exec", tree, "true"), "options": here.sifkit("exec", *words, tree, "true")}
    taken = setting.commands(given, count)
    within = taken["options"] <= taken["plain"] + 10 * MS
    return [Row("exec, six options", taken["options"], "without them", taken["plain"], "<= 10 ms more", within)]


def many(count: int) -> list[Row]:
    """A hundred directories, and sixty squashfs images, as read-only overlays."""
    here = setting.here()
    tree = str(here.rootfs)
    directories = []
    for number in range(100):
        upper = here.directory(f"layer-{number}") / "upper"
        upper.mkdir(mode=0o755)
        (upper / f"file-{number}").touch()
        directories += ["--overlay", f"{upper.parent}:ro"]
    images = []
    for number in range(60):
        image = here.scratch / f"layer-{number}.sqfs"
        shutil.copy(here.squash, image)
        images += ["--overlay", str(image)]
    taken = setting.commands({"directories": here.sifkit("exec", *directories, tree, "true")}, count)
    taken |= setting.commands({"images": here.sifkit("exec", *images, tree, "true")}, count)
    hundred, sixty = taken["directories"], taken["images"]
    return [
        Row("exec, 100 directories read-only", hundred, "", None, "< 200 ms", hundred < 200 * MS),
        Row("exec, 60 squashfs images read-only", sixty, "", None, "< 2 s", sixty < 2),
    ]
