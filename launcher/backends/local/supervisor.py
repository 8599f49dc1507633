"""`python -m launcher.backends.local.supervisor DIR`: runs one job on this machine, as a cluster would, until it has ended.

It leaves the terminal (own session), so it goes on when the shell is closed. It alone writes `state.json` while it lives.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from launcher import output
from launcher.backend_base import Phase, PodStatus
from launcher.backends.local.attempts import Attempts
from launcher.backends.local.job import read_job
from launcher.backends.local.lanes import Lanes
from launcher.backends.local.outcome import Outcome
from launcher.backends.local.process import adopt_orphans, descendants, identify, kill_tree
from launcher.backends.local.settings import load_order
from launcher.backends.local.state import NOBODY, RunDir, load, now, save
from launcher.errors import VidjobsError

_LAST_TRIES = 30  # the final state is written again every second for so long when the disk is full


class Supervisor(Attempts):
    """One run, whose state it keeps in a file; pods that have an index of their own are left to lanes."""

    def __init__(self, files: RunDir) -> None:
        order, before = load_order(files.job), load(files.state)
        done = {
            number: status
            for number, status in before.indexes.items()
            if status.phase is Phase.SUCCEEDED
        }
        state = replace(
            before,
            supervisor=identify(os.getpid()),
            phase=Phase.PENDING,
            pods=tuple(_lost(pod) for pod in before.pods),
            indexes=done,
            failures=0,
            cause="",
            fix="",
        )
        super().__init__(
            files, order, read_job(order.manifests), state=state, started=time.monotonic()
        )
        self._saved = False

    def run(self) -> None:
        """Until the job has succeeded, failed for good, or been stopped."""
        try:
            self._clear_leftovers()
            outcome = Lanes(self).run() if self.job.indexed else self.attempts()
        except (VidjobsError, OSError) as error:
            cause, fix = f"this machine could not run it: {error}", getattr(error, "hint", "")
            outcome = Outcome(
                phase=Phase.FAILED, failures=self.state.failures, cause=cause, fix=fix
            )
        self.update(
            phase=outcome.phase,
            cause=outcome.cause,
            fix=outcome.fix,
            termination=outcome.termination,
            leader=NOBODY,
            lanes=(),
        )
        for _ in range(_LAST_TRIES):
            if self._saved:
                break
            time.sleep(1)
            self.save()

    def _clear_leftovers(self) -> None:
        """End what a supervisor that was killed has left running: two writers must never share a run folder."""
        left = [process for process in (self.state.leader, *self.state.lanes) if process.alive]
        if left:
            self.update(
                cause=f"waiting for what the lost supervisor ran to end (pid {', '.join(str(process.pid) for process in left)})"
            )
        below = [identify(pid) for process in left for pid in descendants(process.pid)]
        for process in left:
            process.send(signal.SIGTERM)
        end = time.monotonic() + self.job.grace_s
        while any(process.alive for process in left) and time.monotonic() < end:
            self.wakeup.wait(0.1)
        for process in left:
            if process.alive:
                kill_tree(process.pid, below=process.pid)
                process.send(signal.SIGKILL)
        for orphan in below:
            orphan.send(signal.SIGKILL)
        self.update(leader=NOBODY, lanes=(), cause="")

    def save(self) -> None:
        """A full disk must not end the run: the state is written again with the next change."""
        self._saved = False
        with suppress(OSError):
            save(self.state, self.files.state)
            self._saved = True


def _lost(pod: PodStatus) -> PodStatus:
    """A pod that was left unfinished by an earlier supervisor."""
    return (
        pod
        if pod.finished
        else replace(pod, phase=Phase.FAILED, reason="its supervisor was lost", finished=now())
    )


def main(folder: str) -> int:
    """Become a daemon and supervise. The first process returns 0 once the daemon holds the run, else 1, with the reason on stderr."""
    files = RunDir(Path(folder))
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        return 0 if os.read(ready, 1) else 1
    os.close(ready)
    os.setsid()
    with files.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            output.error("another supervisor runs this job")
            return 1
        adopt_orphans()
        supervisor = Supervisor(files)
        supervisor.save()
        _leave_terminal(files.supervisor_log)
        os.write(tell, b"+")
        os.close(tell)
        supervisor.run()
    return 0


def _leave_terminal(log: Path) -> None:
    """Point the standard streams away from whoever started us; later tracebacks go to the log."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, number in ((nothing, 0), (target, 1), (target, 2)):
        os.dup2(source, number)
    os.close(target)
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
