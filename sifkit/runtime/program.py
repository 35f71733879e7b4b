"""The payload's program: found in the container, or one sentence about why it cannot be run."""

from __future__ import annotations

import errno
import os

from overlay.failure import Failure

NOT_FOUND, NOT_EXECUTABLE = 127, 126


def choose(commands: tuple[tuple[str, ...], ...], path: str) -> tuple[str, ...]:
    """The first of ``commands`` whose program is there, or that is empty; the only one without looking."""
    if len(commands) == 1:
        return commands[0]
    for command in commands:
        if not command or find(command[0], path):
            return command
    raise Failure(
        "the container has no shell",
        f"none of {', '.join(dict.fromkeys(command[0] for command in commands))} is there",
        "use sifkit exec IMAGE PROGRAM",
        NOT_FOUND,
    )


def check_app(app: str, image: str) -> None:
    """`Failure` (1, as of Apptainer) when the image has no SCIF app of that name."""
    if not os.path.isdir(f"/scif/apps/{app}"):
        hint = f"sifkit inspect --list-apps {image} lists them"
        raise Failure(f"no app {app} in the image", f"there is no /scif/apps/{app}", hint, exit_code=1)


def find(name: str, path: str) -> str | None:
    """The file that ``name`` means in the container: itself with a slash in it, else the first along ``path``."""
    if "/" in name:
        return name if os.path.exists(name) else None
    candidate = None
    for directory in path.split(":"):
        file = f"{directory or '.'}/{name}"
        if os.path.isfile(file):
            if os.access(file, os.X_OK):
                return file
            candidate = candidate or file
    return candidate


def not_found(name: str, path: str) -> Failure:
    """There is no such program."""
    if "/" in name:
        return Failure(f"{name}: not found in the container", "there is no such file", "", NOT_FOUND)
    return Failure(f"{name}: command not found in the container", f"it is nowhere along PATH={path}", "", NOT_FOUND)


def not_executable(program: str, error: OSError) -> Failure:
    """Why execve(2) refused a ``program`` that is there."""
    if error.errno == errno.ENOENT:  # the file is there: its interpreter is not
        cause, hint = "the interpreter or loader that it names is missing in the container", ""
    elif error.errno == errno.ENOEXEC:
        cause = "it is neither a program for this machine nor a script with a #! line"
        hint = "name its interpreter first"
    elif error.errno == errno.E2BIG:
        cause, hint = "arguments and environment are too long", "pass fewer, or --cleanenv"
    else:
        cause, hint = os.strerror(error.errno or 0), "check its execute permission"
        if os.path.isdir(program):  # execve(2) says EACCES of it
            cause, hint = os.strerror(errno.EISDIR), "name a program in it"
        elif error.errno == errno.EACCES and os.stat(program).st_mode & 0o111:  # access(2) denies, too, for a mount
            cause, hint = _forbidden(program)
    return Failure(f"{program}: cannot be executed in the container", cause, hint, NOT_EXECUTABLE)


def _forbidden(program: str) -> tuple[str, str]:
    """Why what has execute permission may not be executed, and what to do: the mount, or SELinux, says so."""
    if os.statvfs(program).f_flag & os.ST_NOEXEC:
        return "its file system is mounted noexec", "keep the image on another file system"
    try:
        with open("/sys/fs/selinux/enforce", encoding="utf-8") as file:
            enforcing = file.read().strip() == "1"
    except OSError:  # there is none, or its switch is not shown
        enforcing = False
    if enforcing:
        return "Permission denied, perhaps by SELinux", "as root of this host: ausearch -m avc -ts recent"
    return "Permission denied", "its interpreter may lack execute permission"
