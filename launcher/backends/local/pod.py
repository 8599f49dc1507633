"""One container's process: started in a session of its own, its output stamped into a log, ended as a container ends."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.backends.local.job import Command
from launcher.backends.local.line_log import LineWriter
from launcher.backends.local.process import Identity, die_with_parent, identify, kill_tree, reap

NOT_STARTED = 128  # exit code of a command that could not be started, as runtimes report it
_TICK = 1.0  # s; `check` is asked at least so often
_LEAST_TICK = 0.05  # s; a killed process may take a while to go
_DRAIN = 2.0  # s to wait for the end of the output once every process has been killed


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Ask the process to end, and kill what is left after `grace_s`."""

    reason: str
    grace_s: float


class Wakeup:
    """Signals as bytes on a pipe, so that one `select` waits for output, signals and time alike. Main thread only."""

    def __init__(self, *numbers: int) -> None:
        self.fd, self._write = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*numbers, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def taken(self) -> set[int]:
        """The signals that came since the last call."""
        try:
            return set(os.read(self.fd, 4096))
        except BlockingIOError:
            return set()

    def wait(self, seconds: float) -> None:
        """Sleep, or less when a signal comes."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.fd, selectors.EVENT_READ)
            selector.select(max(0.0, seconds))


class Process:
    """A running container. `run` returns its exit code, 128 + n when a signal n ended it."""

    def __init__(
        self, command: Command, *, log: Path, extra_env: Mapping[str, str], folder: Path
    ) -> None:
        self._log = LineWriter(log)
        self._stop_at = float("inf")
        self._popen: subprocess.Popen[bytes] | None = None
        self.identity: Identity | None = None
        self._output, write_end = os.pipe()
        os.set_blocking(self._output, False)
        try:
            self._popen = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                # so that, if we are killed, it can still print while it writes its checkpoint
                pass_fds=[self._output],
                env={"PYTHONUNBUFFERED": "1", **os.environ, **command.env, **extra_env},
                cwd=command.folder or folder,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
            self.identity = identify(self._popen.pid)
        except OSError as error:
            self._log.feed(
                f"cannot start {command.argv[0]}: {error.strerror}: {error.filename}\n".encode()
            )
        finally:
            os.close(write_end)

    def run(self, wakeup: Wakeup, check: Callable[[set[int]], Stop | None]) -> int:
        """Pump the output until the process has ended. `check` sees every signal and is asked at least once a second whether to stop."""
        code = self._pump_until_ended(self._popen, wakeup, check) if self._popen else NOT_STARTED
        os.close(self._output)
        self._log.close()
        return code if code >= 0 else 128 - code

    def _pump_until_ended(
        self,
        popen: subprocess.Popen[bytes],
        wakeup: Wakeup,
        check: Callable[[set[int]], Stop | None],
    ) -> int:
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            selector.register(wakeup.fd, selectors.EVENT_READ)
            while popen.poll() is None:
                selector.select(min(_TICK, max(_LEAST_TICK, self._stop_at - time.monotonic())))
                if not self._pump() and self._output in selector.get_map():
                    # closed by a process that goes on without output
                    selector.unregister(self._output)
                self._obey(popen, check(wakeup.taken()))
        kill_tree(popen.pid, below=os.getpid())
        self._drain()
        reap()
        return popen.returncode

    def _obey(self, popen: subprocess.Popen[bytes], stop: Stop | None) -> None:
        """SIGTERM to the process alone, as a kubelet does with PID 1; SIGKILL to all when the time is over."""
        if stop and self._stop_at == float("inf"):
            self._stop_at = time.monotonic() + stop.grace_s
            popen.terminate()
        elif time.monotonic() >= self._stop_at:
            kill_tree(popen.pid, below=os.getpid())

    def _pump(self) -> bool:
        """Log what is there; False at the end of the output."""
        try:
            data = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return True
        if data:
            self._log.feed(data)
        return bool(data)

    def _drain(self) -> None:
        """The rest of the output. It ends when no process holds the pipe any more; not waited for longer than needed."""
        end = time.monotonic() + _DRAIN
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while self._pump() and time.monotonic() < end:
                selector.select(0.1)
