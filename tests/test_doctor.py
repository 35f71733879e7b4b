"""``sifkit doctor`` on the real kernel: a host that can, hosts made poorer, and the configuration in force."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from probes import needs, only_user

DOCTOR = [sys.executable, "-P", "-m", "sifkit", "doctor"]


def doctor(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DOCTOR, *options], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def facts(*, status: int = 0, **environment: str) -> dict[str, Any]:
    done = doctor("--json", **environment)
    assert done.returncode == status, done.stderr
    parsed = json.loads(done.stdout)
    assert isinstance(parsed, dict)
    return parsed


def finding(found: dict[str, Any], need: str) -> dict[str, str]:
    (one,) = (entry for entry in found["findings"] if entry["need"] == need)
    assert isinstance(one, dict)
    return one


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("SIFKIT_DEBUG_WITHOUT", "SIFKIT_SESSION_DIR", "SIFKIT_OVERLAY_DRIVER"):
        monkeypatch.delenv(name, raising=False)


def configure(home: Path, text: str) -> Path:
    file = home / "sifkit" / "config.toml"
    file.parent.mkdir()
    file.write_text(text)
    return file


@needs("userns", "overlayfs")
def test_a_host_that_can() -> None:
    done = doctor()
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok       ")
    assert lines[-1].startswith("A container can run here")
    assert any(line.startswith("ok       kernel overlayfs: ") for line in lines)


@needs("userns", "overlayfs")
def test_text_and_json_say_the_same() -> None:
    found = facts()
    text = doctor().stdout
    assert found["ready"] is True
    assert all(f"{entry['mark']:<8} {entry['need']}: {entry['found']}" in text for entry in found["findings"])


@needs("userns", "fuse", "fuse-overlayfs")
def test_a_host_without_kernel_overlayfs_has_a_stand_in() -> None:
    entry = finding(facts(SIFKIT_DEBUG_WITHOUT="overlay"), "kernel overlayfs")
    assert entry["mark"] == "warn"
    assert "fuse-overlayfs is used" in entry["found"]


@needs("userns")
@pytest.mark.parametrize("lacks", ["overlay,fuse", "overlay,fuse-overlayfs"])
def test_a_host_without_any_overlay_cannot(lacks: str) -> None:
    found = facts(status=1, SIFKIT_DEBUG_WITHOUT=lacks)
    assert found["ready"] is False
    assert finding(found, "kernel overlayfs")["mark"] == "missing"
    assert found["configuration"]["environment"] == {"SIFKIT_DEBUG_WITHOUT": lacks}


def test_variables_that_stand_for_options_are_named() -> None:
    """Also whose they are: `APPTAINER_BIND` of a site's module is the usual reason for a bind nobody asked for."""
    said = doctor(APPTAINER_BIND="/data", SINGULARITY_BIND="/old", SIFKIT_CONTAIN="1").stdout
    assert "APPTAINER_BIND=/data  (environment, for --bind)" in said
    assert "SIFKIT_CONTAIN=1  (environment, for --contain)" in said and "SINGULARITY_BIND" not in said


@needs("userns", "overlayfs")
def test_an_older_kernel_is_warned_of() -> None:
    found = facts(SIFKIT_DEBUG_WITHOUT="lowerdir_append,tmpfs_xattr")
    assert finding(found, "overlayfs lowerdir+")["mark"] == "warn"
    assert finding(found, "user xattrs on tmpfs")["mark"] == "warn"


@only_user
@needs("userns")
def test_no_user_namespaces_is_a_line_with_its_cause() -> None:
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(
        ["unshare", "--map-current-user", "--keep-caps", "sh", "-c", forbid, "sh", *DOCTOR],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == ""
    assert "missing  user namespace: No space left on device: user.max_user_namespaces is 0" in done.stdout
    assert "sysctl -w user.max_user_namespaces=" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("No container can run here")


@needs("userns", "overlayfs")
def test_the_configuration_in_force_and_where_it_comes_from(tmp_path: Path) -> None:
    fuse2fs = tmp_path / "my-fuse2fs"
    file = configure(tmp_path, f'tmpfs_size = "2G"\nbind = ["/tmp:/data:ro"]\n[helpers]\nfuse2fs = "{fuse2fs}"\n')
    found = facts(SIFKIT_SESSION_DIR=str(tmp_path))
    settings = found["configuration"]["settings"]
    assert settings["tmpfs_size"] == {"value": "2G", "source": str(file)}
    assert settings["bind"] == {"value": ["/tmp:/data:ro"], "source": str(file)}
    assert settings["session_dir"] == {"value": str(tmp_path), "source": "SIFKIT_SESSION_DIR"}
    assert {"path": str(file), "state": "read"} in found["configuration"]["files"]
    entry = finding(found, "fuse2fs")
    assert entry["mark"] == "warn"
    assert str(fuse2fs) in entry["found"]


def test_a_wrong_configuration_is_a_line(tmp_path: Path) -> None:
    file = configure(tmp_path, "tmpfs_siez = 1\n")
    entry = finding(facts(status=1), "configuration")
    assert entry["mark"] == "missing"
    assert "tmpfs_siez" in entry["found"] and str(file) in entry["found"]


@only_user
def test_a_configuration_that_may_not_be_read_is_said_so(tmp_path: Path) -> None:
    configure(tmp_path, 'tmpfs_size = "2G"\n').chmod(0o000)
    states = [entry["state"] for entry in facts()["configuration"]["files"]]
    assert "you may not read it: not in force" in states


@needs("userns", "overlayfs")
def test_on_a_terminal_it_is_a_table() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(DOCTOR, stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while chunk := read(ours):
            shown += chunk
    os.close(ours)
    assert process.returncode == 0
    assert b"what to do" in shown
    assert b"\x1b[" in shown


def read(terminal: int) -> bytes:
    """What a terminal has for us; nothing when the other side is closed, which Linux reports as EIO."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
