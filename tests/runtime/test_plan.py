"""A plan is made without privilege and without a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.failure import Failure
from overlay.section import Section
from overlay.stack.layer import Directory, Overlay, SquashImage, Tmpfs
from sifkit.runtime import memory, plan
from sifkit.runtime.identity import Identity
from sifkit.runtime.request import Home, Layers, Mounts, Request
from sifkit.runtime.steps import Bind, Memory

ME = Identity(54321, 54321, (54321,), "me", "/home/me", "/bin/sh")


def build(tmp_path: Path, verb: str = "exec", **given: object) -> plan.Plan:
    layers = Layers(Directory(str(tmp_path)))
    request = Request(verb, str(tmp_path), layers, ("cmd", "arg"), **given)  # type: ignore[arg-type]
    return plan.build(request, ME, {"PATH": "/bin"}, privileged=False)


def destinations(made: plan.Plan) -> list[str]:
    return [step.destination for step in made.steps]


def test_what_real_programs_expect_is_there(tmp_path: Path) -> None:
    found = destinations(build(tmp_path))
    for path in ("/dev", "/proc", "/sys", "/tmp", "/var/tmp", "/etc/passwd", "/etc/group"):
        assert path in found


def test_contain_replaces_what_belongs_to_the_host(tmp_path: Path) -> None:
    made = build(tmp_path, mounts=Mounts(contain=True))
    memory_at = {step.destination for step in made.steps if isinstance(step, Memory)}
    assert {"/tmp", "/var/tmp", "/home/me", "/dev", "/dev/shm"} <= memory_at
    assert made.cwds[0] == "/home/me"


def test_binds_come_shallow_first_and_after_everything_else(tmp_path: Path) -> None:
    deep, shallow = Bind("/etc", "/a/b/c"), Bind("/etc", "/a")
    found = destinations(build(tmp_path, mounts=Mounts((deep, shallow), contain=True)))
    assert found[-2:] == ["/a", "/a/b/c"]


def test_no_home_leaves_it_out(tmp_path: Path) -> None:
    assert "/home/me" not in destinations(build(tmp_path, mounts=Mounts(home=Home(False), contain=True)))


def test_the_commands_of_each_verb(tmp_path: Path) -> None:
    assert build(tmp_path).commands == (("cmd", "arg"),)
    run = build(tmp_path, "run").commands
    assert run[:2] == (("/.singularity.d/runscript", "cmd", "arg"), ("/singularity", "cmd", "arg"))
    assert ("/bin/sh", "cmd", "arg") in run
    assert build(tmp_path, "shell").commands[0] == ("/bin/bash", "--norc", "cmd", "arg")
    assert build(tmp_path, "shell", shell="/bin/zsh").commands == (("/bin/zsh", "cmd", "arg"),)


@pytest.mark.parametrize(
    "given",
    [
        {"in_place": True, "upper": Overlay("/o")},
        {"in_place": True, "upper": Tmpfs(1)},
        {"in_place": True, "lowers": (Directory("/x"),)},
        {"create_dirs": ("x",)},
        {"create_dirs": ("../x",), "upper": Overlay("/o")},
        {"create_dirs": ("/",), "upper": Overlay("/o")},
        {"base": SquashImage(Section("/x", 0, 1)), "in_place": True},
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, given: dict[str, object]) -> None:
    layers = Layers(Directory(str(tmp_path)))._replace(**given)  # type: ignore[arg-type]
    with pytest.raises(Failure):
        plan.build(Request("exec", "/x", layers, ("cmd",)), ME, {}, privileged=False)


def test_the_working_directory_is_absolute(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="--cwd"):
        build(tmp_path, cwd="relative")


def test_a_base_of_somebody_else_is_seen(tmp_path: Path) -> None:
    assert build(tmp_path).foreign_base != ""
    request = Request("exec", "/x", Layers(Directory(str(tmp_path))), ("cmd",))
    own = ME._replace(uid=tmp_path.stat().st_uid, gid=tmp_path.stat().st_gid)
    assert plan.build(request, own, {}, privileged=False).foreign_base == ""
    assert plan.build(request, own._replace(gid=54321), {}, privileged=False).foreign_base.startswith("group ")
    assert plan.build(request, ME, {}, privileged=True).foreign_base == ""


def test_the_size_of_a_throwaway_overlay_fits_the_memory() -> None:
    assert memory.LEAST <= memory.tmpfs_default() <= memory.MOST
    assert memory.left() > 0
