"""Random operations on a staged image and on a plain directory overlay: after every run both show the same tree."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import images
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from images import TESTDATA, Program
from probes import IS_ROOT, needs

pytestmark = [
    pytest.mark.kernel,
    needs("userns", "overlayfs", "fuse2fs", "mke2fs", "debugfs", "xattr"),
    pytest.mark.limit(300),
]

EXAMPLES = int(os.environ.get("SIFKIT_TEST_EXAMPLES", "6"))
NAMES = ["./a", "./b", "./d", "./d/x", "./d/y", "./e", "./e/x", "./e/f", "./base", "./base/in", "./base/deep/er", "./l"]

name = st.sampled_from(NAMES)
text = st.sampled_from(["", "short\n", "0123456789" * 900])
operation = st.one_of(
    st.tuples(st.just("write"), name, text),
    st.tuples(st.just("append"), name, text),
    st.tuples(st.just("truncate"), name, st.sampled_from([0, 3, 70_000])),
    st.tuples(st.just("rename"), name, name),
    st.tuples(st.just("link"), name, name),
    st.tuples(st.just("symlink"), st.sampled_from(["a", "../b", "y" * 200]), name),
    st.tuples(st.just("mkdir"), name),
    st.tuples(st.sampled_from(["unlink", "rmdir", "rmtree", "mkfifo"]), name),
    st.tuples(st.just("chmod"), name, st.sampled_from([0o600, 0o755, 0o444])),
    st.tuples(st.just("xattr"), name, st.sampled_from(["one", "two"]), st.sampled_from(["", "v", "w" * 300])),
)
runs = st.lists(st.lists(operation, min_size=1, max_size=14), min_size=2, max_size=4)

# Root takes the ordinary user's way, and then looks with its own: kernel ext3 and kernel overlayfs.
ORDINARY = {**os.environ, "SIFKIT_DEBUG_WITHOUT": "root,loop"} if IS_ROOT else dict(os.environ)


@pytest.fixture(scope="module")
def base(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with something of its own in /model, and mount points for the host's Python."""
    path = tmp_path_factory.mktemp("model") / "base"
    shutil.copytree(rootfs, path, symlinks=True)
    shutil.rmtree(path / "usr", ignore_errors=True)
    (path / "model/base/deep").mkdir(parents=True)
    (path / "model/base/in").write_text("from the base\n")
    (path / "model/base/deep/er").write_text("deeper\n")
    (path / "model/a").write_text("also\n")
    return path


def run(sifkit: Program, overlay: str, base: Path, ops: list[Any], first: int, env: dict[str, str]) -> dict[str, Any]:
    binds = [f"--bind={path}" for path in ("/usr", "/lib", "/lib64") if os.path.exists(path)]
    program = ["/usr/bin/python3", "-c", (TESTDATA / "model_ops.py").read_text(), "/model"]
    asked = json.dumps({"ops": ops, "first": first})
    done = sifkit("exec", *binds, "--overlay", overlay, str(base), *program, input=asked, env=env)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def whole_seconds(told: dict[str, Any]) -> dict[str, Any]:
    """``told`` without fractions of seconds, which fuse2fs does not show: the kernel does."""
    tree = {
        name: [fact // 10**9 if isinstance(fact, int) and fact > 10**9 else fact for fact in facts]
        for name, facts in told["tree"].items()
    }
    return {**told, "tree": tree}


@settings(
    max_examples=EXAMPLES, deadline=None, print_blob=True, database=None,
    phases=(Phase.explicit, Phase.generate),  # shrinking takes minutes; the blob brings a failure back
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(runs=runs)
def test_a_staged_image_and_a_directory_overlay_hold_the_same(
    sifkit: Program, base: Path, tmp_path: Path, runs: list[list[Any]]
) -> None:
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    image = f"{place}/over.img"
    (place / "changes").mkdir()
    sifkit.ok("overlay", "create", image)
    number = 0
    for ops in [*runs, []]:
        staged = run(sifkit, image, base, ops, number, ORDINARY)
        plain = run(sifkit, f"{place}/changes", base, ops, number, ORDINARY)
        assert staged == plain
        if IS_ROOT:
            seen = run(sifkit, f"{image}:ro", base, [], 0, dict(os.environ))
            again = run(sifkit, f"{image}:ro", base, [], 0, ORDINARY)
            assert whole_seconds(seen) == whole_seconds(again)
        number += len(ops)
        checked = images.run("/usr/sbin/e2fsck", "-fn", image)
        assert checked.returncode == 0, checked.stdout
        assert sorted(os.listdir(place)) == ["changes", "over.img"]
    shutil.rmtree(place)


@pytest.mark.parametrize("files", [0, 80], ids=["unpacked", "through FUSE"])
def test_the_mark_of_a_replaced_directory_is_no_attribute_of_it(
    sifkit: Program, base: Path, tmp_path: Path, files: int
) -> None:
    image = f"{tmp_path}/over.img"
    sifkit.ok("overlay", "create", image)
    many = [["write", f"./many{number}", "text"] for number in range(files)]
    run(sifkit, image, base, [["rmtree", "./base"], ["mkdir", "./base"], *many], 0, ORDINARY)
    tree = run(sifkit, image, base, [], 0, ORDINARY)["tree"]
    assert tree["base"][4] == {} and "base/in" not in tree


def test_the_known_differences(sifkit: Program, base: Path, tmp_path: Path) -> None:
    """What a run cannot do with what an earlier run left, and can on a directory overlay: docs/staged-writes.md."""
    image = f"{tmp_path}/over.img"
    (tmp_path / "changes").mkdir()
    sifkit.ok("overlay", "create", image)
    script = """
import errno, os
os.link("/model/b", "/model/c")
with open("/model/c", "a") as file: file.write("more")
print(open("/model/b").read())
try: os.rename("/model/d", "/model/moved")
except OSError as error: print(errno.errorcode[error.errno])
"""
    binds = [f"--bind={path}" for path in ("/usr", "/lib", "/lib64") if os.path.exists(path)]
    for overlay, said in ((image, "EXDEV"), (f"{tmp_path}/changes", "")):
        run(sifkit, overlay, base, [["write", "./b", "text"], ["link", "./b", "./old"], ["mkdir", "./d"]], 0, ORDINARY)
        done = sifkit("exec", *binds, "--overlay", overlay, str(base), "/usr/bin/python3", "-c", script, env=ORDINARY)
        assert done.stdout.split() == ["textmore", *([said] if said else [])], done.stderr
        seen = run(sifkit, overlay, base, [], 0, ORDINARY)["tree"]
        parted = seen["old"][4] != seen["b"][4]
        assert parted == bool(said)
