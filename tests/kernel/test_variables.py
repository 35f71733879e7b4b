"""The payload's variables: the host's, the image's, those that were asked for. 7.7: a list of Apptainer's tests."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from images import Program
from probes import needs
from running import Start, children, status, wait_for

pytestmark = [pytest.mark.kernel, needs("userns")]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def variables(text: str) -> dict[str, str]:
    """The output of ``env -0``."""
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def env_of(sifkit: Program, *words: str, **options: object) -> dict[str, str]:
    """The variables of a payload run with ``words``."""
    return variables(sifkit.ok("exec", *words, "env", "-0", **options))


def host(**given: str) -> dict[str, str]:
    """This process's environment and ``given``."""
    return {**os.environ, **given}


# -- the host's and the image's --------------------------------------------------------------------


def test_the_path_is_the_images_usual_one(sifkit: Program, rootfs: Path) -> None:
    """7.7 PATH default."""
    found = env_of(sifkit, str(rootfs), env=host(PATH="/host/only:" + os.environ["PATH"]))
    assert found["PATH"] == DEFAULT_PATH
    assert found["USER_PATH"].startswith("/host/only:")


def test_the_hosts_variables_pass_but_those_that_must_not(sifkit: Program, rootfs: Path) -> None:
    given = host(ORDINARY="yes", LD_LIBRARY_PATH="/host/lib", SIFKIT_X="1", APPTAINER_X="1", PROMPT_COMMAND="host")
    given |= {"BASH_FUNC_f%%": "() { :; }", "odd-name": "1"}
    found = env_of(sifkit, str(rootfs), env=given)
    assert found["ORDINARY"] == "yes"
    assert not {"LD_LIBRARY_PATH", "SIFKIT_X", "APPTAINER_X", "BASH_FUNC_f%%", "odd-name"} & set(found)
    assert "host" not in found["PROMPT_COMMAND"]


def test_pythons_own_locale_is_not_passed_on(sifkit: Program, rootfs: Path) -> None:
    """PEP 538: where none is set Python sets LC_CTYPE, and images without C.UTF-8 would warn of it."""
    assert "LC_CTYPE" not in sifkit.ok("exec", str(rootfs), "env", env={})
    assert "LC_CTYPE=C.UTF-8\n" in sifkit.ok("exec", str(rootfs), "env", env={"LC_CTYPE": "C.UTF-8"})


def test_scripts_of_the_image_are_sourced_in_order(sifkit: Program, rootfs: Path) -> None:
    found = env_of(sifkit, str(rootfs))
    assert (found["IMAGE_ORDER"], found["IMAGE_GREETING"]) == ("1090", "hello")
    assert not {"sifkit_script", "sifkit_directory", "SHLVL", "_"} & (set(found) - set(os.environ))


DOCKER = """\
export PATH="/opt/go/bin:/usr/bin"
export CGO_ENABLED="${CGO_ENABLED:-"0"}"
export SEEN="$HOME|$PWD|$APPTAINER_NAME|${USER-}|${HOSTS-}"
export NOTHING=
"""


def test_the_image_wins_over_the_host_and_does_not_see_it(sifkit: Program, tree: Path) -> None:
    """7.7 host CGO_ENABLED=1 does not override image's 0; image custom PATH kept."""
    scripts = tree / ".singularity.d/env"
    (scripts / "10-docker2singularity.sh").write_text(DOCKER)
    (scripts / "95-custom.sh").write_text("export PATH=/custom:$PATH\n")
    given = host(CGO_ENABLED="1", HOSTS="1", NOTHING="something", USER="me", HOME="/home/me")
    found = env_of(sifkit, "--cwd", "/usr", str(tree), env=given)
    assert (found["CGO_ENABLED"], found["HOSTS"], found["NOTHING"]) == ("0", "1", "")
    assert found["SEEN"] == f"/home/me|/usr|{tree.name}||"
    rest = [part for part in DEFAULT_PATH.split(":") if part != "/usr/bin"]
    assert found["PATH"].split(":") == ["/custom", "/opt/go/bin", "/usr/bin", *rest]
    assert env_of(sifkit, str(tree), env=host(APPTAINERENV_CGO_ENABLED="1"))["CGO_ENABLED"] == "1"


def test_an_old_image_has_one_script(sifkit: Program, tree: Path) -> None:
    """7.7 legacy image with only /environment."""
    shutil.rmtree(tree / ".singularity.d")
    (tree / "environment").write_text("export OLD=yes\n")
    assert env_of(sifkit, str(tree))["OLD"] == "yes"


def test_a_broken_script_of_the_image_does_not_stop_the_payload(sifkit: Program, tree: Path) -> None:
    (tree / ".singularity.d/env/50-odd name.sh").write_text("false\nunset NO_SUCH\nset -- a b\nexport ODD=1\n")
    (tree / ".singularity.d/env/60-directory.sh").mkdir()
    assert env_of(sifkit, str(tree))["ODD"] == "1"


def test_a_script_that_ends_says_why_nothing_runs(sifkit: Program, tree: Path) -> None:
    (tree / ".singularity.d/env/50-end.sh").write_text("echo not here >&2; exit 7\n")
    done = sifkit("exec", str(tree), "echo", "ran")
    assert (done.returncode, done.stdout) == (7, "")
    assert "not here" in done.stderr and ".singularity.d/env" in done.stderr


def test_a_script_that_is_stopped_goes_on_where_it_was(start: Start, tree: Path) -> None:
    (tree / ".singularity.d/env/50-stop.sh").write_text("kill -STOP $$; export LATE=1\n")
    running = start("exec", str(tree), "sh", "-c", 'echo "$LATE"')
    shell = wait_for(lambda: next((pid for pid in below(running.pid) if is_stopped(pid)), 0), "its stop")
    os.kill(shell, signal.SIGCONT)
    assert (running.end(), running.said) == (0, {"stdout": "1\n", "stderr": ""})


def below(pid: int) -> list[int]:
    """The living children of process ``pid``, and theirs."""
    return [found for child in children(pid) for found in (child, *below(child))]


def is_stopped(pid: int) -> bool:
    """Whether process ``pid`` is there and has stopped."""
    try:
        return status(pid)["State"].startswith("T")
    except OSError:
        return False


def test_a_script_takes_no_more_of_the_input_than_it_reads(sifkit: Program, tree: Path) -> None:
    (tree / ".singularity.d/env/50-stdin.sh").write_text("read -r FIRST; export FIRST\n")
    assert sifkit.ok("exec", str(tree), "sh", "-c", 'echo "$FIRST"; cat', input="one\ntwo\n") == "one\ntwo\n"


def test_an_image_without_a_shell_runs(sifkit: Program, bare: Path) -> None:
    (bare / ".singularity.d/env").mkdir(parents=True)
    (bare / ".singularity.d/env/10-base.sh").write_text("export SOURCED=1\n")
    words = ["--env", "GIVEN=a b", "--env", "PATH=${PATH}:/more:\\$PATH", "--env", "COPY=$GIVEN$NO_SUCH`id`"]
    found = env_of(sifkit, *words, str(bare))
    assert (found["GIVEN"], found["PATH"], found["COPY"]) == ("a b", f"{DEFAULT_PATH}:/more:$PATH", "a b`id`")
    assert "SOURCED" not in found


def test_the_payload_is_told_where_it_is(sifkit: Program, rootfs: Path) -> None:
    found = env_of(sifkit, str(rootfs))
    assert found["APPTAINER_CONTAINER"] == found["SIFKIT_CONTAINER"] == str(rootfs)
    assert found["APPTAINER_NAME"] == rootfs.name
    assert found["SINGULARITY_ENVIRONMENT"] == "/.singularity.d/env/91-environment.sh"
    assert found["PS1"] == "sifkit> "


def test_cleanenv_passes_only_terminal_and_proxies(sifkit: Program, rootfs: Path) -> None:
    given = host(ORDINARY="yes", TERM="dumb", https_proxy="http://p", LANG="de_DE.UTF-8", SIFKITENV_MORE="1")
    found = env_of(sifkit, "--cleanenv", "--env", "GIVEN=1", str(rootfs), env=given)
    assert "ORDINARY" not in found
    assert (found["TERM"], found["https_proxy"], found["LANG"], found["GIVEN"]) == ("dumb", "http://p", "C", "1")
    assert (found["PATH"], found["IMAGE_GREETING"], found["MORE"]) == (DEFAULT_PATH, "hello", "1")


@pytest.mark.parametrize(
    ("words", "variable"),
    [(["--no-env", "A"], {}), (["--no-env=A,B", "--no-env", "C"], {}), ([], {"APPTAINER_NOENV": "A,B"})],
    ids=["single", "list", "NOENV"],
)
def test_no_env_leaves_out(sifkit: Program, rootfs: Path, words: list[str], variable: dict[str, str]) -> None:
    """7.7 --no-env; APPTAINERENV_ still passes."""
    given = host(A="1", B="2", APPTAINERENV_B="3", **variable)
    found = env_of(sifkit, *words, str(rootfs), env=given)
    assert "A" not in found
    assert found["B"] == "3"


# -- what was asked for ----------------------------------------------------------------------------


def test_who_wins(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """7.7 --env beats --env-file beats APPTAINERENV_ beats the image beats the host; empty value works."""
    (tmp_path / "file").write_text("IMAGE_GREETING=file\nB=file\n")
    (tmp_path / "later").write_text("B=later\nC=later\n")
    given = host(IMAGE_GREETING="host", SINGULARITYENV_A="s", SINGULARITYENV_D="s", APPTAINERENV_C="forwarded")
    given |= {"SIFKITENV_A": "ours", "APPTAINERENV_A": "theirs", "APPTAINERENV_D": ""}
    words = [f"--env-file={tmp_path}/file,{tmp_path}/later", "--env", "C=given", "--env", "D2=,B2=x", "--env", "B2=y"]
    found = env_of(sifkit, *words, str(rootfs), env=given)
    expected = {"IMAGE_GREETING": "file", "A": "ours", "B": "later", "C": "given", "D": "", "D2": "", "B2": "y"}
    assert {name: found[name] for name in expected} == expected


AWKWARD = {
    "NEWLINES": "one\ntwo\n",
    "QUOTES": "'\"'''",
    "SHELL_TEXT": "$(id) `id` $HOME ${HOME} \\$UID \\\\ \\n * ~ ! # ; | &",
    "EQUALS": "a=b=c",
    "SPACES": "  leading and trailing  ",
    "BACKSLASHES": "a\\nb\\\\c\\",
    "UNICODE": "ü日",
    "NOT_TEXT": "\udcff\udcfe",
}


@pytest.mark.parametrize("how", ["host", "SIFKITENV_", "--env --no-eval"])
def test_values_arrive_exactly(sifkit: Program, rootfs: Path, how: str) -> None:
    """7.7 multi-line value kept; "\\n" literal kept; --no-eval: everything literal."""
    words = [f"--env={name}={value}" for name, value in AWKWARD.items()] if "--env" in how else []
    prefix = {"host": "", "SIFKITENV_": "SIFKITENV_"}.get(how)
    given = {} if prefix is None else {f"{prefix}{name}": value for name, value in AWKWARD.items()}
    found = env_of(sifkit, *(["--no-eval", *words] if words else []), str(rootfs), env=host(**given))
    assert {name: found[name] for name in AWKWARD} == AWKWARD


EVALUATED = {
    "ME": "ME",
    "$UID": f"{os.getuid()}",
    '"$UID"': f'"{os.getuid()}"',
    "'$UID'": f"'{os.getuid()}'",
    "\\$UID": "$UID",
    "$(id -u)`id -u`": f"{os.getuid()}{os.getuid()}",
    "$HOSTS-${IMAGE_GREETING}": "-hello",
    "a\\nb\\\\c\n$EMPTY\\": "a\\nb\\c\n\\",
    "no dollar \\\\ \"'": "no dollar \\\\ \"'",
    "/foo/\\$LIB/x.so": "/foo/$LIB/x.so",
    "$PATH:/foo": f"{DEFAULT_PATH}:/foo",
}


@pytest.mark.parametrize("how", ["APPTAINERENV_", "--env"])
def test_values_are_evaluated_as_apptainer_does(sifkit: Program, rootfs: Path, how: str) -> None:
    """7.7 eval; B of Apptainer: a backslash at the end is an error there."""
    named = {f"V{number}": value for number, value in enumerate(EVALUATED)}
    words = [f"--env={name}={value}" for name, value in named.items()] if how == "--env" else []
    given = {} if words else {f"{how}{name}": value for name, value in named.items()}
    found = env_of(sifkit, *words, str(rootfs), env=host(HOSTS="of the host", **given))
    assert [found[name] for name in named] == list(EVALUATED.values())


def test_one_may_refer_to_an_earlier(sifkit: Program, rootfs: Path) -> None:
    found = env_of(sifkit, "--env", "A=it's", "--env", "B=$A $A", "--env", "A=last", str(rootfs))
    assert (found["A"], found["B"]) == ("last", "it's it's")


def test_what_cannot_be_evaluated_is_one_sentence(sifkit: Program, rootfs: Path) -> None:
    done = sifkit("exec", "--env", "A=$(", str(rootfs), "true")
    assert done.returncode != 0 and "--no-eval" in done.stderr and "Traceback" not in done.stderr


def test_paths_are_extended_and_replaced(sifkit: Program, rootfs: Path) -> None:
    """7.7 APPEND/PREPEND; overwrite; trailing comma kept; LD_LIBRARY_PATH; --env PATH=$PATH:/foo."""
    given = host(APPTAINERENV_PREPEND_PATH="/first", SINGULARITYENV_APPEND_PATH="/last")
    found = env_of(sifkit, "--env", "LD_LIBRARY_PATH=/foo,", str(rootfs), env=given)
    assert found["PATH"] == f"/first:{DEFAULT_PATH}:/last"
    assert found["LD_LIBRARY_PATH"] == "/foo,:/.singularity.d/libs"
    found = env_of(sifkit, "--env", "PATH=$PATH:/bin,", "--env", "PREPEND_PATH=/a,APPEND_PATH=$HOME", str(rootfs))
    assert found["PATH"] == f"/a:{DEFAULT_PATH}:/bin,:{found['HOME']}"
    assert not [name for name in found if "PEND_PATH" in name]


def test_home_is_set_by_its_own_option(sifkit: Program, rootfs: Path) -> None:
    done = sifkit("exec", "--env", "HOME=/x", str(rootfs), "sh", "-c", 'echo "$HOME"', env=host(HOME="/home/me"))
    assert done.stdout == "/home/me\n" and "--home" in done.stderr


@pytest.mark.parametrize("text", ["A", "=x", "1A=x", "A-B=x", ""])
def test_what_is_no_assignment(sifkit: Program, rootfs: Path, text: str) -> None:
    done = sifkit("exec", "--env", text, str(rootfs), "true")
    assert done.returncode == 2 and "NAME=VALUE" in done.stderr


def test_a_forwarded_name_that_is_none_is_left_out(sifkit: Program, rootfs: Path) -> None:
    """7.7 invalid key dropped."""
    found = env_of(sifkit, str(rootfs), env={**os.environ, "APPTAINERENV_A-B": "1", "APPTAINERENV_": "2"})
    assert not {"A-B", ""} & set(found)


def test_a_file_may_refer_to_the_container(sifkit: Program, rootfs: Path, tmp_path: Path) -> None:
    """7.7 env-file: PATH override; append/prepend literal and special; prints no "readonly variable"."""
    (tmp_path / "file").write_text("PATH=/mine:\\$PATH\nAPPEND_PATH=/last\nUID=5\nQ='$UID'\nHOSTED=$HOSTS\n")
    done = sifkit("exec", "--env-file", f"{tmp_path}/file", str(rootfs), "env", "-0", env=host(HOSTS="a$b"))
    found = variables(done.stdout)
    assert (found["PATH"], found["HOSTED"], done.stderr) == (f"/mine:{DEFAULT_PATH}:/last", "a$b", "")
    done = sifkit("exec", "--env-file", f"{tmp_path}/nowhere", str(rootfs), "true")
    assert done.returncode == 255 and f"{tmp_path}/nowhere" in done.stderr
    (tmp_path / "file").write_text("A=1\nB=$(id)\n")
    done = sifkit("exec", "--env-file", f"{tmp_path}/file", str(rootfs), "true")
    assert done.returncode == 255 and "line 2" in done.stderr


def test_a_large_environment_passes_and_a_larger_one_is_one_sentence(sifkit: Program, bare: Path) -> None:
    """7.7 1 MiB-class environments; 65 536 variables."""
    large = {f"LARGE_{number}": "x" * 100_000 for number in range(10)}
    assert env_of(sifkit, str(bare), env=host(**large))["LARGE_9"] == "x" * 100_000
    done = sifkit("exec", "--env", "HUGE=" + "x" * 131_000, str(bare), "env", "X" * 100)
    assert done.returncode != 255 and "Traceback" not in done.stderr


def test_many_variables_pass_beside_the_images_scripts(sifkit: Program, rootfs: Path) -> None:
    many = {f"V{number}": "" for number in range(65_536)}
    found = env_of(sifkit, str(rootfs), env=host(**many))
    assert found["V65535"] == "" and found["IMAGE_GREETING"] == "hello"
