"""The payload's environment, without a container."""

from __future__ import annotations

import subprocess

import pytest

from sifkit.runtime import environ
from sifkit.runtime.environ import Assignment, Variables

HOST = {
    "HOME": "/home/me", "PATH": "/host/bin", "LD_LIBRARY_PATH": "/host/lib", "EDITOR": "vi", "TERM": "xterm",
    "APPTAINER_BIND": "/x", "SINGULARITYENV_A": "1", "SIFKIT_SHELL": "/bin/zsh", "BASH_FUNC_f%%": "() { :; }",
    "HTTP_PROXY": "p", "no_proxy": "q", "MULTI": "a\nb",
}  # fmt: skip


def build(verb: str = "exec", **wanted: object) -> environ.Environment:
    return environ.build(HOST, "/images/base.dir", verb, "/home/me", Variables(**wanted), "")  # type: ignore[arg-type]


def test_what_of_the_host_goes_in() -> None:
    made = build().start()
    assert (made["EDITOR"], made["MULTI"]) == ("vi", "a\nb")
    assert (made["PATH"], made["HOME"], made["USER_PATH"]) == (environ.DEFAULT_PATH, "/home/me", "/host/bin")
    for name in ("LD_LIBRARY_PATH", "SINGULARITYENV_A", "SIFKIT_SHELL", "BASH_FUNC_f%%"):
        assert name not in made


def test_a_clean_environment_keeps_the_terminal_and_the_proxies() -> None:
    made = build(clean=True).start()
    assert (made["TERM"], made["HTTP_PROXY"], made["no_proxy"], made["LANG"]) == ("xterm", "p", "q", "C")
    assert "EDITOR" not in made
    assert "USER_PATH" not in made


def test_variables_can_be_left_out() -> None:
    assert "EDITOR" not in build(dropped=("EDITOR", "NO_SUCH")).start()


def test_what_the_runtime_sets() -> None:
    made = build(verb="shell").start()
    for prefix in ("SIFKIT", "APPTAINER", "SINGULARITY"):
        assert (made[f"{prefix}_CONTAINER"], made[f"{prefix}_NAME"]) == ("/images/base.dir", "base.dir")
        assert made[f"{prefix}_COMMAND"] == "shell"


def test_given_ones_win() -> None:
    given = tuple(Assignment(name, value) for name, value in (("PATH", "/mine"), ("EDITOR", "ed"), ("EDITOR", "")))
    made = build(given=given).start()
    assert (made["EDITOR"], made["PATH"]) == ("", "/mine")


def finish(found: dict[str, str] | None = None, **asked: str) -> dict[str, str]:
    made = environ.Environment({"PATH": "/image"}, {"HOSTS": "1", "BOTH": "host"}, ())
    return environ.finish(made, {"PATH": "/image", **(found or {})}, asked)


def test_the_hosts_values_go_where_the_image_sets_none() -> None:
    made = finish({"BOTH": "image", "EMPTY": ""})
    assert (made["HOSTS"], made["BOTH"], made["EMPTY"]) == ("1", "image", "")


def test_paths_are_extended() -> None:
    """7.7 APPEND, PREPEND, overwrite."""
    assert finish(PREPEND_PATH="/a", APPEND_PATH="/z")["PATH"] == "/a:/image:/z"
    assert finish(PATH="/mine,", PREPEND_PATH="/a")["PATH"] == "/a:/mine,"
    assert "PREPEND_PATH" not in finish(PREPEND_PATH="/a")


def test_the_library_path_keeps_the_runtimes_part() -> None:
    """7.7 LD_LIBRARY_PATH."""
    assert "LD_LIBRARY_PATH" not in finish()
    assert finish(LD_LIBRARY_PATH="/foo,")["LD_LIBRARY_PATH"] == "/foo,:/.singularity.d/libs"
    image = {"LD_LIBRARY_PATH": "/image:/.singularity.d/libs"}
    assert finish(image)["LD_LIBRARY_PATH"] == "/image:/.singularity.d/libs"
    assert finish(image, PREPEND_LD_LIBRARY_PATH="/x")["LD_LIBRARY_PATH"] == "/x:/image:/.singularity.d/libs"
    assert finish(LD_LIBRARY_PATH="")["LD_LIBRARY_PATH"] == "/.singularity.d/libs"
    assert finish(PREPEND_LD_LIBRARY_PATH="")["LD_LIBRARY_PATH"] == "/.singularity.d/libs"
    assert finish(APPEND_LD_LIBRARY_PATH="/x")["LD_LIBRARY_PATH"] == "/x:/.singularity.d/libs"


def test_the_prompt_is_ours_or_the_users() -> None:
    assert finish({"PS1": "Singularity> "})["PS1"] == "sifkit> "
    made = finish(PS1="it's> ")
    done = subprocess.run(["sh", "-c", made["PROMPT_COMMAND"] + '; printf %s "$PS1"'], capture_output=True, text=True)
    assert (made["PS1"], done.stdout) == ("it's> ", "it's> ")
    assert finish(PROMPT_COMMAND="mine")["PROMPT_COMMAND"] == "mine"


@pytest.mark.parametrize("value", ["", "plain", "it's", '$HOME `x` "q" \\n', "line\nline", "''", "ü"])
def test_quoting_is_exact(value: str) -> None:
    script = f"printf %s {environ.quoted(value)}"
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == value
