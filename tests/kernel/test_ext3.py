"""One ext3 file that holds the changes: written, found again in every mode, never stuck, never silently read-only."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path

import images
import pytest
from images import MIB, Program
from probes import IS_ROOT, needs, only_root, only_user

from overlay.extread.reader import ExtReader
from overlay.section import Section

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "fuse2fs", "fuse-overlayfs", "mke2fs", "debugfs")]

CHANGES = """set -e
echo more >> /etc/os-release; chmod 600 /etc/os-release; echo new > /etc/new
rm -r /usr; mkdir /usr; echo own > /usr/own; rm /bin/ls; mkdir -p /opt/x/y; mv /etc/new /opt/x/y/moved
rm /etc/profile; mkdir /etc/profile; touch '/opt/with
newline'"""
CHECK = """cat /usr/own /opt/x/y/moved; tail -n 1 /etc/os-release; ls -a /usr; ls /etc/profile; ls /opt | wc -l
test ! -e /bin/ls && ! ls / /bin /usr /opt -a | grep -e '^ls$' -e '[.]wh[.]'"""
CHECKED = "own\nnew\nmore\n.\n..\nown\n2\n"


@pytest.fixture
def image(sifkit: Program, tmp_path: Path) -> str:
    """A new ext3 overlay image."""
    sifkit.ok("overlay", "create", "--size", "64M", f"{tmp_path}/over.img")
    return f"{tmp_path}/over.img"


def env(driver: str = "", absent: str = "") -> dict[str, str]:
    return {**os.environ, "SIFKIT_OVERLAY_DRIVER": driver, "SIFKIT_DEBUG_WITHOUT": absent}


def sound(image: str) -> bool:
    return images.run("/usr/sbin/e2fsck", "-fn", image).returncode == 0


# As root: the kernel, then the way of an ordinary user. Otherwise the one way there is.
WAYS = ["", "loop", "root"] if IS_ROOT else [""]


@pytest.mark.parametrize("base_name", ["rootfs", "rootfs_squash"])
@pytest.mark.parametrize("way", WAYS)
def test_changes_are_found_again(
    sifkit: Program, image: str, way: str, base_name: str, request: pytest.FixtureRequest
) -> None:
    base = str(request.getfixturevalue(base_name))
    command = ("exec", "--overlay", image, base, "sh", "-c")
    done = sifkit(*command, CHANGES, env=env(absent=way))
    assert (done.returncode, done.stderr) == (0, "")
    assert sound(image)
    assert sifkit.ok(*command, CHECK, env=env(absent=way)) == CHECKED
    assert sifkit.ok("exec", "--overlay", f"{image}:ro", base, "sh", "-c", CHECK, env=env(absent=way)) == CHECKED


@pytest.mark.parametrize("written", WAYS)
@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("driver", ["", "fuse-overlayfs"])
def test_every_mode_shows_the_same_tree(
    sifkit: Program, rootfs: Path, image: str, written: str, read: str, driver: str
) -> None:
    """B13, B35: with Apptainer deleted files come back, and markers show."""
    base = str(rootfs)
    sifkit.ok("exec", "--overlay", image, base, "sh", "-c", CHANGES, env=env(absent=written))
    read_only = ("exec", "--overlay", f"{image}:ro", base, "sh", "-c", CHECK)
    assert sifkit.ok(*read_only, env=env(driver, read)) == CHECKED
    writable = ("exec", "--overlay", image, base, "sh", "-c")
    assert sifkit.ok(*writable, CHECK, env=env(absent=read)) == CHECKED
    sifkit.ok(*writable, "rm -r /opt/x; mkdir /opt/x; rm /usr/own", env=env(absent=read))
    script = "ls -A /opt/x /usr; test ! -e /usr/own && test ! -e /bin/ls"
    assert sifkit.ok(*writable, script, env=env(absent=written)).split() == ["/opt/x:", "/usr:"]
    assert sound(image)


def test_an_image_made_by_hand_works_for_everybody(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """B14: `dd` and a plain `mkfs.ext3`: the top directory is root's, and there is no upper/."""
    made = images.make_ext3(tmp_path / "plain.img")
    sifkit.ok("exec", "--overlay", str(made), str(rootfs), "sh", "-c", CHANGES)
    assert sifkit.ok("exec", "--overlay", str(made), str(rootfs), "sh", "-c", CHECK) == CHECKED
    with ExtReader(Section(str(made), 0, made.stat().st_size)) as reader:
        upper = reader.lookup(b"/upper")
        assert upper is not None
        assert (upper.uid, upper.gid) == (os.getuid(), os.getgid())


def test_a_read_only_image_without_upper_is_taken_whole(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "tree/data").mkdir(parents=True)
    (tmp_path / "tree/data/file").write_text("content\n")
    made = images.make_ext3(tmp_path / "data.img", tmp_path / "tree")
    assert sifkit.ok("exec", "--overlay", f"{made}:ro", str(rootfs), "cat", "/data/file") == "content\n"


def test_several_read_only_images_and_a_throwaway_layer(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    options = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"from-{name}").touch()
        made = images.make_overlay_image(tmp_path / f"{name}.img", tmp_path / name)
        options.append(f"--overlay={made}:ro")
    script = "ls /from-one /from-two && touch /new"
    sifkit.ok("exec", "--writable-tmpfs", *options, str(rootfs), "sh", "-c", script)


@pytest.mark.skipif(IS_ROOT, reason="root may write in every file")
def test_an_image_that_may_not_be_written_is_read_only_with_a_warning(
    sifkit: Program, rootfs: Path, image: str
) -> None:
    os.chmod(image, 0o444)
    done = sifkit("exec", "--overlay", image, str(rootfs), "touch", "/x")
    assert (done.returncode, done.stderr.count("WARNING")) == (1, 1)
    done = sifkit("exec", "--overlay", f"{image}:rw", str(rootfs), "true")
    assert (done.returncode, "may not write" in done.stderr) == (255, True)


class Holding:
    """A container that runs until the block ends; it has started when the block begins."""

    def __init__(self, sifkit: Program, *argv: str) -> None:
        self.argv = [sifkit.path, *argv, "sh", "-c", "echo up; cat >/dev/null"]

    def __enter__(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def test_an_image_in_use_is_an_error_that_names_the_user(sifkit: Program, rootfs: Path, image: str) -> None:
    """B21, and never a silent change to read-only."""
    with Holding(sifkit, "exec", "--overlay", image, str(rootfs)) as writer:
        for spec in (image, f"{image}:ro", f"{image}:rw"):
            done = sifkit("exec", "--overlay", spec, str(rootfs), "true")
            assert done.returncode == 255
            assert f"process {writer.pid}" in done.stderr or str(writer.pid) in done.stderr, done.stderr
            assert os.uname().nodename in done.stderr or "this host" in done.stderr, done.stderr
            assert "encryption" not in done.stderr
        assert str(writer.pid) in sifkit.ok("overlay", "info", image)
    sifkit.ok("exec", "--overlay", image, str(rootfs), "true")


def test_many_readers_share_an_image_and_keep_writers_out(sifkit: Program, rootfs: Path, image: str) -> None:
    reading = ("exec", "--overlay", f"{image}:ro", str(rootfs))
    with Holding(sifkit, *reading), Holding(sifkit, *reading):
        sifkit.ok(*reading, "true")
        assert sifkit("exec", "--overlay", image, str(rootfs), "true").returncode == 255


def test_one_can_wait_for_the_lock(sifkit: Program, rootfs: Path, image: str) -> None:
    with Holding(sifkit, "exec", "--overlay", image, str(rootfs)) as writer:
        waiting = subprocess.Popen(
            [sifkit.path, "exec", "--wait-lock", "60", "--overlay", image, str(rootfs), "true"], stderr=subprocess.PIPE
        )
        done = sifkit("exec", "--wait-lock", "0.2", "--overlay", image, str(rootfs), "true")
        assert done.returncode == 255
        assert waiting.poll() is None
        writer.communicate()
    assert waiting.wait(60) == 0
    assert waiting.communicate()[1] == b""


def test_a_killed_run_leaves_an_image_that_the_next_one_mends(sifkit: Program, rootfs: Path, image: str) -> None:
    """The servers are killed in the middle of writing, as the out-of-memory killer would."""
    script = "i=0; while :; do i=$((i+1)); echo $i > /file$i; [ $i = 50 ] && echo up; done"
    argv = [sifkit.path, "exec", "--overlay", f"{image}:fuse", str(rootfs), "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()
        for pid in _below(running.pid):  # init first: it is who would unmount properly
            os.kill(pid, signal.SIGKILL)
        running.wait(60)
    done = sifkit("exec", "--overlay", image, str(rootfs), "sh", "-c", "echo alive > /alive && cat /alive")
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
    assert sound(image)


def _below(pid: int) -> list[int]:
    found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [grandchild for child in found for grandchild in _below(child)]


def test_an_unclean_image_is_mended_and_it_is_said(sifkit: Program, rootfs: Path, image: str) -> None:
    images.run("/usr/sbin/debugfs", "-w", "-R", "set_super_value state 0", image)
    done = sifkit("exec", "--overlay", image, str(rootfs), "true")
    assert (done.returncode, "WARNING" in done.stderr) == (0, True), done.stderr
    done = sifkit("exec", "--overlay", image, str(rootfs), "true")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_be_mended_names_the_command(sifkit: Program, rootfs: Path, image: str) -> None:
    with open(image, "r+b") as file:  # the block bitmaps, inode tables and all between them
        file.seek(4096)
        file.write(b"\xa5" * (3 * MIB))
    images.run("/usr/sbin/debugfs", "-w", "-R", "set_super_value state 0", image)
    done = sifkit("exec", "--overlay", image, str(rootfs), "true")
    assert (done.returncode, "e2fsck -f" in done.stderr) == (255, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(IS_ROOT, reason="root's kernel tells its log, not us")
def test_what_a_server_says_of_damage_is_shown(sifkit: Program, rootfs: Path, image: str) -> None:
    """B22: Apptainer filters it away."""
    sifkit.ok("exec", "--overlay", image, str(rootfs), "sh", "-c", "mkdir /d; echo x > /d/f")
    images.run("/usr/sbin/debugfs", "-w", "-R", "set_inode_field /upper/d block[0] 999999", image)
    done = sifkit("exec", "--overlay", f"{image}:fuse", str(rootfs), "ls", "/d")
    assert (done.returncode, "WARNING: fuse2fs" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_a_full_image_says_so_to_the_payload_and_at_the_end(
    sifkit: Program, rootfs: Path, image: str, way: str
) -> None:
    """B36: Apptainer's payload gets the error late or never, and the file is cut afterwards."""
    script = "dd if=/dev/zero of=/big bs=1M count=100 2>&1; stat -c %s /big"
    done = sifkit("exec", "--overlay", f"{image}:fuse", str(rootfs), "sh", "-c", script, env=env(absent=way))
    assert "No space left" in done.stdout
    assert "run out of space" in done.stderr
    size = done.stdout.split()[-1]
    assert sifkit.ok("exec", "--overlay", f"{image}:ro", str(rootfs), "stat", "-c", "%s", "/big").strip() == size
    remedy = shlex.split(done.stderr.partition("to grow it: sifkit ")[2])
    assert "-> 1.1 GiB" in sifkit.ok(*remedy)


@pytest.mark.parametrize("way", WAYS)
def test_an_image_without_inodes_can_still_be_opened_to_delete(
    sifkit: Program, rootfs: Path, tmp_path: Path, way: str
) -> None:
    """B37."""
    image = f"{tmp_path}/few.img"
    sifkit.ok("overlay", "create", "--inodes", "1024", image)
    script = "mkdir /many; i=0; while echo x > /many/$i; do i=$((i+1)); done 2>/dev/null; echo $i"
    done = sifkit("exec", "--overlay", f"{image}:fuse", str(rootfs), "sh", "-c", script, env=env(absent=way))
    assert int(done.stdout) > 900
    assert f"sifkit overlay resize --inodes 2048 {image}" in done.stderr
    script = "rm /many/1?? && ls /many | wc -l"
    done = sifkit("exec", "--overlay", f"{image}:fuse", str(rootfs), "sh", "-c", script, env=env(absent=way))
    assert (done.returncode, int(done.stdout or 0) > 800) == (0, True), done.stderr
    fuse = ("exec", "--overlay", f"{image}:fuse", str(rootfs), "touch", "/new")
    assert sifkit(*fuse, env=env(absent=way)).returncode == 0


def test_other_file_systems_each_have_their_sentence(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    for kind, word in (("ext4", "ext4 ("), ("ext2", "no journal")):
        made = images.make_ext3(tmp_path / f"{kind}.img", kind=kind)
        done = sifkit("exec", "--overlay", f"{made}:ro", str(rootfs), "true")
        assert (done.returncode, word in done.stderr) == (0, True), done.stderr
    cut = tmp_path / "cut.img"
    cut.write_bytes((tmp_path / "ext2.img").read_bytes()[: 40 * MIB])
    done = sifkit("exec", "--overlay", str(cut), str(rootfs), "true")
    assert (done.returncode, "truncated" in done.stderr) == (255, True)
    (tmp_path / "zeros.img").write_bytes(bytes(MIB))
    done = sifkit("exec", "--overlay", f"{tmp_path}/zeros.img", str(rootfs), "true")
    assert (done.returncode, "zeros" in done.stderr) == (255, True)


@only_user
def test_an_image_with_roots_upper_can_be_written(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """`overlay create --fakeroot`, or one made by root."""
    image = f"{tmp_path}/root.img"
    sifkit.ok("overlay", "create", "--fakeroot", image)
    sifkit.ok("exec", "--overlay", image, str(rootfs), "sh", "-c", CHANGES)
    assert sifkit.ok("exec", "--overlay", image, str(rootfs), "sh", "-c", CHECK) == CHECKED


@only_root
def test_root_frees_its_loop_devices(sifkit: Program, rootfs: Path, image: str) -> None:
    sifkit.ok("exec", "--overlay", image, str(rootfs), "touch", "/x")
    sifkit.ok("exec", "--overlay", f"{image}:ro", str(rootfs), "ls", "/x")
    assert image not in images.run("losetup", "-a").stdout


def test_an_image_from_apptainer_reads_right(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    golden = images.ROOT.parent / "shared/golden/09-overlay-create-dir-user.img.zst"
    if not golden.exists():
        pytest.skip("the golden images are not here")
    image = tmp_path / "golden.img"
    subprocess.run([images.program("zstd"), "-q", "-d", str(golden), "-o", str(image)], check=True)
    os.chmod(image, 0o600)
    # It belongs to uid 1000: its own directories can be read by everybody, and changed by root.
    script = CHANGES if IS_ROOT else "echo mine > /mine; rm /bin/ls"
    sifkit.ok("exec", "--overlay", str(image), str(rootfs), "sh", "-c", script)
    script = CHECK if IS_ROOT else "cat /mine; test ! -e /bin/ls && stat -c %a /usr/local/app"
    seen = sifkit.ok("exec", "--overlay", f"{image}:ro", str(rootfs), "sh", "-c", script)
    assert seen == (CHECKED if IS_ROOT else "mine\n755\n")
