"""Standard streams that are closed, or that nobody reads any more."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest
from images import Program, make_overlay_image, run

STREAMS = ("<&-", ">&-", "2>&-")
CLOSED = [" ".join(some) for n in (1, 2, 3) for some in itertools.combinations(STREAMS, n)]


WRITERS = ["overlay export {}", "overlay diff {}", "overlay ls {}", "overlay cat {} etc/motd", "overlay diff --json {}"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    upper = tmp_path_factory.mktemp("upper")
    (upper / "etc").mkdir()
    (upper / "etc/motd").write_bytes(b"much\n" * 50_000)
    return make_overlay_image(tmp_path_factory.mktemp("streams") / "o.img", upper)


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("command", ["info {}", "diff {}", "check {}", "export {}", "cat {} etc/motd"])
def test_closed_streams_are_no_reason_to_fail(sifkit: Program, image: Path, command: str, closed: str) -> None:
    before = image.read_bytes()
    done = run("sh", "-c", f"exec '{sifkit.path}' overlay {command.format(image)} {closed}")
    assert (done.returncode, done.stderr) == (0, "")
    assert image.read_bytes() == before  # our own file is never where a stream was


@pytest.mark.parametrize("closed", CLOSED)
def test_a_mistake_has_its_status_with_closed_streams(sifkit: Program, closed: str) -> None:
    assert run("sh", "-c", f"exec '{sifkit.path}' sif dump 1 /nonexistent {closed}").returncode == 255


@pytest.mark.parametrize("command", ["overlay info {}", *WRITERS, "doctor", "--help"])
def test_a_reader_that_left_is_no_finding(sifkit: Program, image: Path, command: str) -> None:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        assert reader.stdin
        done = run(sifkit.path, *command.format(image).split(), stdout=reader.stdin)
        reader.stdin.close()
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("command", WRITERS[1:])
def test_a_full_output_is_not_blamed_on_the_overlay(sifkit: Program, image: Path, command: str) -> None:
    with open("/dev/full", "wb") as full:
        done = run(sifkit.path, *command.format(image).split(), stdout=full)
    assert done.returncode == 255
    assert done.stderr.startswith("sifkit: cannot write standard output: No space left on device\n")


def test_a_reader_of_a_dump_may_leave_early(sifkit: Program, rootfs_squash: Path, tmp_path: Path) -> None:
    image = str(tmp_path / "i.sif")
    sifkit.ok("sif", "new", image)
    sifkit.ok("sif", "add", image, str(rootfs_squash), "--datatype", "partition", "--parttype", "primsys")
    done = run("bash", "-c", f"set -o pipefail; '{sifkit.path}' sif dump 1 '{image}' | head -c 4")
    assert (done.returncode, done.stdout, done.stderr) == (141, "hsqs", "")
