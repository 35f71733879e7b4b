"""The payload's environment, without a container."""

from __future__ import annotations

import subprocess

import pytest

from sifkit.runtime import environ

HOST = {
    "HOME": "/home/me", "PATH": "/host/bin", "LD_LIBRARY_PATH": "/host/lib", "EDITOR": "vi", "TERM": "xterm",
    "APPTAINER_BIND": "/x", "SINGULARITYENV_A": "1", "SIFKIT_SHELL": "/bin/zsh", "BASH_FUNC_f%%": "() { :; }",
    "HTTP_PROXY": "p", "no_proxy": "q", "MULTI": "a\nb",
}  # fmt: skip


def build(clean: bool = False, verb: str = "exec", extra: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    return environ.build(HOST, "/images/base.dir", verb, "/home/me", clean, extra).start


def test_what_of_the_host_goes_in() -> None:
    made = build()
    assert (made["EDITOR"], made["MULTI"]) == ("vi", "a\nb")
    assert (made["PATH"], made["HOME"], made["USER_PATH"]) == (environ.DEFAULT_PATH, "/home/me", "/host/bin")
    for name in ("LD_LIBRARY_PATH", "APPTAINER_BIND", "SINGULARITYENV_A", "SIFKIT_SHELL", "BASH_FUNC_f%%"):
        assert name not in made


def test_a_clean_environment_keeps_the_terminal_and_the_proxies() -> None:
    made = build(clean=True)
    assert (made["TERM"], made["HTTP_PROXY"], made["no_proxy"], made["LANG"]) == ("xterm", "p", "q", "C")
    assert "EDITOR" not in made
    assert "USER_PATH" not in made


def test_what_the_runtime_sets() -> None:
    made = build(verb="shell")
    for prefix in ("SIFKIT", "APPTAINER", "SINGULARITY"):
        assert (made[f"{prefix}_CONTAINER"], made[f"{prefix}_NAME"]) == ("/images/base.dir", "base.dir")
        assert made[f"{prefix}_COMMAND"] == "shell"
    assert made["PS1"] == "sifkit> "
    assert "PS1" not in build()


def test_extra_wins() -> None:
    assert build(extra=(("PATH", "/mine"), ("EDITOR", "ed"), ("EDITOR", "")))["EDITOR"] == ""


@pytest.mark.parametrize("value", ["", "plain", "it's", "$HOME `x` \"q\" \\n", "line\nline", "''", "ü"])
def test_quoting_is_exact(value: str) -> None:
    script = f"printf %s {environ.quoted(value)}"
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == value


@pytest.mark.parametrize("text", ["A", "=x", "1A=x", "A-B=x", ""])
def test_what_is_no_assignment(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=VALUE"):
        environ.parse_assignment(text)


def test_an_assignment_may_hold_anything() -> None:
    assert environ.parse_assignment("A=b=c\n") == ("A", "b=c\n")
