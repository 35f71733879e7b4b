"""`inspect` and `run-help`: directory, squashfs and SIF say the same, and Apptainer's text and JSON."""

from __future__ import annotations

import json
import os
import pty
import shutil
from pathlib import Path

import images
import pytest
from images import Program

FILES = {
    ".singularity.d/labels.json": '{"org.label-schema.build-arch": "amd64", "maintainer": "me", "count": 3}',
    ".singularity.d/runscript": '#!/bin/sh\necho run "$@"\n',
    ".singularity.d/startscript": "#!/bin/sh\necho started\n",
    ".singularity.d/runscript.help": "Some help\nfor this\n",
    ".singularity.d/Singularity": "Bootstrap: docker\nFrom: busybox\n",
    ".singularity.d/env/90-environment.sh": "export A=1\n",
    ".singularity.d/env/99-base.sh": "the builder's\n",
    "scif/apps/foo/scif/runscript": "#!/bin/sh\necho foo\n",
    "scif/apps/foo/scif/labels.json": '{"v": "1"}',
    "scif/apps/foo/scif/runscript.help": "foo help\n",
    "scif/apps/bar/scif/env/90-environment.sh": "export BAR=1\n",
    "opt/test": "#!/bin/sh\nexit 3\n",
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, sifkit: Program) -> Path:
    top = tmp_path_factory.mktemp("inspect")
    for name, text in FILES.items():
        path = top / "dir" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # Links of an image mean the image's files, never the host's.
    (top / "dir/.singularity.d/test").symlink_to("/opt/test")
    images.make_squash(top / "dir", top / "squash")
    sifkit.ok("sif", "new", str(top / "sif"))
    sifkit.ok("sif", "add", str(top / "sif"), str(top / "squash"), "--datatype", "partition", "--parttype",
              "primsys", "--partarch", "arm64")  # fmt: skip
    return top


KINDS = pytest.mark.parametrize("kind", ["dir", "squash", "sif"])


@KINDS
def test_text_of_everything_in_apptainers_order(sifkit: Program, kinds: Path, kind: str) -> None:
    said = sifkit.ok("inspect", "-l", "-d", "-r", "-s", "-t", "-e", "-H", str(kinds / kind))
    assert said == (
        'Bootstrap: docker\nFrom: busybox\n#!/bin/sh\necho run "$@"\n#!/bin/sh\necho started\n#!/bin/sh\nexit 3\n'
        "Some help\nfor this\n=== /.singularity.d/env/90-environment.sh ===\nexport A=1\n\n"
        "count: 3\nmaintainer: me\norg.label-schema.build-arch: amd64\n"
    )
    assert sifkit.ok("inspect", str(kinds / kind)) == said[said.index("count") :]


@KINDS
def test_json_of_everything(sifkit: Program, kinds: Path, kind: str) -> None:
    said = json.loads(sifkit.ok("inspect", "--all", str(kinds / kind)))
    assert said["type"] == "container"
    attributes = said["data"]["attributes"]
    assert attributes["apps"] == {
        "bar": {"environment": {"/scif/apps/bar/scif/env/90-environment.sh": "export BAR=1"}},
        "foo": {"helpfile": "foo help", "labels": {"v": "1"}, "runscript": "#!/bin/sh\necho foo"},
    }
    assert attributes["labels"]["maintainer"] == "me"
    assert attributes["deffile"] == "Bootstrap: docker\nFrom: busybox"
    assert attributes["test"] == "#!/bin/sh\nexit 3"
    one = json.loads(sifkit.ok("inspect", "-j", "-r", str(kinds / kind)))
    assert one["data"]["attributes"] == {"runscript": '#!/bin/sh\necho run "$@"'}


@KINDS
def test_apps_and_help(sifkit: Program, kinds: Path, kind: str) -> None:
    image = str(kinds / kind)
    assert sifkit.ok("inspect", "--list-apps", image) == "bar\nfoo\n"
    assert json.loads(sifkit.ok("inspect", "-j", "--list-apps", image))["data"]["attributes"] == {
        "apps": {"bar": {}, "foo": {}}
    }
    assert sifkit.ok("inspect", "--app", "foo", "-r", image) == "#!/bin/sh\necho foo\n"
    assert sifkit.ok("run-help", image) == "Some help\nfor this\n"
    assert sifkit.ok("run-help", "--app", "foo", image) == "foo help\n"
    assert sifkit.ok("run-help", "--app", "bar", image) == "No help sections were defined for this image\n"
    missing = sifkit("inspect", "--app", "nope", image)
    assert missing.returncode == 1
    assert "its apps are: bar, foo" in missing.stderr


def test_an_image_that_says_nothing(sifkit: Program, tmp_path: Path) -> None:
    assert sifkit.ok("inspect", str(tmp_path)) == ""
    assert json.loads(sifkit.ok("inspect", "--all", str(tmp_path)))["data"] == {"attributes": {}}


def test_damaged_labels_and_loops_are_sentences(sifkit: Program, tmp_path: Path) -> None:
    (tmp_path / ".singularity.d").mkdir()
    (tmp_path / ".singularity.d/labels.json").write_text("{not json")
    (tmp_path / ".singularity.d/runscript").symlink_to("runscript")
    broken = sifkit("inspect", str(tmp_path))
    assert broken.returncode == 255
    assert "it is no JSON" in broken.stderr
    assert "Traceback" not in broken.stderr
    (tmp_path / ".singularity.d/labels.json").unlink()
    assert sifkit.ok("inspect", "-r", str(tmp_path)) == ""


def test_a_terminal_gets_no_control_characters(sifkit: Program, kinds: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    shutil.copytree(kinds / "dir", image, symlinks=True)
    (image / ".singularity.d/runscript.help").write_text("red \x1b[31m\tand\nbell \x07\n")
    said = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 4096)
        said.extend(data)
        return data

    null = os.open(os.devnull, os.O_WRONLY)
    kept = os.dup(1)
    os.dup2(null, 1)
    try:
        status = pty.spawn([sifkit.path, "run-help", str(image)], read, lambda _: b"")
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)
    assert status == 0
    assert bytes(said).replace(b"\r\n", b"\n") == b"red \\x1b[31m\tand\nbell \\x07\n"
