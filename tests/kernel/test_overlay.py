"""Writing over a root file system that stays as it is: directory overlays, tmpfs, order, create-dir."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import images
import probes
import pytest
from images import Program
from probes import needs, only_user

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs")]


@pytest.fixture(params=["rootfs", "rootfs_squash"])
def base(request: pytest.FixtureRequest) -> str:
    """The same root file system as a directory and as a squashfs file."""
    if request.param == "rootfs_squash":
        probes.require("squashfuse")
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def overlay(tmp_path: Path) -> str:
    """An empty directory overlay."""
    (tmp_path / "overlay").mkdir()
    return str(tmp_path / "overlay")


def tree(top: Path) -> dict[str, tuple[int, int, int]]:
    """Every path with mode, size and mtime: what must not change in a base."""
    found = {}
    for directory, _, names in os.walk(top):
        for name in [".", *names]:
            entry = os.lstat(f"{directory}/{name}")
            found[f"{directory}/{name}"] = (entry.st_mode, entry.st_size, entry.st_mtime_ns)
    return found


def test_changes_are_found_again_and_the_base_is_untouched(sifkit: Program, rootfs: Path, overlay: str) -> None:
    before = tree(rootfs)
    script = "echo new > /etc/new; echo more >> /etc/os-release; rm /bin/ls; rm -r /usr; mkdir /usr /usr/own"
    sifkit.ok("exec", "--overlay", overlay, str(rootfs), "sh", "-c", script)
    seen = sifkit.ok("exec", "--overlay", overlay, str(rootfs), "sh", "-c", "cat /etc/new; tail -n1 /etc/os-release")
    assert seen == "new\nmore\n"
    assert sifkit.ok("exec", "--overlay", overlay, str(rootfs), "sh", "-c", "echo /usr/*; echo /bin/l[s]") == (
        "/usr/own\n/bin/l[s]\n"
    )
    assert tree(rootfs) == before


def test_every_change_works_over_every_base(sifkit: Program, base: str, overlay: str) -> None:
    """B11: `rm -rf` of a directory of a lower layer is no EIO."""
    script = """set -e
    echo a >> /etc/os-release; chmod 600 /etc/os-release; mv /etc/os-release /etc/renamed
    mkdir -p /opt/a/b; ln /etc/renamed /opt/hard; ln -s x /opt/soft; mkfifo /opt/fifo
    rm -rf /etc/profile.d /usr/share; mkdir /usr/share; touch /usr/share/only
    truncate -s 0 /bin/busybox.copy; cp /bin/busybox /sbin/busybox; /sbin/busybox true"""
    sifkit.ok("exec", "--overlay", overlay, base, "sh", "-c", script)
    script = "stat -c '%a %h' /etc/renamed; ls /usr/share; test -p /opt/fifo; readlink /opt/soft"
    assert sifkit.ok("exec", "--overlay", overlay, base, "sh", "-c", script) == "600 2\nonly\nx\n"


def test_without_an_overlay_the_root_is_read_only(sifkit: Program, base: str) -> None:
    done = sifkit("exec", base, "sh", "-c", "touch /etc/x")
    assert (done.returncode, "Read-only file system" in done.stderr) == (1, True)


def test_a_missing_mount_point_is_not_made_in_the_base(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("data\n")
    before = tree(rootfs)
    bind = f"{tmp_path}/data:/new/deep/file"
    assert sifkit.ok("exec", "--bind", bind, str(rootfs), "cat", "/new/deep/file") == "data\n"
    assert tree(rootfs) == before


def test_a_missing_mount_point_leaves_nothing_in_the_overlay(sifkit: Program, rootfs: Path, overlay: str) -> None:
    sifkit.ok("exec", "--overlay", overlay, "--bind", "/etc/hosts:/new/file", str(rootfs), "cat", "/new/file")
    assert os.listdir(f"{overlay}/upper") == []


def test_tmpfs_takes_writes_and_keeps_nothing(sifkit: Program, base: str) -> None:
    script = "echo x > /etc/new && rm -rf /usr && cat /etc/new"
    assert sifkit.ok("exec", "--writable-tmpfs", base, "sh", "-c", script) == "x\n"
    assert sifkit("exec", base, "test", "-e", "/etc/new").returncode == 1


def test_tmpfs_is_as_large_as_asked(sifkit: Program, rootfs: Path) -> None:
    write = "dd if=/dev/zero of=/big bs=1M count={} 2>&1"
    inside = ("exec", "--writable-tmpfs", "--tmpfs-size", "80M", str(rootfs), "sh", "-c")
    assert sifkit(*inside, write.format(70)).returncode == 0
    full = sifkit(*inside, write.format(90))
    assert full.returncode != 0
    assert "No space left" in full.stdout


def test_tmpfs_combines_with_read_only_overlays(sifkit: Program, rootfs: Path, overlay: str) -> None:
    sifkit.ok("exec", "--overlay", overlay, str(rootfs), "touch", "/from-overlay")
    stacked = ("exec", "--overlay", f"{overlay}:ro", "--writable-tmpfs", str(rootfs), "sh", "-c")
    sifkit.ok(*stacked, "test -e /from-overlay && rm /from-overlay && touch /gone-soon")
    assert os.listdir(f"{overlay}/upper") == ["from-overlay"]


def test_of_read_only_overlays_the_later_is_on_top(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """B24: one order, Apptainer's native one."""
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
        (tmp_path / name / f"only-{name}").touch()
    options = [f"--overlay={tmp_path / name}:ro" for name in ("first", "second", "third")]
    seen = sifkit.ok("exec", *options, str(rootfs), "sh", "-c", "cat /who; echo; ls -d /only-*")
    assert seen.split() == ["third", "/only-first", "/only-second", "/only-third"]


def test_the_writable_one_is_on_top_wherever_it_is_given(
    sifkit: Program, rootfs: Path, overlay: str, tmp_path: Path
) -> None:
    (tmp_path / "layer/etc").mkdir(parents=True)
    (tmp_path / "layer/etc/who").write_text("layer\n")
    stacked = ("exec", "--overlay", overlay, "--overlay", f"{tmp_path}/layer:ro", str(rootfs), "sh", "-c")
    sifkit.ok(*stacked, "cat /etc/who; echo mine > /etc/who")
    assert sifkit.ok(*stacked, "cat /etc/who") == "mine\n"
    assert (tmp_path / "layer/etc/who").read_text() == "layer\n"


@needs("mksquashfs", "squashfuse")
def test_squashfs_overlays_are_read_only_without_being_told(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/marker").write_text("squash\n")
    image = images.make_squash(tmp_path / "tree", tmp_path / "over.sqfs")
    done = sifkit("exec", "--overlay", str(image), str(rootfs), "cat", "/marker")
    assert (done.stdout, done.stderr) == ("squash\n", "")
    done = sifkit("exec", "--overlay", f"{image}:rw", str(rootfs), "true")
    assert (done.returncode, "read-only by nature" in done.stderr) == (255, True)


def test_a_directory_with_plain_content_is_read_only(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """B10: Apptainer hides such content for good after one writable use."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/content").write_text("plain\n")
    done = sifkit("exec", "--overlay", f"{tmp_path}/plain", str(rootfs), "cat", "/content")
    assert done.stdout == "plain\n"
    assert done.stderr.count("WARNING") == 1
    assert os.listdir(tmp_path / "plain") == ["content"]
    done = sifkit("exec", "--overlay", f"{tmp_path}/plain:rw", str(rootfs), "true")
    assert (done.returncode, "content" in done.stderr) == (255, True)


@only_user
def test_an_overlay_that_is_not_writable_is_read_only_with_a_warning(
    sifkit: Program, rootfs: Path, overlay: str
) -> None:
    sifkit.ok("exec", "--overlay", overlay, str(rootfs), "touch", "/mark")
    os.chmod(f"{overlay}/upper", 0o555)
    done = sifkit("exec", "--overlay", overlay, str(rootfs), "sh", "-c", "test -e /mark && touch /no")
    assert (done.returncode, done.stderr.count("WARNING")) == (1, 1)
    done = sifkit("exec", "--overlay", f"{overlay}:rw", str(rootfs), "true")
    assert (done.returncode, "may not write" in done.stderr) == (255, True)
    os.chmod(f"{overlay}/upper", 0o755)


@pytest.mark.parametrize("name", ["a:colon", "a,comma", "back\\slash", "a space", "ümläut", "x:ro", "a,b:c\\d"])
def test_any_path_works(sifkit: Program, rootfs: Path, tmp_path: Path, name: str) -> None:
    """B9: commas split paths, colons were impossible."""
    place = tmp_path / name
    place.mkdir()
    shutil.copytree(rootfs, place / "root", symlinks=True)
    (place / "over").mkdir()
    command = ("exec", "--overlay", f"{place}/over", f"{place}/root", "sh", "-c")
    sifkit.ok(*command, "echo here > /etc/here; rm -r /usr")
    assert sifkit.ok(*command, "cat /etc/here; test ! -e /usr") == "here\n"
    assert sifkit.ok("exec", "--overlay", f"{place}/over:ro", f"{place}/root", "cat", "/etc/here") == "here\n"


def test_a_comma_list_of_existing_paths_is_accepted(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    both = f"{tmp_path}/one:ro,{tmp_path}/two:ro"
    sifkit.ok("exec", "--overlay", both, str(rootfs), "ls", "/one", "/two")
    sifkit.ok("exec", "--overlay", "one:ro,two:ro", str(rootfs), "ls", "/one", "/two", cwd=tmp_path)


def test_create_dir_makes_directories_of_the_caller(sifkit: Program, base: str, overlay: str) -> None:
    made = ("--create-dir", "/var/cache/own", "--create-dir", "data")
    script = "stat -c '%u %a' /var/cache/own /data; touch /var/cache/own/x /data/y"
    owner = f"{os.getuid()} 755\n"
    assert sifkit.ok("exec", "--overlay", overlay, *made, base, "sh", "-c", script) == owner * 2
    assert (Path(overlay) / "upper/var/cache/own/x").exists()


def test_create_dir_follows_links_of_the_image_and_hides_nothing(
    sifkit: Program, rootfs: Path, overlay: str, tmp_path: Path
) -> None:
    """A directory of its own at /bin would hide the link to usr/bin, and so every program."""
    base = tmp_path / "base"
    shutil.copytree(rootfs, base, symlinks=True)
    (base / "links").mkdir()
    (base / "links/absolute").symlink_to("/usr/share")
    (base / "links/relative").symlink_to("../usr/share")
    (base / "links/endless").symlink_to("endless")
    made = ("--create-dir", "/links/absolute/one", "--create-dir", "links/relative/two")
    sifkit.ok("exec", "--overlay", overlay, *made, str(base), "sh", "-c", "ls -d /usr/share/one /usr/share/two")
    assert os.listdir(f"{overlay}/upper") == ["usr"]
    for path, words in {"/etc/os-release/x": "/etc/os-release is not a directory", "/links/endless/x": "link"}.items():
        done = sifkit("exec", "--overlay", overlay, "--create-dir", path, str(base), "true")
        assert (done.returncode, words in done.stderr) == (255, True), done.stderr


def test_a_layer_given_twice_is_left_out_with_a_warning(sifkit: Program, rootfs: Path, overlay: str) -> None:
    """The kernel would refuse: ELOOP."""
    sifkit.ok("exec", "--overlay", overlay, str(rootfs), "touch", "/kept")
    for options in (["--overlay", overlay, "--overlay", f"{overlay}:ro"], ["--overlay", f"{rootfs}:ro"]):
        done = sifkit("exec", *options, "--overlay", f"{overlay}/upper:ro", str(rootfs), "ls", "/kept")
        assert (done.returncode, "twice" in done.stderr, "refused" in done.stderr) == (0, True, False), done.stderr


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/"])
def test_create_dir_does_not_leave_the_overlay(sifkit: Program, rootfs: Path, overlay: str, path: str) -> None:
    """B17."""
    done = sifkit("exec", "--overlay", overlay, "--create-dir", path, str(rootfs), "true")
    assert (done.returncode, "--create-dir" in done.stderr) == (2, True)
    assert "upper" not in os.listdir(overlay) or os.listdir(f"{overlay}/upper") == []


def test_an_overlay_can_be_removed_by_its_owner(sifkit: Program, rootfs: Path, overlay: str) -> None:
    """B40: work/work has mode 000 after a run of kernel overlayfs."""
    sifkit.ok("exec", "--overlay", overlay, str(rootfs), "touch", "/x")
    # rm itself gets along with a closed directory that is empty; after a kill it is not, and other programs do not.
    work = Path(overlay, "work", "work")
    assert not work.exists() or stat.S_IMODE(work.stat().st_mode) & 0o700 == 0o700
    done = images.run("rm", "-rf", overlay)
    assert (done.returncode, done.stderr, os.path.exists(overlay)) == (0, "", False)


def test_writable_writes_into_the_directory_itself(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    shutil.copytree(rootfs, tmp_path / "own", symlinks=True)
    sifkit.ok("exec", "--writable", f"{tmp_path}/own", "sh", "-c", "echo x > /etc/inside")
    assert (tmp_path / "own/etc/inside").read_text() == "x\n"


def test_writable_does_not_make_mount_points(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    shutil.copytree(rootfs, tmp_path / "own", symlinks=True)
    done = sifkit("exec", "-w", "--bind", f"{tmp_path}:/nowhere/to/be/found", f"{tmp_path}/own", "true")
    assert (done.returncode, "/nowhere/to/be/found" in done.stderr) == (255, True)
    assert not (tmp_path / "own/nowhere").exists()


def test_writable_refuses_what_cannot_be(sifkit: Program, rootfs_squash: Path) -> None:
    done = sifkit("exec", "--writable", str(rootfs_squash), "true")
    assert (done.returncode, "read-only by nature" in done.stderr) == (255, True)


def test_upper_keeps_modes_and_owners(sifkit: Program, rootfs: Path, overlay: str) -> None:
    script = "umask 0; mkdir -m 1777 /t; touch /t/f; chmod 4755 /t/f"
    sifkit.ok("exec", "--overlay", overlay, str(rootfs), "sh", "-c", script)
    assert stat.S_IMODE(os.stat(f"{overlay}/upper/t").st_mode) == 0o1777
    assert stat.S_IMODE(os.stat(f"{overlay}/upper/t/f").st_mode) == 0o4755


def test_a_hundred_layers_start(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """B23: Apptainer fails after 88 s."""
    options = []
    for number in range(100):
        (tmp_path / f"layer{number}").mkdir()
        (tmp_path / f"layer{number}/mark{number}").touch()
        options.append(f"--overlay={tmp_path}/layer{number}:ro")
    assert sifkit.ok("exec", *options, str(rootfs), "sh", "-c", "ls -d /mark* | wc -l").strip() == "100"


def test_more_layers_than_the_kernel_takes_is_a_sentence(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    for number in range(501):
        (tmp_path / f"{number}").mkdir()
    layers = ",".join(f"{number}:ro" for number in range(501))
    done = sifkit("exec", "--overlay", layers, str(rootfs), "true", cwd=tmp_path)
    assert (done.returncode, "500" in done.stderr) == (255, True)


def test_contain_works_over_an_image_with_a_dev_of_its_own(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """As debootstrap makes it: links in /dev, whose targets are in an empty /proc."""
    base = tmp_path / "base"
    shutil.copytree(rootfs, base, symlinks=True)
    for name, target in {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "ptmx": "pts/ptmx"}.items():
        (base / "dev").mkdir(exist_ok=True)
        (base / "dev" / name).symlink_to(target)
    script = "echo x > /dev/null; ls /dev/pts/ptmx /dev/fd/0; echo x > ~/file; echo x > /tmp/file; pwd"
    done = sifkit("exec", "--contain", str(base), "sh", "-c", script)
    assert (done.returncode, done.stdout.splitlines()[:2]) == (0, ["/dev/fd/0", "/dev/pts/ptmx"]), done.stderr
