"""`sifkit session`, and what other commands do with an image that lacks changes of a run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from images import Program
from probes import IS_ROOT, needs
from running import Running, Start

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "fuse2fs", "mke2fs", "debugfs", "xattr")]

ORDINARY = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "root,loop"} if IS_ROOT else dict(os.environ)


@pytest.fixture
def place(sifkit: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with an ext3 overlay, `over.img`, which is the working directory."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    sifkit.ok("overlay", "create", "over.img")
    return tmp_path / "here"


def env() -> dict[str, str]:
    return {**ORDINARY, "HOME": os.environ["HOME"]}


def running(start: Start, rootfs: Path, script: str) -> Running:
    command = ("exec", "--overlay", "over.img", str(rootfs), "sh", "-c", f"{script}; echo up; sleep 1000")
    begun = start(*command, env=env())
    begun.expect("up")
    return begun


def killed(start: Start, rootfs: Path, script: str) -> None:
    begun = running(start, rootfs, script)
    begun.signal(signal.SIGKILL)
    begun.end()
    begun.gone()


def sessions(sifkit: Program) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(sifkit.ok("session", "list", "--json"))
    return found


def offered(sifkit: Program, shell: str, line: str) -> str:
    """What the program tells ``shell`` of the last word of ``line``, as the shell's function asks for it."""
    words = line.split()
    asked = {"bash": str(len(words) - 1), "zsh": str(len(words) - 1), "fish": words[-1]}[shell]
    variables = {"_SIFKIT_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": asked}
    return sifkit.ok(env={**os.environ, **variables})


def test_a_running_session_is_left_alone(start: Start, sifkit: Program, rootfs: Path, place: Path) -> None:
    begun = running(start, rootfs, "echo x > /one")
    (found,) = sessions(sifkit)
    assert (found["state"], found["alive"], found["files"], found["bytes"]) == ("running", True, 1, 2)
    assert found["image"] == str(place / "over.img")
    for command in ("commit", "drop"):
        done = sifkit("session", command, str(found["name"]))
        assert (done.returncode, "its run goes on" in done.stderr) == (255, True)
    begun.signal(signal.SIGTERM)
    assert begun.end() == 143
    assert sessions(sifkit) == []
    assert sifkit.ok("overlay", "cat", "over.img:/one") == "x\n"


def test_what_a_killed_run_has_left(start: Start, sifkit: Program, rootfs: Path, place: Path) -> None:
    killed(start, rootfs, "echo x > /one; rm /etc/profile")
    (found,) = sessions(sifkit)
    name = str(found["name"])
    assert (found["state"], found["alive"], found["deleted"]) == ("uncommitted", False, 1)
    assert f"{name:<24} {place}/over.img" in sifkit.ok("session", "list")
    shown = sifkit.ok("session", "show", name).splitlines()
    assert shown[-3:] == ["A /etc", "D /etc/profile", "A /one"]
    assert json.loads(sifkit.ok("session", "show", "--json", name))["changes"][0] == {"change": "A", "path": "/etc"}
    for shell in ("bash", "zsh", "fish"):
        assert name in offered(sifkit, shell, f"sifkit session show {name[:3]}")
    sifkit.ok("session", "commit", name)
    assert sorted(os.listdir(place)) == ["over.img"]
    assert sifkit.ok("overlay", "diff", "over.img").splitlines()[1:] == [
        "D -                          - /etc/profile", "A file                     2 /one"
    ]  # fmt: skip
    done = sifkit("session", "show", name)
    assert (done.returncode, "no session" in done.stderr) == (255, True)


def test_giving_up(start: Start, sifkit: Program, rootfs: Path, place: Path) -> None:
    killed(start, rootfs, "echo x > /one")
    sifkit.ok("session", "drop", str(sessions(sifkit)[0]["name"]))
    assert sorted(os.listdir(place)) == ["over.img"]
    assert sifkit.ok("overlay", "ls", "over.img") == ""
    assert not [name for name in os.listxattr("over.img") if "session" in name]


def test_an_image_that_has_been_moved(start: Start, sifkit: Program, rootfs: Path, place: Path) -> None:
    killed(start, rootfs, "echo x > /one")
    name = str(sessions(sifkit)[0]["name"])
    os.rename("over.img", "elsewhere.img")
    done = sifkit("session", "commit", name)
    assert (done.returncode, "--image" in done.stderr) == (255, True)
    sifkit.ok("session", "commit", "--image", "elsewhere.img", name)
    assert sifkit.ok("overlay", "cat", "elsewhere.img:/one") == "x\n"
    assert sorted(os.listdir(place)) == ["elsewhere.img"]


def test_other_commands_say_what_is_missing(start: Start, sifkit: Program, rootfs: Path, place: Path) -> None:
    killed(start, rootfs, "echo x > /one")
    name = str(sessions(sifkit)[0]["name"])
    for command in (("chown", "over.img"), ("convert", "over.img", "copy/")):
        done = sifkit("overlay", *command)
        assert (done.returncode, f"sifkit session commit {name}" in done.stderr) == (255, True), done.stderr
    listed = sifkit("overlay", "ls", "over.img")
    assert (listed.returncode, listed.stdout, listed.stderr.count("are not in it yet")) == (0, "", 1)
    assert "are not in it yet" in sifkit.ok("overlay", "info", "over.img")
    sifkit.ok("overlay", "resize", "--size", "+64M", "over.img")
    done = sifkit("exec", "--overlay", "over.img", str(rootfs), "cat", "/one", env=env())
    assert (done.returncode, done.stdout) == (0, "x\n"), done.stderr
    sifkit.ok("overlay", "chown", "over.img")
