"""The entry point ``sifkit``. Usual lines are taken without click (`sifkit.cli.start`), everything else by it."""

from __future__ import annotations

import gc
import os
import sys

# A start frees nothing worth collecting; commands that run long turn it on again (`Commands.get_command`).
gc.disable()

from overlay.failure import OURS, Failure, defect, from_oserror  # noqa: E402
from sifkit.cli import start  # noqa: E402
from sifkit.cli.console import CONSOLE, DEBUG, Ended, end  # noqa: E402
from sifkit.cli.usage import UsageError  # noqa: E402


def main() -> None:
    """Entry point of the console script. Exit status: see docs/exit-codes.md."""
    try:
        _open_standard_streams()
        code = _run()
    except UsageError as error:
        CONSOLE.mistake(str(error))
        code = 2
    except Failure as failure:
        CONSOLE.failure(failure)
        code = failure.exit_code
    except KeyboardInterrupt:
        code = 130
    except Ended as ended:
        code = ended.status
    except BrokenPipeError:
        code = 141
    except Exception as error:
        code = _unexpected(error)
    end(code)


def _open_standard_streams() -> None:
    """Who calls us with 0, 1 or 2 closed would have our own files there, and what is printed in them."""
    while (descriptor := os.open("/dev/null", os.O_RDWR)) <= 2:  # the lowest free one
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0)  # Python has None for what was closed
    sys.stdout = sys.stdout or open(1, "w")
    sys.stderr = sys.stderr or open(2, "w")


def _run() -> int:
    completing = "_SIFKIT_COMPLETE" in os.environ
    asked = None if completing else start.parse(sys.argv[1:])
    if asked is not None:
        return start.carry_out(asked)
    if completing:
        from sifkit.cli import completion

        completion.register()
    from sifkit.cli import commands

    return commands.run()


def _unexpected(error: Exception) -> int:
    """A defect of ours, or an OSError nobody gave words to: one sentence; the traceback only with --debug."""
    if CONSOLE.level >= DEBUG:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, OSError):
        CONSOLE.failure(from_oserror("the operating system refused", error))
    else:
        CONSOLE.failure(defect(error))
    return OURS
