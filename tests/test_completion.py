"""Completion, in the shells themselves where they say what they would offer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from images import Program, make_rootfs, run
from probes import needs

BASH = """
eval "$(sifkit completion bash)"
compopt() { echo "(files by $2)"; }
COMP_WORDS=(@LINE@)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_sifkit_completion sifkit
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("completion") / "image")


def environment(sifkit: Program) -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sifkit.path).parent}:{os.environ['PATH']}"}


def offered(sifkit: Program, shell: str, line: str) -> list[str]:
    """What ``shell`` would offer at the end of ``line``, the last word being incomplete."""
    if shell == "bash":
        words = " ".join(f'"{word}"' for word in line.split(" "))
        script = BASH.replace("@LINE@", words)
    else:
        script = f"sifkit completion fish | source; complete -C '{line}'"
    done = run(shell, "-c", script, env=environment(sifkit))
    assert done.returncode == 0, done.stderr
    return [part.split("\t")[0] for part in done.stdout.splitlines()]


both = pytest.mark.parametrize("shell", ["bash", pytest.param("fish", marks=needs("fish"))])


@both
def test_commands_and_options(sifkit: Program, shell: str) -> None:
    assert offered(sifkit, shell, "sifkit ov") == ["overlay"]
    assert {"create", "diff", "info"} <= set(offered(sifkit, shell, "sifkit overlay "))
    assert {"--overlay"} == set(offered(sifkit, shell, "sifkit exec --ov"))
    # Options that come behind others, which are made only when they are mentioned.
    assert "--writable-tmpfs" in offered(sifkit, shell, "sifkit exec --bind /a:/b --writable-t")


@both
def test_programs_of_the_image(sifkit: Program, image: Path, shell: str) -> None:
    assert "echo" in offered(sifkit, shell, f"sifkit exec --contain {image} ec")
    assert "(files" not in " ".join(offered(sifkit, shell, f"sifkit exec {image} ec"))


def test_files_where_nothing_better_is_known(sifkit: Program, image: Path) -> None:
    for line in (f"sifkit inspect {image.parent}/", "sifkit exec --overlay ", f"sifkit exec {image} cat "):
        assert "(files by default)" in offered(sifkit, "bash", line), line


def test_half_written_lines_offer_nothing_and_say_nothing(sifkit: Program, tmp_path: Path) -> None:
    done = run("bash", "-c", BASH.replace("@LINE@", f"sifkit exec {tmp_path}/none ec"), env=environment(sifkit))
    assert done.stderr == ""
    assert offered(sifkit, "bash", "sifkit nosuch") == [""]


@needs("zsh")
def test_zsh_takes_it(sifkit: Program) -> None:
    script = 'autoload -Uz compinit && compinit -D -u && eval "$(sifkit completion zsh)" && print $_comps[sifkit]'
    done = run("zsh", "-f", "-c", script, env=environment(sifkit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "_sifkit_completion\n", "")


def test_another_shell_is_a_usage_error(sifkit: Program) -> None:
    assert sifkit("completion", "tcsh").returncode == 2


def test_what_is_asked_by_a_shell_is_answered_with_success(sifkit: Program) -> None:
    asked = {"_SIFKIT_COMPLETE": "bash_complete", "COMP_WORDS": "sifkit sif ", "COMP_CWORD": "2"}
    done = sifkit(env={**os.environ, **asked})
    assert (done.returncode, done.stderr) == (0, "") and "plain,dump\n" in done.stdout
