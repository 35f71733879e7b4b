"""SIF images run, with the overlays inside them stacked, written and kept apart as they should be."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import images
import pytest
from images import MIB, Program
from probes import IS_ROOT, needs
from running import Start
from sif_parts import HERE, add_ext3, add_squash, make_sif, tree_of

from sifkit import sif

pytestmark = [pytest.mark.kernel, needs("userns", "overlayfs", "squashfuse", "fuse2fs", "fuse-overlayfs", "mke2fs")]


@pytest.fixture
def image(tmp_path: Path, rootfs_squash: Path) -> str:
    """A fresh SIF image of the test root file system."""
    return str(make_sif(tmp_path / "image.sif", rootfs_squash))


def test_a_sif_runs_read_only(sifkit: Program, image: str) -> None:
    before = Path(image).read_bytes()
    done = sifkit("exec", image, "sh", "-c", "cat /etc/os-release > /dev/null && touch /x")
    assert (done.returncode, "Read-only" in done.stderr) == (1, True)
    assert Path(image).read_bytes() == before


def test_overlays_beside_it_work_as_over_any_base(sifkit: Program, image: str, overlay_dir: Path) -> None:
    sifkit.ok("exec", "--overlay", str(overlay_dir), image, "sh", "-c", "rm -r /usr; echo x > /x")
    assert sifkit.ok("exec", "--overlay", str(overlay_dir), image, "sh", "-c", "test ! -e /usr && cat /x") == "x\n"
    assert sifkit.ok("exec", "--writable-tmpfs", image, "sh", "-c", "echo y > /y; cat /y; test -d /usr") == "y\n"


def test_embedded_overlays_stack_by_their_id(sifkit: Program, image: str, tmp_path: Path) -> None:
    add_squash(image, tree_of(tmp_path / "low", who="low", low=""))
    add_ext3(image, tmp_path / "mid.img", tree_of(tmp_path / "mid", who="mid", mid=""))
    add_squash(image, tree_of(tmp_path / "top", who="top", top=""))
    seen = sifkit.ok("exec", "--read-only", image, "sh", "-c", "cat /who; echo; ls /low /mid /top")
    assert seen.split() == ["top", "/low", "/mid", "/top"]
    tree_of(tmp_path / "over", who="over")
    seen = sifkit.ok("exec", "--read-only", "--overlay", f"{tmp_path}/over:ro", image, "cat", "/who")
    assert seen == "over"


def test_the_guides_piped_example_works(sifkit: Program, image: str) -> None:
    """`echo test | ... exec nginx.sif sh -c 'cat > /var/cache/nginx/test'` after `overlay create --create-dir`."""
    sifkit.ok("overlay", "create", "--create-dir", "/var/cache/nginx", image)
    sifkit.ok("exec", image, "sh", "-c", "cat > /var/cache/nginx/test", input="test\n")
    assert sifkit.ok("exec", image, "cat", "/var/cache/nginx/test") == "test\n"
    done = sifkit("exec", "--read-only", image, "touch", "/var/cache/nginx/test")
    assert (done.returncode, "Read-only" in done.stderr) == (1, True)


@needs("debugfs")
def test_the_guides_way_by_hand_works(sifkit: Program, image: str, tmp_path: Path) -> None:
    """`dd`, plain `mkfs.ext3`, `sif add` by numbers, `shell --writable`."""
    plain = images.make_ext3(tmp_path / "overlay.img")
    numbers = ["--datatype", "4", "--partfs", "2", "--parttype", "4", "--partarch", "2", "--groupid", "1"]
    sifkit.ok("sif", "add", *numbers, image, str(plain))
    sifkit.ok("shell", "--writable", image, input="echo kept > /kept\n")
    assert sifkit.ok("exec", image, "cat", "/kept") == "kept\n"
    assert sifkit.ok("sif", "check", image) is not None


def test_a_second_embedded_overlay_stays_visible(sifkit: Program, image: str, tmp_path: Path) -> None:
    """B4: Apptainer drops it from view under --writable."""
    add_ext3(image, tmp_path / "one.img", tree_of(tmp_path / "one", one="1"))
    add_ext3(image, tmp_path / "two.img", tree_of(tmp_path / "two", two="2"))
    assert sifkit.ok("exec", "--writable", image, "sh", "-c", "cat /one /two; echo new > /new") == "12"
    assert sifkit.ok("exec", image, "cat", "/new") == "new\n"


def test_an_overlay_in_no_group_is_named_with_what_mends_it(sifkit: Program, image: str, tmp_path: Path) -> None:
    """B3: Apptainer ignores it without a word."""
    number = add_ext3(image, tmp_path / "stray.img", tree_of(tmp_path / "stray", stray=""), group=0)
    mend = f"sif set {number} {image} --group 1"
    done = sifkit("exec", image, "test", "-e", "/stray")
    assert (done.returncode, "WARNING" in done.stderr, mend in done.stderr) == (1, True, True)
    done = sifkit("exec", "--writable", image, "true")
    assert (done.returncode, mend in done.stderr) == (255, True)
    sifkit.ok(*mend.split(" "))
    sifkit.ok("exec", image, "test", "-e", "/stray")


def test_writable_without_an_overlay_names_the_command(sifkit: Program, image: str) -> None:
    done = sifkit("exec", "--writable", image, "true")
    assert (done.returncode, f"sifkit overlay create {image}" in done.stderr) == (255, True)


def test_a_sif_as_overlay(sifkit: Program, rootfs: Path, image: str, tmp_path: Path) -> None:
    """B15, B16: one without an overlay partition is an error, not silence."""
    done = sifkit("exec", "--overlay", image, str(rootfs), "true")
    assert (done.returncode, "no overlay partition" in done.stderr) == (255, True)
    only = tmp_path / "only.sif"
    sif.create(only)
    add_squash(str(only), tree_of(tmp_path / "data", data="data"), group=0)
    assert sifkit.ok("exec", "--overlay", str(only), str(rootfs), "cat", "/data") == "data"
    done = sifkit("exec", "--overlay", f"{only}:rw", str(rootfs), "true")
    assert (done.returncode, "read-only by nature" in done.stderr) == (255, True)
    add_ext3(str(only), tmp_path / "w.img")
    sifkit.ok("exec", "--overlay", str(only), str(rootfs), "sh", "-c", "cat /data; echo w > /w")
    assert sifkit.ok("exec", "--overlay", f"{only}:ro", str(rootfs), "cat", "/w") == "w\n"


def test_overlay_create_in_place(sifkit: Program, image: str) -> None:
    """B19: sparse stays sparse; nothing is put beside the image meanwhile."""
    before = os.stat(image).st_blocks
    sifkit.ok("overlay", "create", "--size", "512M", "--sparse", image)
    assert os.stat(image).st_size > 512 * MIB
    assert (os.stat(image).st_blocks - before) * 512 < 64 * MIB
    assert os.listdir(os.path.dirname(image)) == ["image.sif"]
    done = sifkit("overlay", "create", image)
    assert (done.returncode, "already" in done.stderr, "sif del 2" in done.stderr) == (255, True, True)
    assert sifkit("sif", "check", image).returncode == 0


def test_overlay_create_refuses_what_it_would_break(sifkit: Program, image: str, tmp_path: Path) -> None:
    sif.add(image, sif.signature(b"signature", 1, link_group=1))
    before = Path(image).read_bytes()
    done = sifkit("overlay", "create", image)
    assert (done.returncode, "signed" in done.stderr) == (255, True)
    assert Path(image).read_bytes() == before
    sif.create(tmp_path / "empty.sif")
    done = sifkit("overlay", "create", f"{tmp_path}/empty.sif")
    assert (done.returncode, "no root file system" in done.stderr) == (255, True)


@pytest.mark.parametrize("arch", ["s390x", "riscv64"])
def test_another_architecture_is_a_sentence(sifkit: Program, tmp_path: Path, rootfs_squash: Path, arch: str) -> None:
    made = make_sif(tmp_path / "other.sif", rootfs_squash, arch)
    done = sifkit("exec", str(made), "true")
    assert (done.returncode, f"for {arch} processors" in done.stderr) == (255, True)


def test_images_that_cannot_be_run_say_why(sifkit: Program, tmp_path: Path, rootfs_squash: Path) -> None:
    sif.create(tmp_path / "none.sif")
    done = sifkit("exec", f"{tmp_path}/none.sif", "true")
    assert (done.returncode, "no root file system" in done.stderr) == (255, True)
    new = sif.partition(rootfs_squash, sif.FsType.ENCRYPTED_SQUASHFS, sif.PartType.PRIMARY, HERE)
    sif.create(tmp_path / "encrypted.sif", [new])
    done = sifkit("exec", f"{tmp_path}/encrypted.sif", "true")
    assert (done.returncode, "encrypted" in done.stderr) == (255, True)
    whole = make_sif(tmp_path / "whole.sif", rootfs_squash).read_bytes()
    (tmp_path / "cut.sif").write_bytes(whole[: len(whole) // 2])
    done = sifkit("exec", f"{tmp_path}/cut.sif", "true")
    assert (done.returncode, "Traceback" in done.stderr) == (255, False)
    assert "ends" in done.stderr or "truncated" in done.stderr


def test_a_running_image_cannot_be_edited_under_it(start: Start, sifkit: Program, image: str) -> None:
    """B6, B38: `sif del` of a partition in use succeeds with the Go tools."""
    sifkit.ok("overlay", "create", image)
    running = start("exec", "--writable", image, "sh", "-c", "echo up; cat", stdin=subprocess.PIPE)
    running.expect("up")
    for number in ("1", "2"):
        done = sifkit("sif", "del", number, image)
        assert (done.returncode, "use" in done.stderr) == (255, True), done.stderr
    done = sifkit("exec", image, "true")
    assert (done.returncode, str(running.pid) in done.stderr) == (255, True)
    running.process.stdin.close()  # type: ignore[union-attr]
    assert running.end() == 0
    sifkit.ok("exec", image, "true")


def test_readers_of_an_embedded_overlay_keep_a_casual_writer_reading(start: Start, sifkit: Program, image: str) -> None:
    sifkit.ok("overlay", "create", image)
    running = start("exec", "--read-only", image, "sh", "-c", "echo up; cat", stdin=subprocess.PIPE)
    running.expect("up")
    done = sifkit("exec", image, "touch", "/x")
    assert (done.returncode, "read-only this time" in done.stderr) == (1, True)
    assert sifkit("exec", "--writable", image, "true").returncode == 255
    running.process.stdin.close()  # type: ignore[union-attr]
    assert running.end() == 0


@pytest.mark.parametrize("name", ["01-basic.sif", "04-embedded-overlay-2M.sif"])
def test_images_of_the_real_tools_run(sifkit: Program, tmp_path: Path, name: str) -> None:
    golden = images.ROOT.parent / "shared/golden" / name
    if not golden.exists():
        pytest.skip("the golden images are not here")
    image = tmp_path / name
    image.write_bytes(golden.read_bytes())
    assert sifkit.ok("exec", str(image), "sh", "-c", "echo runs") == "runs\n"
    if name.startswith("04"):
        seen = sifkit.ok("exec", "--read-only", str(image), "sh", "-c", "find / -xdev -path '*data/f'")
        assert seen.strip().endswith("data/f")


def test_the_owner_of_everything_is_the_caller(sifkit: Program, image: str) -> None:
    expected = "0" if IS_ROOT else str(os.getuid())
    assert sifkit.ok("exec", image, "stat", "-c", "%u", "/bin/busybox").strip() == expected


def test_a_signed_overlay_is_written_only_when_asked(sifkit: Program, image: str) -> None:
    sifkit.ok("overlay", "create", image)
    sif.add(image, sif.signature(b"signature", 1, link_group=1))
    before = Path(image).read_bytes()
    done = sifkit("exec", image, "touch", "/x")
    assert (done.returncode, "Read-only" in done.stderr) == (1, True)
    assert Path(image).read_bytes() == before
    done = sifkit("exec", "--writable", image, "touch", "/x")
    assert (done.returncode, "breaks the signature" in done.stderr) == (0, True)


def test_a_signed_overlay_of_another_image_too(sifkit: Program, image: str, rootfs: Path) -> None:
    """By ``--overlay file.sif``, whose overlays are written by default."""
    sifkit.ok("overlay", "create", image)
    sif.add(image, sif.signature(b"signature", 1, link_group=1))
    before = Path(image).read_bytes()
    done = sifkit("exec", "--overlay", image, str(rootfs), "touch", "/x")
    assert (done.returncode, "it is signed" in done.stderr, "Read-only" in done.stderr) == (1, True, True), done.stderr
    assert Path(image).read_bytes() == before
    done = sifkit("exec", "--overlay", f"{image}:rw", str(rootfs), "touch", "/x")
    assert (done.returncode, "breaks the signature" in done.stderr) == (0, True), done.stderr


def test_an_overlay_in_another_group_is_named(sifkit: Program, image: str, tmp_path: Path) -> None:
    number = add_squash(image, tree_of(tmp_path / "other", other=""), group=7)
    done = sifkit("exec", image, "test", "-e", "/other")
    assert (done.returncode, f"sif set {number} {image} --group 1" in done.stderr) == (1, True), done.stderr


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_an_overlay_that_cannot_be_written_does_not_send_the_writes_elsewhere(
    sifkit: Program, image: str, overlay_dir: Path
) -> None:
    sifkit.ok("overlay", "create", image)
    sifkit.ok("exec", "--overlay", str(overlay_dir), image, "touch", "/mark")
    os.chmod(overlay_dir / "upper", 0o555)
    done = sifkit("exec", "--overlay", str(overlay_dir), image, "sh", "-c", "test -e /mark && touch /astray")
    os.chmod(overlay_dir / "upper", 0o755)
    assert (done.returncode, "Read-only" in done.stderr) == (1, True)


def test_a_reader_of_an_image_being_written_is_told_what_is_wrong(start: Start, sifkit: Program, image: str) -> None:
    sifkit.ok("overlay", "create", image)
    running = start("exec", "--writable", image, "sh", "-c", "echo up; cat", stdin=subprocess.PIPE)
    running.expect("up")
    done = sifkit("exec", "--read-only", image, "true")
    assert (done.returncode, "cannot read" in done.stderr, "cannot write" in done.stderr) == (255, True, False)
    running.process.stdin.close()  # type: ignore[union-attr]
    assert running.end() == 0


@needs("debugfs")
def test_a_sparse_image_added_without_an_architecture_is_whole(sifkit: Program, image: str, tmp_path: Path) -> None:
    plain = images.make_ext3(tmp_path / "sparse.img")
    sifkit.ok("sif", "add", image, str(plain), "--datatype", "partition", "--parttype", "overlay")
    sifkit.ok("exec", "--writable", image, "touch", "/kept")
    assert f"{plain.stat().st_size}" in sifkit.ok("sif", "info", "--json", "2", image)
