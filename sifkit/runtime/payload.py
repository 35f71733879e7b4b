"""The last process: makes its own mount namespace, applies the steps, enters the root, becomes the payload.

After `pivot_root` nothing may be imported: the interpreter's files are no longer there.
"""

from __future__ import annotations

import os
import signal

from overlay import linux as mounts
from overlay.failure import Failure, defect, from_oserror
from overlay.records import TYPE_CHECKING
from sifkit.runtime import linux, program, sourcing
from sifkit.runtime.assembled import Assembled
from sifkit.runtime.inroot import Root
from sifkit.runtime.plan import Plan
from sifkit.runtime.steps import apply_all

if TYPE_CHECKING:
    from typing import NoReturn

    from sifkit.runtime.notify import Notify


def become(plan: Plan, assembled: Assembled, notify: Notify) -> NoReturn:
    """Enter the root and execute the payload; never returns. Our own failure ends with its exit code."""
    try:
        sourcing.prepare(plan.environment)
        _prepare(plan, assembled, notify)
        # The host's, for a container without one; and it shows who we are whatever lies at /proc there.
        processes = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _enter(assembled.root)
        _change_directory(plan)
        _drop(plan, processes)
        _execute(plan, processes, notify)
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
    if plan.cgroup:
        from sifkit.runtime import cgroup

        cgroup.join(plan.cgroup)
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


def _drop(plan: Plan, kept: int) -> None:
    os.umask(plan.umask)
    # Who is not root loses them all by execve(2), if nothing is done about it.
    if plan.capabilities != linux.ALL_CAPABILITIES or os.geteuid() != 0:
        linux.no_new_privs()
        linux.keep_capabilities(plan.capabilities)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.closerange(3, kept)  # also what our caller left open
    os.closerange(kept + 1, 1 << 20)


def _execute(plan: Plan, processes: int, notify: Notify) -> NoReturn:
    if plan.app:
        program.check_app(plan.app, plan.image)
    variables = sourcing.complete(plan.environment, program.find("sh", "/bin:/usr/bin"), processes)
    os.close(processes)
    path = variables["PATH"]
    command = program.choose(plan.commands, path)
    if not command:
        notify.info("the image has no test: nothing to run")
        os._exit(0)
    file = program.find(command[0], path)
    if file is None:
        raise program.not_found(command[0], path)
    if plan.verb == "shell":
        variables["SHELL"] = file
    variables["PWD"] = os.getcwd()
    try:
        os.execve(file, command, variables)
    except OSError as error:
        raise program.not_executable(file, error) from None
