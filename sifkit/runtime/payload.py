"""The last process: makes its own mount namespace, applies the steps, enters the root, becomes the payload.

After `pivot_root` nothing may be imported: the interpreter's files are no longer there.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, NoReturn

from overlay import linux as mounts
from overlay.failure import Failure, defect, from_oserror
from sifkit.runtime import environ, linux
from sifkit.runtime.assemble import Assembled
from sifkit.runtime.plan import Plan
from sifkit.runtime.steps import Root, apply_all

if TYPE_CHECKING:
    from sifkit.runtime.notify import Notify

NOT_FOUND, NOT_EXECUTABLE = 127, 126


def become(plan: Plan, assembled: Assembled, notify: Notify) -> NoReturn:
    """Enter the root and execute the payload; never returns. Our own failure ends with its exit code."""
    try:
        _prepare(plan, assembled, notify)
        _enter(assembled.root)
        _change_directory(plan)
        _drop(plan)
        _execute(plan, notify)
    except Failure as failure:
        notify.failure(failure)
        os._exit(failure.exit_code)
    except OSError as error:
        notify.failure(from_oserror("cannot start the container", error))
        os._exit(255)
    except Exception as error:
        notify.failure(defect(error))
        os._exit(255)


def _prepare(plan: Plan, assembled: Assembled, notify: Notify) -> None:
    linux.unshare(linux.CLONE_NEWNS)
    top = os.open(assembled.root, os.O_PATH | os.O_CLOEXEC)
    # A root that is bound has the image's device, which may be that of host directories, too.
    own = set() if assembled.decision.driver == "bind" else {os.fstat(top).st_dev}
    root = Root(assembled.root, top, assembled.files, own, [])
    apply_all(plan.steps, root, lambda step: notify.debug(f"step: {step.describe()}"))
    for note in root.skipped:
        notify.info(note)
    os.close(root.fd)


def _enter(root: str) -> None:
    os.chdir(root)
    linux.pivot_root(".", ".")
    # The old root now lies over the new one at the same place; take it off.
    mounts.umount(".", mounts.MNT_DETACH)
    os.chdir("/")


def _change_directory(plan: Plan) -> None:
    for path in plan.cwds:
        try:
            os.chdir(path)
        except OSError as error:
            if plan.cwd_required:
                raise from_oserror(f"--cwd {path}: cannot be entered in the container", error) from None
            continue
        return


def _drop(plan: Plan) -> None:
    os.umask(plan.umask)
    if not plan.privileged:
        linux.no_new_privs()
        linux.drop_capabilities()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.closerange(3, 1 << 20)  # also what our caller left open


def _execute(plan: Plan, notify: Notify) -> NoReturn:
    variables, wins = plan.environment
    path = variables.get("PATH", environ.DEFAULT_PATH)
    if plan.app:
        _check_app(plan.app, plan.image)
    command = _choose(plan.commands, path)
    if not command:
        notify.info("the image has no test: nothing to run")
        os._exit(0)
    shell = _find("sh", "/bin:/usr/bin")
    if shell and os.path.isdir(environ.SCRIPTS):
        os.execve(shell, ["sh", "-c", environ.script(wins), "sh", *command], variables)
    program = _find(command[0], path)
    if program is None:
        raise _not_found(command[0], path)
    variables["PWD"] = os.getcwd()
    try:
        os.execve(program, command, variables)
    except OSError as error:
        raise _not_executable(program, error) from None


def _choose(commands: tuple[tuple[str, ...], ...], path: str) -> tuple[str, ...]:
    if len(commands) == 1:
        return commands[0]
    for command in commands:
        if not command or _find(command[0], path):
            return command
    raise Failure(
        "the container has no shell",
        f"none of {', '.join(dict.fromkeys(command[0] for command in commands))} is there",
        "use sifkit exec IMAGE PROGRAM",
        NOT_FOUND,
    )


def _check_app(app: str, image: str) -> None:
    if not os.path.isdir(f"/scif/apps/{app}"):
        hint = f"sifkit inspect --list-apps {image} lists them"
        raise Failure(f"no app {app} in the image", f"there is no /scif/apps/{app}", hint, exit_code=1)


def _find(name: str, path: str) -> str | None:
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


def _not_found(name: str, path: str) -> Failure:
    if "/" in name:
        return Failure(f"{name}: not found in the container", "there is no such file", "", NOT_FOUND)
    return Failure(f"{name}: command not found in the container", f"it is nowhere along PATH={path}", "", NOT_FOUND)


def _not_executable(program: str, error: OSError) -> Failure:
    if error.errno == errno.ENOENT:  # the file is there: its interpreter is not
        cause, hint = "the interpreter or loader that it names is missing in the container", ""
    elif error.errno == errno.ENOEXEC:
        cause = "it is neither a program for this machine nor a script with a #! line"
        hint = "name its interpreter first"
    elif error.errno == errno.E2BIG:
        cause, hint = "arguments and environment are too long", "pass fewer, or --cleanenv"
    else:
        cause, hint = os.strerror(error.errno or 0), "check its execute permission"
    return Failure(f"{program}: cannot be executed in the container", cause, hint, NOT_EXECUTABLE)
