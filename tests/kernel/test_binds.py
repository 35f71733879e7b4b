"""What of the host is shown: binds, nested and through links, read-only. 7.5: a checklist of Apptainer's tests."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import Program
from probes import needs
from running import Start

pytestmark = [pytest.mark.kernel, needs("userns")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory of the host with one file, and a file beside it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("data\n")
    (tmp_path / "single").write_text("single\n")
    return tmp_path / "data"


def refused(sifkit: Program, image: Path, *words: str) -> str:
    """What it says of options that cannot be had."""
    done = sifkit("exec", *words, str(image), "true")
    assert done.returncode in (2, 255) and "Traceback" not in done.stderr
    return done.stderr


# -- plain -----------------------------------------------------------------------------------------


def test_files_and_directories(sifkit: Program, rootfs: Path, data: Path) -> None:
    """7.5 SimpleFile, SimpleDir, --cwd into the bind; the image has none of the mount points."""
    before = sorted(rootfs.rglob("*"))
    words = ["-B", f"{data}:/new/dir", "-B", f"{data.parent}/single:/new/file", "--cwd", "/new/dir"]
    assert sifkit.ok("exec", *words, str(rootfs), "cat", "file", "/new/file") == "data\nsingle\n"
    assert sorted(rootfs.rglob("*")) == before


def test_a_bind_can_be_written_and_one_with_ro_cannot(sifkit: Program, rootfs: Path, data: Path) -> None:
    words = ["--bind", f"{data}:/data", "--mount", f"type=bind,src={data},dst=/opt/deep/read,ro"]
    script = "echo kept > /data/new && cat /opt/deep/read/new && ! touch /opt/deep/read/new /opt/deep/read/other"
    assert sifkit.ok("exec", *words, str(rootfs), "sh", "-c", script) == "kept\n"
    assert sorted(os.listdir(data)) == ["file", "new"]


def test_a_bind_that_names_nothing_is_no_error_but_gets_a_warning(sifkit: Program, rootfs: Path, data: Path) -> None:
    """Apptainer binds nothing and says nothing; mostly a variable is not set. Empty parts of a list are usual."""
    for words in ("", ":", ","):
        done = sifkit("exec", "--bind", words, str(rootfs), "true")
        assert (done.returncode, done.stderr.count("WARNING")) == (0, 1), done.stderr
        assert f"--bind '{words}' names nothing" in done.stderr
    done = sifkit("exec", "--bind", f",{data}:/new,,", str(rootfs), "cat", "/new/file")
    assert (done.returncode, done.stdout, done.stderr) == (0, "data\n", "")


def test_read_only_holds_for_what_is_mounted_below(sifkit: Program, rootfs: Path) -> None:
    """/dev/shm is a file system of its own on every host; Apptainer 1.4.5 lets it be written."""
    name = f"sifkit-test-{os.getpid()}"
    script = f"touch /host/shm/{name}; echo $?; ! test -e /host/shm/{name}"
    done = sifkit("exec", "--bind", "/dev:/host:ro", str(rootfs), "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "Read-only file system" in done.stderr


def test_mistakes_are_one_sentence(sifkit: Program, rootfs: Path, data: Path) -> None:
    """7.5 NonExistentSource, RelativeBindDestination, unknown option."""
    assert f"{data}/none" in refused(sifkit, rootfs, "-B", f"{data}/none:/x")
    assert "absolute" in refused(sifkit, rootfs, "-B", f"{data}:x")
    assert "'foo'" in refused(sifkit, rootfs, "-B", f"{data}:/x:foo")
    assert "/etc/passwd" in refused(sifkit, rootfs, "-B", f"{data}:/etc/passwd")


def test_the_first_of_two_at_one_place(sifkit: Program, rootfs: Path, data: Path) -> None:
    """7.5 6165: two that say the same are no reason for a warning."""
    same = ["-B", f"{data}:/x", "-B", f"{data}:/x/"]
    done = sifkit("exec", *same, str(rootfs), "cat", "/x/file")
    assert (done.stdout, done.stderr) == ("data\n", "")
    variable = {**os.environ, "APPTAINER_BIND": f"{data.parent}:/x"}
    done = sifkit("exec", *same, str(rootfs), "cat", "/x/file", env=variable)
    assert done.stdout == "data\n" and f"{data.parent}:/x" in done.stderr


def test_containers_inside_are_told(sifkit: Program, rootfs: Path, data: Path) -> None:
    """7.5 5599: the command line first, then the variable; 3501: nonested is not among them."""
    words = ["-B", f"{data}:/mnt", "--mount", f"src={data},dst=/hidden,nonested"]
    variable = {**os.environ, "SINGULARITY_BIND": f"{data}:/srv"}
    said = sifkit.ok("exec", *words, str(rootfs), "sh", "-c", 'echo "$APPTAINER_BIND"', env=variable)
    assert said == "/mnt,/srv\n"


def test_a_variable_may_hold_several_mounts(sifkit: Program, rootfs: Path, data: Path) -> None:
    variable = {**os.environ, "APPTAINER_MOUNT": f"src={data},dst=/a\nsrc={data},dst=/b"}
    assert sifkit.ok("exec", str(rootfs), "cat", "/a/file", "/b/file", env=variable) == "data\n" * 2


# -- nested ----------------------------------------------------------------------------------------


def test_nested_ones_in_any_order(sifkit: Program, rootfs: Path, data: Path) -> None:
    """7.5 nested file, dir, two-level nested binds; their mount points are made in the outer bind, on the host."""
    outer, middle = data.parent / "outer", data.parent / "middle"
    outer.mkdir()
    middle.mkdir()
    inner = ["-B", f"{data}:/o/m/inner", "-B", f"{data.parent}/single:/o/s/f"]
    words = [*inner, "-B", f"{middle}:/o/m", "-B", f"{outer}:/o"]
    assert sifkit.ok("exec", *words, str(rootfs), "cat", "/o/m/inner/file", "/o/s/f") == "data\nsingle\n"
    assert sorted(os.listdir(outer)) == ["m", "s"] and os.listdir(outer / "m") == []
    assert os.listdir(middle) == ["inner"] and (outer / "s/f").read_text() == ""


def test_nested_in_a_read_only_one(sifkit: Program, rootfs: Path, data: Path) -> None:
    """The usual way to keep a project and write its results; --dry-run says what is made on the host."""
    (data.parent / "out").mkdir()
    words = ["-B", f"{data}:/p:ro", "-B", f"{data.parent}/out:/p/out"]
    assert "out is made in it" in sifkit.ok("exec", "--dry-run", *words, str(rootfs), "true")
    assert os.listdir(data) == ["file"]
    script = "echo result > /p/out/r && ! touch /p/new"
    sifkit.ok("exec", *words, str(rootfs), "sh", "-c", script)
    assert (data.parent / "out/r").read_text() == "result\n"
    assert "is made in it" not in sifkit.ok("exec", "--dry-run", *words, str(rootfs), "true")


def test_a_link_in_a_bind_chooses_no_place_on_the_host(sifkit: Program, rootfs: Path, data: Path) -> None:
    """In the container it means the image's /etc, where a file that is there can be covered, and none be made."""
    (data / "link").symlink_to("/etc")
    words = ["-B", f"{data}:/o", "-B", f"{data.parent}/single:/o/link"]
    assert sifkit.ok("exec", *words[:3], f"{words[3]}/group", str(rootfs), "cat", "/etc/group") == "single\n"
    done = sifkit("exec", *words[:3], f"{words[3]}/new", str(rootfs), "true")
    assert done.returncode == 255 and "/o/link/new" in done.stderr
    assert sorted(os.listdir(data)) == ["file", "link"]


def test_nested_in_what_is_shown_anyway(sifkit: Program, rootfs: Path, data: Path) -> None:
    """7.5 --contain and a bind on /tmp overrides; in home, which is empty then."""
    environment = {**os.environ, "HOME": "/home/me"}
    words = ["--contain", "-B", f"{data}:/tmp/a/b", "-B", f"{data}:/home/me/x", "-B", f"{data}:/var/tmp"]
    paths = ["/tmp/a/b/file", "/home/me/x/file", "/var/tmp/file"]
    assert sifkit.ok("exec", *words, str(rootfs), "cat", *paths, env=environment) == "data\n" * 3
    home = data.parent / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    where = ["-B", f"{data}:{home}/made/here"]
    assert sifkit.ok("exec", *where, str(rootfs), "cat", f"{home}/made/here/file", env=environment) == "data\n"


# -- links of the image ----------------------------------------------------------------------------


@pytest.fixture
def linked(tree: Path) -> Path:
    """An image with links as destinations: relative, absolute, through another, to nothing, out of the root."""
    (tree / "real/deep").mkdir(parents=True)
    (tree / "real/kept").write_text("kept\n")
    (tree / "relative").symlink_to("real/deep")
    (tree / "absolute").symlink_to("/real/deep")
    (tree / "twice").symlink_to("/relative")
    (tree / "nothing").symlink_to("/made/later")
    (tree / "upwards").symlink_to("../../../../../../real/deep")
    return tree


@pytest.mark.parametrize("link", ["relative", "absolute", "twice", "upwards"])
@pytest.mark.parametrize("below", ["", "/new/dir"])
def test_destinations_through_links(sifkit: Program, linked: Path, data: Path, link: str, below: str) -> None:
    """7.5 through one and two levels of symlink, relative and absolute; issue4797: nothing else is hidden."""
    paths = [f"/{link}{below}/file", f"/real/deep{below}/file", "/real/kept"]
    assert sifkit.ok("exec", "-B", f"{data}:/{link}{below}", str(linked), "cat", *paths) == "data\ndata\nkept\n"
    assert os.listdir(linked / "real/deep") == []


def test_a_link_to_nothing(sifkit: Program, linked: Path, data: Path) -> None:
    paths = ["/nothing/file", "/made/later/file"]
    assert sifkit.ok("exec", "-B", f"{data}:/nothing", str(linked), "cat", *paths) == "data\n" * 2


def test_no_link_leads_out_of_the_root(sifkit: Program, linked: Path, data: Path) -> None:
    """A mount point would be made on the host, or the host's own directory be covered for our own processes."""
    outside = data.parent / "outside"
    outside.mkdir()
    (linked / "out").symlink_to(f"../{outside.name}")
    (linked / "host").symlink_to(str(outside))
    for name in ("out", "host"):
        sifkit.ok("exec", "--contain", "-B", f"{data}:/{name}/new", str(linked), "test", "-f", f"/{name}/new/file")
    assert os.listdir(outside) == []


def test_a_link_of_the_host_is_followed_there(sifkit: Program, rootfs: Path, data: Path) -> None:
    (data.parent / "link").symlink_to("data")
    assert sifkit.ok("exec", "-B", f"{data.parent}/link:/x", str(rootfs), "cat", "/x/file") == "data\n"


def test_var_tmp_that_is_tmp(sifkit: Program, tree: Path) -> None:
    """7.5 issue1097."""
    (tree / "var/tmp").rmdir()
    (tree / "var/tmp").symlink_to("/tmp")
    name = f"sifkit-test-{os.getpid()}-1097"
    try:
        sifkit.ok("exec", str(tree), "touch", f"/var/tmp/{name}")
        assert os.path.exists(f"/tmp/{name}")
    finally:
        os.unlink(f"/tmp/{name}")


# -- into the image itself -------------------------------------------------------------------------


def test_with_writable_mount_points_must_be_there(sifkit: Program, tree: Path, data: Path) -> None:
    """7.5 --writable + bind of a path that exists in the image 0, + new destination 255; nothing is made in it."""
    (tree / "mnt").mkdir()
    assert sifkit.ok("exec", "--writable", "-B", f"{data}:/mnt", str(tree), "cat", "/mnt/file") == "data\n"
    done = sifkit("exec", "--writable", "-B", f"{data}:/no/such", str(tree), "true")
    assert done.returncode == 255 and "/no/such" in done.stderr
    assert not (tree / "no").exists()


# -- X11 -------------------------------------------------------------------------------------------

CONNECT = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(9).decode())"


@pytest.fixture
def displays() -> Iterator[Path]:
    """Where X servers listen, open to all as they make it."""
    place = Path("/tmp/.X11-unix")
    made = not place.exists()
    if made:
        place.mkdir()
        place.chmod(0o1777)
    if not os.access(place, os.W_OK):
        pytest.skip(f"{place} is closed to this user")
    yield place
    if made:
        with contextlib.suppress(OSError):  # another test uses it
            place.rmdir()


@pytest.mark.parametrize("contain", [[], ["--contain", "-B", "/tmp/.X11-unix"]], ids=["default", "contained"])
def test_a_display_of_the_host_can_be_reached(start: Start, rootfs: Path, displays: Path, contain: list[str]) -> None:
    """A stand-in for an X server where those listen, and the host's Python with its libraries as the client."""
    display = str(displays / f"sifkit-test-{os.getpid()}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(display)
        try:
            server.listen(1)
            libraries = [word for path in ("/usr", "/lib", "/lib64") for word in ("-B", path) if os.path.isdir(path)]
            words = [*contain, *libraries, str(rootfs), "/usr/bin/python3", "-c", CONNECT, display]
            client = start("exec", *words)
            server.settimeout(30)
            connection, _ = server.accept()
            connection.sendall(b"hello")
            connection.close()
            assert client.expect("hello\n")
            assert client.end() == 0
        finally:
            os.unlink(display)
