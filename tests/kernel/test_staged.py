"""Staged writes: what a run changes is in the image when it has ended, and never half of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import images
import pytest
from images import MIB, Program
from probes import IS_ROOT, needs, only_root
from running import Start, wait_for

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "fuse2fs", "mke2fs", "debugfs", "xattr")]

# Root takes the ordinary user's way.
WITHOUT = "root,loop" if IS_ROOT else ""


def env(absent: str = "", **more: str) -> dict[str, str]:
    names = ",".join(name for name in (WITHOUT, absent) if name)
    return {**os.environ, "SIFKIT_DEBUG_WITHOUT": names, **more}


@pytest.fixture
def image(sifkit: Program, tmp_path: Path) -> str:
    """A new ext3 overlay image in a directory of its own."""
    (tmp_path / "here").mkdir()
    sifkit.ok("overlay", "create", f"{tmp_path}/here/over.img")
    return f"{tmp_path}/here/over.img"


def sound(image: str) -> bool:
    return images.run("/usr/sbin/e2fsck", "-fn", image).returncode == 0


def alone(image: str) -> bool:
    """Whether nothing is left beside the image."""
    return os.listdir(os.path.dirname(image)) == ["over.img"]


def filled(sifkit: Program, image: str, rootfs: Path, files: int = 60) -> None:
    """Give the image more than what is unpacked for being little."""
    script = f"mkdir /many; i=0; while [ $i -lt {files} ]; do echo $i > /many/$i; i=$((i+1)); done"
    sifkit.ok("exec", "--overlay", image, str(rootfs), "sh", "-c", script, env=env())


def dry_run(sifkit: Program, *argv: str, environment: dict[str, str] | None = None) -> str:
    said = sifkit.ok("exec", "--dry-run", *argv, "true", env=environment or env())
    return next(line for line in said.splitlines() if line.startswith("driver"))


def test_the_reason_is_printed(sifkit: Program, rootfs: Path, image: str) -> None:
    base = str(rootfs)
    assert "staged: " in dry_run(sifkit, "--overlay", image, base)
    assert "the image is empty" in dry_run(sifkit, "--overlay", image, base)
    sifkit.ok("exec", "--overlay", image, base, "touch", "/little", env=env())
    assert "little that is in it is unpacked" in dry_run(sifkit, "--overlay", image, base)
    filled(sifkit, image, rootfs)
    assert "through FUSE" in dry_run(sifkit, "--overlay", image, base)
    assert "without FUSE and is unpacked" in dry_run(sifkit, "--overlay", image, base, environment=env("fuse"))
    assert "fuse-overlayfs: :fuse asks" in dry_run(sifkit, "--overlay", f"{image}:fuse", base)
    assert "SIFKIT_OVERLAY_DRIVER=fuse asks" in dry_run(
        sifkit, "--overlay", image, base, environment=env(SIFKIT_OVERLAY_DRIVER="fuse")
    )
    assert "not staged" in dry_run(sifkit, "--overlay", image, base, environment=env("overlay"))
    assert alone(image)


@only_root
@needs("loop")
def test_root_keeps_the_kernel_way(sifkit: Program, rootfs: Path, image: str) -> None:
    assert "kernel" in dry_run(sifkit, "--overlay", image, str(rootfs), environment=dict(os.environ))


@pytest.mark.parametrize("absent", ["", "fuse", "lowerdir_append"])
def test_changes_come_and_go(sifkit: Program, rootfs: Path, image: str, absent: str) -> None:
    filled(sifkit, image, rootfs)
    command = ("exec", "--overlay", image, str(rootfs), "sh", "-c")
    script = "echo more >> /many/1; rm /many/2; rm -r /usr; mkdir /usr; echo new > /usr/new; mv /many/3 /four"
    assert sifkit.ok(*command, f"{script}; cat /many/4", env=env(absent)) == "4\n"
    look = "cat /many/1; ls /usr; cat /four; ls /many | wc -l; test ! -e /many/2"
    assert sifkit.ok(*command, look, env=env(absent)) == "1\nmore\nnew\n3\n58\n"
    assert sifkit.ok("exec", "--overlay", f"{image}:ro", str(rootfs), "sh", "-c", look) == "1\nmore\nnew\n3\n58\n"
    assert sound(image)
    assert alone(image)


def test_directories_with_roots_mark_can_be_changed(sifkit: Program, rootfs: Path, image: str) -> None:
    """Root's marks mean nothing to a mount of an ordinary user."""
    filled(sifkit, image, rootfs)
    command = ("exec", "--overlay", image, str(rootfs), "sh", "-c")
    sifkit.ok(*command, "rm -r /usr; mkdir /usr; echo one > /usr/one", env=env())
    images.run("/usr/sbin/debugfs", "-w", "-R", "ea_set /upper/usr trusted.overlay.opaque y", image)
    assert "has marks of root's and is unpacked" in dry_run(sifkit, "--overlay", image, str(rootfs))
    sifkit.ok(*command, "chmod 700 /usr; echo two > /usr/two", env=env())
    for mode in ("", ":ro"):
        look = ("exec", "--overlay", f"{image}{mode}", str(rootfs), "sh", "-c", "stat -c %a /usr; ls /usr")
        assert sifkit.ok(*look, env=env()) == "700\none\ntwo\n"
    assert sound(image)


def test_a_run_that_changes_nothing_does_not_write_into_the_image(sifkit: Program, rootfs: Path, image: str) -> None:
    filled(sifkit, image, rootfs)
    for absent in ("", "fuse"):
        before = Path(image).read_bytes(), os.stat(image).st_mtime_ns
        sifkit.ok("exec", "--overlay", image, str(rootfs), "cat", "/many/1", env=env(absent))
        assert (Path(image).read_bytes(), os.stat(image).st_mtime_ns) == before
        wait_for(lambda: alone(image), "the removal of what was unpacked")


def test_the_status_of_the_payload_passes_through(sifkit: Program, rootfs: Path, image: str) -> None:
    command = ("exec", "--overlay", image, str(rootfs), "sh", "-c")
    assert sifkit(*command, "echo x > /x; exit 7", env=env()).returncode == 7
    assert sifkit(*command, "echo x > /y; kill -9 $$", env=env()).returncode == 137
    assert sifkit.ok(*command, "cat /x /y", env=env()) == "x\nx\n"


def test_create_dir(sifkit: Program, rootfs: Path, image: str) -> None:
    sifkit.ok("exec", "--create-dir", "/opt/a/b", "--overlay", image, str(rootfs), "touch", "/opt/a/b/c", env=env())
    assert sifkit.ok("exec", "--overlay", image, str(rootfs), "ls", "/opt/a/b", env=env()) == "c\n"


def test_it_grows(sifkit: Program, rootfs: Path, image: str) -> None:
    script = "dd if=/dev/urandom of=/big bs=1M count=100 2>/dev/null; md5sum /big"
    said = sifkit.ok("exec", "--overlay", image, str(rootfs), "sh", "-c", script, env=env())
    assert sifkit.ok("exec", "--overlay", image, str(rootfs), "sh", "-c", "md5sum /big", env=env()) == said
    assert os.path.getsize(image) > 100 * MIB
    assert sound(image)
    assert alone(image)


@pytest.mark.parametrize("options", [["--no-grow"], ["--max-size", "70M"]], ids=" ".join)
def test_what_does_not_fit_stays_in_the_session(sifkit: Program, rootfs: Path, image: str, options: list[str]) -> None:
    before = Path(image).read_bytes()
    script = "dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null; exit 3"
    done = sifkit("exec", *options, "--overlay", image, str(rootfs), "sh", "-c", script, env=env())
    assert (done.returncode, "payload's status was 3" in done.stderr) == (255, True), done.stderr
    assert Path(image).read_bytes() == before
    command = done.stderr.partition("try: ")[2].strip()
    assert command.startswith("sifkit session commit --max-size ")
    sifkit.ok(*command.split()[1:])
    assert sifkit.ok("exec", "--overlay", f"{image}:ro", str(rootfs), "stat", "-c", "%s", "/big") == f"{100 * MIB}\n"
    assert alone(image)


def test_a_place_can_be_named(sifkit: Program, rootfs: Path, image: str, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    script = f"ls {tmp_path}/place | wc -l; touch /x"
    for given in (["--session-dir", f"{tmp_path}/place"], []):
        variables = {} if given else {"SIFKIT_SESSION_DIR": f"{tmp_path}/place"}
        said = sifkit.ok("exec", *given, "--overlay", image, str(rootfs), "sh", "-c", script, env=env(**variables))
        assert said == "1\n"
        assert os.listdir(tmp_path / "place") == []
    done = sifkit("exec", "--session-dir", "/proc", "--overlay", image, str(rootfs), "true", env=env())
    assert (done.returncode, "--session-dir /proc cannot be used" in done.stderr) == (255, True)


def test_ending_waits_for_the_commit(start: Start, sifkit: Program, rootfs: Path, image: str) -> None:
    script = "trap 'exit 5' TERM; i=0; while [ $i -lt 500 ]; do echo $i > /$i; i=$((i+1)); done; echo up"
    script += "; while :; do sleep 0.02; done"
    running = start("exec", "--overlay", image, str(rootfs), "sh", "-c", script, env=env())
    running.expect("up")
    running.signal(signal.SIGTERM)
    assert running.end() == 5
    assert sifkit.ok("exec", "--overlay", image, str(rootfs), "cat", "/499", env=env()) == "499\n"
    assert alone(image)


def test_a_session_that_cannot_be_filled_is_not_left(sifkit: Program, rootfs: Path, image: str) -> None:
    """What the image holds is unpacked into it, and that fails, here by a limit of the caller's."""
    sifkit.ok(
        "exec", "--overlay", image, str(rootfs), "sh", "-c", "head -c 500000 /dev/zero | tr '\\0' x > /x", env=env()
    )
    line = f"ulimit -f 100; exec '{sifkit.path}' exec --overlay '{image}' '{rootfs}' true"
    done = images.run("sh", "-c", line, env=env())
    assert done.returncode == 255 and "cannot make a session" in done.stderr, done.stderr
    assert alone(image)
    assert sifkit("overlay", "ls", image, env=env()).stderr == ""


def test_a_killed_run_is_put_in_by_the_next(start: Start, sifkit: Program, rootfs: Path, image: str) -> None:
    running = start("exec", "--overlay", image, str(rootfs), "sh", "-c", "echo x > /x; echo up; sleep 1000", env=env())
    running.expect("up")
    running.signal(signal.SIGKILL)
    running.end()
    running.gone()
    assert sifkit.ok("exec", "--overlay", f"{image}:ro", str(rootfs), "cat", "/x", env=env()) == "x\n"
    done = sifkit("exec", "--overlay", image, str(rootfs), "cat", "/x", env=env())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (0, "x\n", 1), done.stderr
    assert "left when it ended, have been put into it" in done.stderr
    assert os.listdir(os.path.dirname(image)) == ["over.img"]
    assert sound(image)


def test_links_of_an_earlier_run_part_when_written(sifkit: Program, rootfs: Path, image: str) -> None:
    """A known difference to a directory overlay: docs/staged-writes.md."""
    command = ("exec", "--overlay", image, str(rootfs), "sh", "-c")
    sifkit.ok(*command, "echo one > /a; ln /a /b", env=env())
    assert sifkit.ok(*command, "stat -c %h /a; echo two >> /a; cat /b", env=env()) == "2\none\n"
    assert sifkit.ok(*command, "cat /a; stat -c %h /a; cat /b", env=env()) == "one\ntwo\n1\none\n"


def test_a_directory_of_an_earlier_run_is_moved_by_copying(sifkit: Program, rootfs: Path, image: str) -> None:
    """rename(2) says EXDEV, as with any lower layer (`test_staged_model` asserts that), and mv copies."""
    command = ("exec", "--overlay", image, str(rootfs), "sh", "-c")
    sifkit.ok(*command, "mkdir /d; echo x > /d/f", env=env())
    assert sifkit.ok(*command, "mv /d /e; cat /e/f", env=env()) == "x\n"
    assert sifkit.ok(*command, "test ! -e /d; ls /e", env=env()) == "f\n"
