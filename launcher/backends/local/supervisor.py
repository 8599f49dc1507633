"""`python -m launcher.backends.local.supervisor DIR`: runs one job on this machine, as a cluster would, until it has ended.

It leaves the terminal (own session), so it goes on when the shell is closed. It alone writes `state.json` while it lives.
"""

from __future__ import annotations

import fcntl
import os
import platform
import secrets
import shutil
import signal
import string
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher import output
from launcher.backend_base import Phase, PodStatus
from launcher.backends.local.job import LocalJob, PodIdentity, read_job
from launcher.backends.local.outcome import Ending, Outcome, judge, read_termination
from launcher.backends.local.pod import Process, Stop, Wakeup
from launcher.backends.local.process import adopt_orphans, descendants, identify, kill_tree
from launcher.backends.local.settings import Order, load_order
from launcher.backends.local.state import NOBODY, RunDir, State, load, now, save, write_whole
from launcher.errors import ClusterError, VidjobsError

_STOPPING = {
    "cancel": "stopping, waiting for its checkpoint",
    "shutdown": "stopping, since its supervisor was asked to end",
    "deadline": "stopping, since its deadline has passed",
}
_LETTERS = string.ascii_lowercase + string.digits
_LAST_TRIES = 30  # the final state is written again every second for so long when the disk is full


class Supervisor:
    """Attempt after attempt, by the Job's own rules."""

    def __init__(self, files: RunDir) -> None:
        self.files = files
        self.order: Order = load_order(files.job)
        self.job: LocalJob = read_job(self.order.manifests)
        self.wakeup = Wakeup(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = load(files.state)
        pods = tuple(_lost(pod) for pod in before.pods)
        me = identify(os.getpid())
        self.state: State = replace(before, supervisor=me, phase=Phase.PENDING, pods=pods, failures=0, shards_done=0, cause="", fix="")
        self.started = time.monotonic()
        self.stop: Stop | None = None
        self._saved = False

    def run(self) -> None:
        """Until the job has succeeded, failed for good, or been stopped."""
        try:
            self._clear_leftovers()
            outcome = self._shards()
        except (VidjobsError, OSError) as error:
            cause, fix = f"this machine could not run it: {error}", getattr(error, "hint", "")
            outcome = Outcome(phase=Phase.FAILED, failures=self.state.failures, cause=cause, fix=fix)
        self._update(phase=outcome.phase, cause=outcome.cause, fix=outcome.fix, termination=outcome.termination, leader=NOBODY)
        for _ in range(_LAST_TRIES):
            if self._saved:
                break
            time.sleep(1)
            self.save()

    def _shards(self) -> Outcome:
        """One shard after the other (nearly all jobs have one): each uses all cores. Resumed, those that are done have little to do."""
        while True:
            outcome = self._attempts()
            if outcome.phase is not Phase.SUCCEEDED or self.state.shards_done + 1 >= self.job.shards:
                return outcome
            self._update(shards_done=self.state.shards_done + 1, failures=0)

    def _attempts(self) -> Outcome:
        while True:
            if self._check(self.wakeup.taken()):
                return judge(self.job, Ending(stop=self._reason), self.state.failures)
            self._update(phase=Phase.STARTING, cause="", fix="", termination={})
            ending = self._attempt()
            outcome = judge(self.job, ending, self.state.failures)
            if not outcome.again:
                return outcome
            self._update(
                phase=outcome.phase, cause=outcome.cause, fix=outcome.fix, termination=outcome.termination, failures=outcome.failures
            )
            if self._stopped_within(self.order.delay(outcome.failures)):
                return judge(self.job, replace(ending, stop=self._reason), self.state.failures)

    @property
    def _reason(self) -> str:
        return self.stop.reason if self.stop else ""

    def _attempt(self) -> Ending:
        """One pod, from its start to its end."""
        index = f"{self.state.shards_done}-" if self.job.shards > 1 else ""  # pods of an Indexed Job are named so
        name = f"{self.job.run}-{index}{''.join(secrets.choice(_LETTERS) for _ in range(5))}"
        pod = PodIdentity(name=name, uid=str(uuid.uuid4()))
        status = PodStatus(name=pod.name, phase=Phase.STARTING, node=platform.node(), started=now())
        self._update(pod=status)
        for path, text in self.job.files(pod).items():
            write_whole(self._inside(path), text)
        shutil.rmtree(self.files.workspace, ignore_errors=True)  # a pod starts with an empty one
        self.files.termination(pod.name).parent.mkdir(exist_ok=True)
        code, name = 0, ""
        for container in self.job.containers(self.files.root):
            name = str(container["name"])
            code = self._container(container, pod, status)
            if code or self.stop:
                break
        termination = read_termination(self.files.termination(pod.name), self.files.log(pod.name, name)) if code else {}
        ending = Ending(container=name, code=code, stop=self._reason, termination=termination)
        phase = Phase.SUCCEEDED if ending.succeeded else Phase.FAILED
        reason = "Completed" if ending.succeeded else "Error" if name == "trainer" else f"Init:{name}"
        self._update(pod=replace(status, phase=phase, exit_code=code, reason=reason, finished=now()), leader=NOBODY)
        return ending

    def _container(self, container: Mapping[str, Any], pod: PodIdentity, status: PodStatus) -> int:
        """Run one container of the pod; its exit code."""
        name = str(container["name"])
        command = self.job.command(container, pod, os.environ, self.files.root)
        extra = {"VIDJOBS_TERMINATION_LOG": str(self.files.termination(pod.name))}
        extra |= {"JOB_COMPLETION_INDEX": str(self.state.shards_done)} if self.job.shards > 1 else {}
        if name == "code":
            self.files.workspace.mkdir(exist_ok=True)
            extra["GIT_CONFIG_GLOBAL"] = os.environ.get("GIT_CONFIG_GLOBAL") or str(Path.home() / ".gitconfig")  # its HOME is the workspace
        process = Process(command, log=self.files.log(pod.name, name), extra_env=extra, folder=self.files.root)
        phase = Phase.RUNNING if name == "trainer" else Phase.STARTING
        self._update(phase=phase, pod=replace(status, phase=phase), leader=process.identity or NOBODY)
        return process.run(self.wakeup, self._check)

    def _check(self, signals: set[int]) -> Stop | None:
        """Whether to stop now, and why; leaves a sign of life."""
        with suppress(OSError):
            self.files.heartbeat.touch()
        reason = ""
        if self.files.suspended.exists():
            reason = "cancel"
        elif signals & {signal.SIGTERM, signal.SIGINT}:
            reason = "shutdown"
        elif self.job.deadline_s is not None and time.monotonic() - self.started >= self.job.deadline_s:
            reason = "deadline"
        if reason and not self.stop:
            self.stop = Stop(reason=reason, grace_s=self.job.grace_s)
            self._update(cause=f"{_STOPPING[reason]} (at most {self.job.grace_s:g} s)")
        return self.stop

    def _stopped_within(self, seconds: float) -> bool:
        """Wait before the next attempt; True when the run is to stop instead."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._check(self.wakeup.taken()):
                return True
            self.wakeup.wait(min(1.0, left))
        return self._check(self.wakeup.taken()) is not None

    def _clear_leftovers(self) -> None:
        """End the trainer of a supervisor that was killed: two writers must never share a run folder."""
        leader = self.state.leader
        if leader.alive:
            self._update(cause=f"waiting for the trainer of the lost supervisor to end (pid {leader.pid})")
        below = [identify(pid) for pid in descendants(leader.pid)] if leader.alive else []
        leader.send(signal.SIGTERM)
        end = time.monotonic() + self.job.grace_s
        while leader.alive and time.monotonic() < end:
            self.wakeup.wait(0.1)
        if leader.alive:
            kill_tree(leader.pid, below=leader.pid)
        for orphan in below:
            orphan.send(signal.SIGKILL)
        self._update(leader=NOBODY, cause="")

    def _inside(self, path: Path) -> Path:
        """A pod's files are written below the run's own folder only."""
        if not path.resolve().is_relative_to(self.files.root.resolve()):
            raise ClusterError(f"the manifest wants {path} to be written, which is outside of {self.files.root}")
        return path

    def _update(self, *, pod: PodStatus | None = None, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        if pod:
            self.state = self.state.with_pod(pod)
        self.save()

    def save(self) -> None:
        """A full disk must not end the run: the state is written again with the next change."""
        self._saved = False
        with suppress(OSError):
            save(self.state, self.files.state)
            self._saved = True


def _lost(pod: PodStatus) -> PodStatus:
    """A pod that was left unfinished by an earlier supervisor."""
    return pod if pod.finished else replace(pod, phase=Phase.FAILED, reason="its supervisor was lost", finished=now())


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
