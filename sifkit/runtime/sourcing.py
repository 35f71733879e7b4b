"""What the image makes of the environment: its scripts are sourced, and given values evaluated, by its own shell.

The shell is a child. At its end it becomes a shell that does nothing but stop; what was exported is read from
/proc/PID/environ, byte for byte, which no output of any shell's ``export -p`` gives; then it is killed. The payload
itself is started by us, so that values of any size and content reach it untouched, and its status is its own.

Imported before `pivot_root`; nothing may be imported while this runs.
"""

from __future__ import annotations

import errno
import os
import signal

from overlay import linux
from overlay.failure import Failure
from sifkit.runtime import environ
from sifkit.runtime.environ import Assignment, Environment

SCRIPTS = "/.singularity.d/env"
_OLD_SCRIPT = "/environment"  # of images built before Singularity 2.3
_MARK = "sifkit-environment"
_MOST = 1 << 15  # of a value that another may refer to: the whole text is one argument, of 128 KiB at the most
_OF_THE_SHELL = frozenset({"_", "SHLVL", "PWD", "OLDPWD"})
_BACKSLASH = r"\\([\\$`])|\\"
_REFERENCE = r"\\([\\$`])|\$(?:\{(\w+)\}|([A-Za-z_]\w*))"

_SOURCE = f"""\
for sifkit_script in {SCRIPTS}/*.sh; do
  if [ -f "$sifkit_script" ]; then
    . "$sifkit_script"
    case $sifkit_script in */10-docker*.sh)
      for sifkit_directory in {environ.DEFAULT_PATH.replace(":", " ")}; do
        case ":$PATH:" in *":$sifkit_directory:"*) ;; *) PATH=$PATH:$sifkit_directory ;; esac
      done ;;
    esac
  fi
done
unset sifkit_script sifkit_directory
"""


def prepare(environment: Environment) -> None:
    """Import what `complete` is going to need for ``environment``."""
    if any(entry.evaluate for entry in environment.given):
        import re  # noqa: F401


def complete(environment: Environment, shell: str | None, processes: int) -> dict[str, str]:
    """The variables the payload gets. ``shell``: the image's, if it has one. ``processes``: the host's /proc, open."""
    asked = {name: value for name, value, _ in environment.given}
    if shell is None:
        return environ.finish(environment, environment.base, _substituted(environment))
    sourced = _SOURCE if os.path.isdir(SCRIPTS) else f". {_OLD_SCRIPT}\n" if os.path.isfile(_OLD_SCRIPT) else ""
    evaluated = _evaluation(environment.given)
    if not sourced and not evaluated:
        return environ.finish(environment, environment.base, asked)
    text = f"{sourced}{evaluated}exec {environ.quoted(shell)} -c 'kill -STOP $$' {_MARK}\n"
    found = _exported(shell, text, environment.base, _own(processes))
    last = {name: evaluate for name, _, evaluate in environment.given}
    asked = {name: found.get(name, "") if last[name] else value for name, value in asked.items()}
    return environ.finish(environment, found, asked)


def _evaluation(given: tuple[Assignment, ...]) -> str:
    """Lines for the shell: up to the last value that refers to something, for it may be to an earlier one."""
    count = max((number for number, entry in enumerate(given, 1) if entry.evaluate), default=0)
    lines = [f"export {name}={_inside(value) if evaluate else environ.quoted(value)}\n"
             for name, value, evaluate in given[:count] if evaluate or len(value) < _MOST]  # fmt: skip
    # bash has these by itself, and ends when they are set; Apptainer's shell has them, too.
    known = f'[ "${{UID-}}" ] || UID={os.getuid()}\n[ "${{GID-}}" ] || GID={os.getgid()}\n' if lines else ""
    return known + "".join(lines)


def _inside(value: str) -> str:
    r"""``value`` between double quotes: ``$`` and `` ` `` work, ``\`` protects them and itself, quotes stay."""
    import re

    text = re.sub(_BACKSLASH, lambda match: match[0] if match[1] else "\\\\", value)
    return '"' + text.replace('"', '\\"') + '"'


def _substituted(environment: Environment) -> dict[str, str]:
    """The given values of an image without a shell: names are replaced, commands are not run."""
    asked: dict[str, str] = {}
    for name, value, evaluate in environment.given:
        asked[name] = _expanded(value, {**environment.base, **asked}) if evaluate else value
    return asked


def _expanded(value: str, known: dict[str, str]) -> str:
    import re

    return re.sub(_REFERENCE, lambda match: match[1] or known.get(match[2] or match[3], ""), value)


def _own(processes: int) -> int:
    """The container's /proc, open, where it knows this process by the pid it has for itself; else the host's."""
    try:
        inside = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # the container has none
        return processes
    try:
        found = os.readlink("self", dir_fd=inside) == str(os.getpid())
    except OSError:  # an empty directory
        found = False
    return inside if found else processes


def _exported(shell: str, text: str, base: dict[str, str], processes: int) -> dict[str, str]:
    me = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            linux.die_with_parent(signal.SIGKILL)  # stopped as it will be, nothing else would ever end it
            if os.getppid() != me:
                os._exit(126)
            os.execve(shell, ["sh", "-c", text], base)
        finally:
            os._exit(126)
    number = _number(processes, child)
    while True:
        status = os.waitpid(child, os.WUNTRACED)[1]
        if not os.WIFSTOPPED(status):
            raise _ended(status)
        # A stop before that is somebody's Ctrl-Z, and does not concern us. Sourcing, it has the mark within its text.
        if _read(processes, number, "cmdline").endswith(f"\0{_MARK}\0".encode()):
            break
    try:
        entries = os.fsdecode(_read(processes, number, "environ")).split("\0")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    pairs = (entry.partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs if name not in _OF_THE_SHELL}


def _number(processes: int, child: int) -> int:
    """The pid of our ``child`` in the /proc ``processes``, which may be that of an outer PID namespace."""
    if os.readlink("self", dir_fd=processes) == str(os.getpid()):
        return child
    for pid in _read(processes, "thread-self", "children").split():
        status = _read(processes, int(pid), "status").decode(errors="replace").splitlines()
        inner = next((line for line in status if line.startswith("NSpid:")), "")
        if inner.split()[-1:] == [str(child)]:
            return int(pid)
    raise ProcessLookupError(errno.ESRCH, "the container's shell is not in the host's /proc")


def _read(processes: int, pid: int | str, name: str) -> bytes:
    descriptor = os.open(f"{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=processes)
    try:
        parts = []
        while part := os.read(descriptor, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _ended(status: int) -> Failure:
    code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return Failure(
        "the container's environment could not be made",
        f"its shell ended with status {code} in the image's scripts ({SCRIPTS}) or in a value given to it",
        "--no-eval hands values over as they are",
        code or 255,
    )
