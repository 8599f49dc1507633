"""Processes of this machine: who is alive (a pid alone may be reused), who descends from whom, and how they end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One process, told apart from a later one with the same pid."""

    pid: int
    start: str  # when it started, as the kernel says
    boot: str  # which boot of the machine

    @property
    def same_boot(self) -> bool:
        """False when the machine was restarted since."""
        return self.boot == boot_id()

    @property
    def alive(self) -> bool:
        """True when exactly this process still runs (a zombie does not)."""
        return self.pid > 0 and self.same_boot and _start(self.pid) == self.start

    def send(self, number: int) -> bool:
        """Signal this process; False when it has ended."""
        if not self.alive:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


def identify(pid: int) -> Identity:
    """Who `pid` is now; an identity that is not alive when there is no such process."""
    return Identity(pid=pid, start=_start(pid), boot=boot_id())


def boot_id() -> str:
    """Changes with every boot; "" where the system does not tell."""
    path = _PROC / "sys/kernel/random/boot_id"
    return path.read_text().strip() if path.exists() else ""


def _start(pid: int) -> str:
    """When the process started; "" when it does not run."""
    if not _PROC.joinpath("self/stat").exists():
        answer = subprocess.run(
            ["ps", "-o", "state=,lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        state, _, started = answer.stdout.strip().partition(" ")
        return "" if state.startswith("Z") else started.strip()
    fields = _stat(pid)
    return "" if not fields or fields[0] in ("Z", "X") else fields[19]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (the name before it may hold anything); empty when there is no process."""
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return []


def descendants(pid: int) -> list[int]:
    """All processes below `pid` that have not ended; empty where the system has no /proc."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields and fields[0] not in ("Z", "X"):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it, so that none of a run's processes gets lost (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: int = signal.SIGTERM) -> Callable[[], None] | None:
    """A `preexec_fn` that has the kernel signal the child when its parent dies (Linux); None elsewhere."""
    if sys.platform != "linux":
        return None
    # loaded before the fork: the child must not allocate much
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)

    return ask


def kill_tree(leader: int, *, below: int) -> None:
    """SIGKILL the leader's process group and every process below `below` (processes may have made sessions of their own)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    for pid in descendants(below):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def reap() -> None:
    """Collect orphans that were adopted and have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
