"""What Apptainer has and sifkit has not is said in a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images import Program

from sifkit.cli import absent, overlay_cmd
from sifkit.cli import spec as spec_module
from sifkit.cli.commands import cli
from sifkit.image import uri


@pytest.mark.parametrize("name", [*absent.OPTIONS, "--pem-path=key.pem"])
def test_an_option(sifkit: Program, rootfs: Path, name: str) -> None:
    if name in ("--nocolor", "--build-config"):
        done = sifkit(name, "exec", str(rootfs), "true")
    else:
        done = sifkit("exec", name, str(rootfs), "true")
    assert done.returncode == 2
    assert done.stderr.startswith(f"sifkit: sifkit has no {name.partition('=')[0]}: in Apptainer it ")
    assert "\n  try: " in done.stderr


def test_its_short_name(sifkit: Program, rootfs: Path) -> None:
    """-c FILE before the command is not the --contain of exec."""
    done = sifkit("-c", "/etc/apptainer/apptainer.conf", "exec", str(rootfs), "true")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "sifkit: sifkit has no --config: in Apptainer it is Apptainer's configuration file",
    )
    assert "\n  try: sifkit has its own: docs/configuration.md" in done.stderr
    sifkit.ok("exec", "-c", str(rootfs), "true")


def test_a_variable_for_one_is_a_warning(sifkit: Program, rootfs: Path) -> None:
    variables = {"APPTAINER_NV": "1", "SINGULARITY_APPLY_CGROUPS": "limits.toml"}
    done = sifkit("exec", str(rootfs), "true", env={**os.environ, **variables})
    assert done.returncode == 0
    assert "WARNING: APPTAINER_NV has no effect: sifkit has no --nv: " in done.stderr
    assert "WARNING: SINGULARITY_APPLY_CGROUPS has no effect: sifkit has no --apply-cgroups: " in done.stderr
    assert sifkit("exec", str(rootfs), "true", env={**os.environ, "APPTAINER_NV": "0"}).stderr == ""


def test_none_is_there_after_all() -> None:
    there = {name for spec in spec_module.specs("shell") for name in spec.names}
    assert not there & set(absent.OPTIONS)
    assert not {name for name in absent.COMMANDS if cli.get_command(None, name)}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["pull", "instance", "help"])
def test_a_command(sifkit: Program, name: str) -> None:
    done = sifkit(name, "--anything")
    assert done.returncode == 2
    assert done.stderr.startswith(f"sifkit: sifkit has no command {name}: in Apptainer it ")
    assert "\n  try: " in done.stderr


def test_what_nobody_has_is_as_before(sifkit: Program, rootfs: Path) -> None:
    assert "No such option '--nonsense'" in sifkit("exec", "--nonsense", str(rootfs), "true").stderr
    assert "no command 'nonsense'" in sifkit("nonsense").stderr
    assert "No such option" in sifkit("overlay", "info", "--nv", "x").stderr


@pytest.mark.parametrize("kind", uri.KNOWN)
def test_an_image_that_would_have_to_be_fetched(sifkit: Program, kind: str) -> None:
    done = sifkit("exec", f"{kind}://somewhere/x:1", "true")
    assert done.returncode == 2
    assert f"cannot run {kind}://somewhere/x:1: it is " in done.stderr
    assert "\n  try: " in done.stderr


def test_a_file_of_such_a_name_is_a_file(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    os.symlink(rootfs, tmp_path / "oci:x")
    sifkit.ok("exec", "oci:x", "true", cwd=tmp_path)
    assert sifkit("exec", "oci:y", "true", cwd=tmp_path).returncode == 2
    assert sifkit("exec", "x:y", "true", cwd=tmp_path).returncode == 255


def test_the_table_of_overlay_commands_is_whole(sifkit: Program) -> None:
    said = sifkit.ok("overlay", "--help")
    for heading, rows in overlay_cmd.TABLE.items():
        assert f"\n{heading}:\n" in said
        for name, _, summary in rows:
            assert overlay_cmd.overlay.get_command(None, name).name == name  # type: ignore[arg-type,union-attr]
            assert "..." not in summary
            assert f"  {name} " in said
