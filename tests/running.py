"""Programs of the tests in the background: started, waited for by what they say and do, looked for afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MARK = "TEST_RUN_MARK"  # in the environment of all that belongs to one `Running`: sessions and parents can be left
PATIENCE = 30.0  # seconds; only ever used up by a failing test


def wait_for(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first true answer of ``condition``; AssertionError when it takes longer than ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.005)


class Running:
    """``argv`` in a session of its own, its output collected; ``options`` as of subprocess.Popen."""

    def __init__(self, *argv: str, env: dict[str, str] | None = None, **options: object) -> None:
        self.mark = uuid.uuid4().hex
        environment = {**(os.environ if env is None else env), MARK: self.mark}
        settings: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "start_new_session": True,
            **options,
        }
        self.process = subprocess.Popen(argv, env=environment, **settings)  # type: ignore[call-overload]
        self.said = {"stdout": "", "stderr": ""}

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def expect(self, text: str, stream: str = "stdout") -> str:
        """Read ``stream`` until it has said ``text``; all that it said so far."""
        pipe = getattr(self.process, stream)
        deadline = time.monotonic() + PATIENCE
        while text not in self.said[stream]:
            left = deadline - time.monotonic()
            ready = select.select([pipe], [], [], max(left, 0))[0]
            assert ready, f"never said {text!r}, but {self.said}"
            data = os.read(pipe.fileno(), 65536)
            assert data, f"ended without saying {text!r}, but {self.said[stream]!r}; {self._rest()}"
            self.said[stream] += data.decode(errors="surrogateescape")
        return self.said[stream]

    def _rest(self) -> str:
        return f"status {self.process.wait(PATIENCE)}, standard error {self.said['stderr']}{self._drain('stderr')!r}"

    def _drain(self, stream: str) -> str:
        pipe = getattr(self.process, stream)
        return pipe.read().decode(errors="surrogateescape") if pipe else ""

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for its end and that of its output; the status as a shell tells it. `said` is then complete."""
        deadline = time.monotonic() + seconds
        pipes = {getattr(self.process, name): name for name in self.said if getattr(self.process, name)}
        while pipes:
            ready = select.select(list(pipes), [], [], max(deadline - time.monotonic(), 0))[0]
            assert ready, f"did not end: {self.said}, {self.processes()}"
            for pipe in ready:
                data = os.read(pipe.fileno(), 65536)
                if data:
                    self.said[pipes[pipe]] += data.decode(errors="surrogateescape")
                else:
                    pipes.pop(pipe)
        status = self.process.wait(max(deadline - time.monotonic(), 0.1))
        return int(128 - status if status < 0 else status)

    def signal(self, number: int) -> None:
        """Send signal ``number`` to the program itself."""
        os.kill(self.pid, number)

    def processes(self) -> dict[int, str]:
        """The living processes that belong to it, itself too: pid and command line."""
        return marked(self.mark)

    def named(self, name: str) -> int:
        """The pid of its process whose command line begins with a program called ``name``."""

        def search() -> int:
            found = (pid for pid, line in self.processes().items() if os.path.basename(line.split(" ")[0]) == name)
            return next(found, 0)

        return wait_for(search, f"a process {name}")

    def server(self) -> int:
        """The pid of the FUSE server that its image or overlay has."""
        names = ("squashfuse", "squashfuse_ll", "fuse-overlayfs")

        def search() -> int:
            lines = self.processes().items()
            return next((pid for pid, line in lines if os.path.basename(line.split(" ")[0]) in names), 0)

        return wait_for(search, "a FUSE server")

    def init(self) -> int:
        """The pid of the process between monitor and payload: the monitor's only child."""
        return wait_for(lambda: next(iter(children(self.pid)), 0), "init")

    def gone(self, seconds: float = PATIENCE) -> None:
        """Wait until nothing of it is left."""
        wait_for(lambda: not self.processes(), f"the end of {self.processes()}", seconds)

    def close(self) -> None:
        """Kill what is left and collect it."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()


Start = Callable[..., Running]  # the fixture `start`


def marked(mark: str) -> dict[int, str]:
    """The living processes with ``mark`` in their environment. A zombie has none."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(process.name)] = line.strip()
    return found


def children(pid: int) -> list[int]:
    """The living children of process ``pid``, the oldest first."""
    found = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):
            fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] not in "ZX":
                found.append(int(process.name))
    return found


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


def options_of(mountinfo: str, fstypes: Iterable[str]) -> list[tuple[str, set[str]]]:
    """Mount point and options of each mount of one of ``fstypes`` in the text of a mountinfo file."""
    found = []
    for line in mountinfo.splitlines():
        left, right = line.split(" - ", 1)
        if right.split(" ")[0] in fstypes:
            found.append((left.split(" ")[4], set(left.split(" ")[5].split(","))))
    return found


class Terminal:
    """``argv`` as the leader of a session with a terminal of its own: `type` on it, `expect` what it shows."""

    def __init__(self, *argv: str, env: dict[str, str], rows: int = 24, columns: int = 80) -> None:
        self._master, slave = os.openpty()
        self.resize(rows, columns)
        settings = {"stdin": slave, "stdout": slave, "stderr": slave}
        control = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # noqa: E731
        self.running = Running(*argv, env=env, preexec_fn=control, **settings)
        os.close(slave)
        self.shown = ""

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the window, which its foreground processes are told of."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """What a person would type; ``\\x03`` is Ctrl-C, ``\\x1a`` Ctrl-Z."""
        os.write(self._master, text.encode())

    def expect(self, text: str, seconds: float = PATIENCE) -> str:
        """Wait until ``text`` is shown; all that was shown until then, and is now forgotten."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            ready = select.select([self._master], [], [], max(deadline - time.monotonic(), 0))[0]
            assert ready, f"never showed {text!r}, but {self.shown!r}; {self.running.processes()}"
            try:
                data = os.read(self._master, 65536)
            except OSError:  # EIO: nobody has the other end open any more
                data = b""
            assert data, f"ended without showing {text!r}, but {self.shown!r}"
            self.shown += data.decode(errors="replace")
        before, _, self.shown = self.shown.partition(text)
        return before

    def end(self) -> int:
        """Wait for the end of the session's leader; its status as a shell tells it."""
        deadline = time.monotonic() + PATIENCE
        while self.running.process.poll() is None:  # a full terminal would keep it from ending
            assert time.monotonic() < deadline, f"did not end: {self.shown!r}; {self.running.processes()}"
            if select.select([self._master], [], [], 0.01)[0]:
                with contextlib.suppress(OSError):
                    self.shown += os.read(self._master, 65536).decode(errors="replace")
        status = self.running.process.wait()
        return int(128 - status if status < 0 else status)

    def hang_up(self) -> None:
        """Close the terminal, as when its window or connection goes away."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def close(self) -> None:
        """End everything on it."""
        self.hang_up()
        self.running.close()
