"""`sifkit test`, and SCIF apps in every verb."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images import Program, make_rootfs
from probes import needs

pytestmark = [pytest.mark.kernel, needs("userns")]

# What of SCIF images that Apptainer builds carry themselves (95-apps.sh there).
APPS_SCRIPT = """\
if [ -n "${SINGULARITY_APPNAME:-}" ]; then
    SCIF_APPNAME="$SINGULARITY_APPNAME"
    SCIF_APPROOT="/scif/apps/$SCIF_APPNAME"
    export SCIF_APPNAME SCIF_APPROOT
    PATH="$SCIF_APPROOT/bin:$PATH"
fi
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = make_rootfs(tmp_path_factory.mktemp("apps") / "image")
    scripts = {
        ".singularity.d/test": 'echo "testing $*"; exit 3',
        ".singularity.d/env/95-apps.sh": APPS_SCRIPT,
        "scif/apps/foo/scif/runscript": 'echo "run $SCIF_APPNAME $*"; foo-tool',
        "scif/apps/foo/scif/test": 'test "$1" = good',
        "scif/apps/foo/bin/foo-tool": "echo tool",
    }
    for name, text in scripts.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (tree / "scif/apps/empty/scif").mkdir(parents=True)
    return tree


def test_the_images_test_and_its_status(sifkit: Program, image: Path) -> None:
    done = sifkit("test", str(image), "one", "two")
    assert (done.returncode, done.stdout) == (3, "testing one two\n")


def test_an_image_without_a_test_passes(sifkit: Program, rootfs: Path, image: Path) -> None:
    assert sifkit.ok("test", str(rootfs)) == ""
    assert "has no test" in sifkit("-v", "test", str(rootfs)).stderr
    assert sifkit("test", "--app", "empty", str(image)).returncode == 127


def test_run_and_test_of_an_app(sifkit: Program, image: Path) -> None:
    assert sifkit.ok("run", "--app", "foo", str(image), "a b") == "run foo a b\ntool\n"
    assert sifkit("test", "--app", "foo", str(image), "good").returncode == 0
    assert sifkit("test", "--app", "foo", str(image), "bad").returncode == 1


def test_exec_and_shell_have_the_apps_environment(sifkit: Program, image: Path) -> None:
    said = sifkit.ok("exec", "--app", "foo", str(image), "sh", "-c", "echo $SCIF_APPROOT $APPTAINER_APPNAME; foo-tool")
    assert said == "/scif/apps/foo foo\ntool\n"
    assert sifkit.ok("shell", "--app", "foo", str(image), input="foo-tool\n") == "tool\n"
    by_variable = {**os.environ, "APPTAINER_APPNAME": "foo"}
    assert sifkit.ok("run", str(image), env=by_variable) == "run foo \ntool\n"


# Apptainer's checklist, actions basics: app good 0, bad 1.
@pytest.mark.parametrize("verb", ["exec", "run", "test", "shell"])
def test_no_such_app(sifkit: Program, image: Path, verb: str) -> None:
    words = ["true"] if verb == "exec" else []
    done = sifkit(verb, "--app", "nope", str(image), *words)
    assert done.returncode == 1
    assert "no app nope" in done.stderr
    assert "--list-apps" in done.stderr
    path = sifkit(verb, "--app", "../../etc", str(image), *words)
    assert path.returncode == 2
