"""Daily work in real images: busybox, a Debian with Python, one without a shell; each a directory and a SIF image.

Programs are those that coreutils and busybox have alike, for one of the images has no shell to ask.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from images import Program
from probes import needs
from real_images import Real

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "squashfuse", "mksquashfs", "dpkg")]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AWKWARD = {
    "DOLLARS": "$HOME $(id) `id` ${PATH}",
    "QUOTES": "'single' \"double\" ''",
    "BACKSLASHES": "a\\nb\\\\c\\",
    "LINES": "one\n two\n",
}


def env_of(sifkit: Program, *words: str, env: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of a payload."""
    said = sifkit.ok("exec", *words, "env", "-0", env={**os.environ, **(env or {})})
    return dict(item.split("=", 1) for item in said.split("\0") if item)


def test_the_environment_is_exact(sifkit: Program, real: Real) -> None:
    forwarded = {f"SIFKITENV_{name}_F": value for name, value in AWKWARD.items()}
    words = ["--no-eval", *(f"--env={name}_E={value}" for name, value in AWKWARD.items()), real.path]
    found = env_of(sifkit, *words, env={**AWKWARD, **forwarded})
    for suffix in ("", "_F", "_E"):
        assert {name: found.get(f"{name}{suffix}") for name in AWKWARD} == AWKWARD
    # An image's scripts need the image's shell.
    assert found.get("OF_IMAGE") == ("a script of it" if real.shell else None)


def test_cleanenv_and_paths(sifkit: Program, real: Real) -> None:
    given = {"HOSTS": "1", "APPTAINERENV_PREPEND_PATH": "/first", "APPTAINERENV_APPEND_PATH": "/last"}
    found = env_of(sifkit, "--cleanenv", real.path, env=given)
    assert (found.get("HOSTS"), found["PATH"]) == (None, f"/first:{DEFAULT_PATH}:/last")
    # 7.7 LD_LIBRARY_PATH default, which a script of the image makes.
    assert found.get("LD_LIBRARY_PATH") == ("/.singularity.d/libs" if real.shell else None)


def test_binds_of_a_directory_and_a_file(sifkit: Program, real: Real, tmp_path: Path) -> None:
    """At places that the image has and has not."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("of the host\n")
    data = tmp_path / "data"
    binds = ["-B", f"{data}:/new/place", "-B", f"{data}:/usr/share:ro", "-B", f"{data}/file:/etc/os-release"]
    said = sifkit.ok("exec", *binds, real.path, "cat", "/new/place/file", "/usr/share/file", "/etc/os-release")
    assert said == 3 * "of the host\n"
    assert sifkit("exec", *binds, real.path, "touch", "/new/place/made", "/usr/share/refused").returncode == 1
    assert sorted(os.listdir(data)) == ["file", "made"]


def test_changes_are_kept_or_thrown_away(sifkit: Program, real: Real, tmp_path: Path) -> None:
    (tmp_path / "changes").mkdir()
    overlay = ["--overlay", f"{tmp_path}/changes"]
    sifkit.ok("exec", *overlay, real.path, "mkdir", "/kept")
    sifkit.ok("exec", *overlay, real.path, "rm", "-r", "/.singularity.d/labels.json", "/usr/share")
    sifkit.ok("exec", *overlay, real.path, "test", "-d", "/kept", "-a", "!", "-e", "/usr/share")
    sifkit.ok("exec", "--writable-tmpfs", real.path, "mkdir", "/thrown")
    sifkit.ok("exec", real.path, "test", "!", "-e", "/thrown", "-a", "!", "-e", "/kept")


def test_statuses(sifkit: Program, real: Real) -> None:
    for word, status in (("false", 1), ("/etc", 126), ("no-such", 127)):
        done = sifkit("exec", real.path, word)
        assert (done.returncode, len(done.stderr.splitlines()) > 0) == (status, status > 1), done.stderr


def test_inspect(sifkit: Program, real: Real) -> None:
    said = json.loads(sifkit.ok("inspect", "--json", "-l", "-r", "-e", real.path))["data"]["attributes"]
    assert said["labels"] == {"maintainer": "Debian"}
    assert "runscript: $*" in said["runscript"] and "OF_IMAGE" in json.dumps(said["environment"])


def test_run_and_shell(sifkit: Program, real: Real) -> None:
    """Without a shell: one sentence each, of the file that lacks it or of all that were looked for."""
    if real.shell:
        assert sifkit.ok("run", real.path, "a b", "c") == "runscript: a b c\n"
        assert sifkit("shell", real.path, input="exit 3\n").returncode == 3
        return
    done = sifkit("run", real.path)
    assert (done.returncode, done.stdout) == (126, "")
    assert "/.singularity.d/runscript" in done.stderr and "interpreter" in done.stderr
    done = sifkit("shell", real.path)
    assert (done.returncode, done.stdout) == (127, "")
    assert "has no shell" in done.stderr and "sifkit exec IMAGE PROGRAM" in done.stderr
    # A static program needs nothing of the image; a script needs what it names.
    assert sifkit.ok("exec", real.path, "/sbin/ldconfig", "--version").startswith("ldconfig")
    assert sifkit("exec", real.path, "ldd").returncode == 126


@pytest.mark.parametrize("real", [("minbase", "directory"), ("minbase", "SIF")], indirect=True, ids="-".join)
def test_python(sifkit: Program, real: Real) -> None:
    script = "import sys, re, subprocess; print(sys.prefix, subprocess.check_output(['cat', '/etc/debian_version']))"
    version = Path("/etc/debian_version").read_bytes()
    assert sifkit.ok("exec", "--cleanenv", real.path, "python3", "-c", script) == f"/usr {version!r}\n"
