"""Attempt after attempt of one pod, by the Job's own rules: started, watched, stopped, judged, and tried again."""

from __future__ import annotations

import fcntl
import os
import platform
import secrets
import shutil
import signal
import string
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.backend_base import Phase, PodStatus
from launcher.backends.local import groups
from launcher.backends.local.job import LocalJob, PodIdentity
from launcher.backends.local.outcome import Ending, Outcome, judge, read_termination
from launcher.backends.local.pod import Process, Stop, Wakeup
from launcher.backends.local.settings import Order
from launcher.backends.local.state import NOBODY, RunDir, State, now, write_whole
from launcher.errors import ClusterError

_STOPPING = {
    "cancel": "stopping, waiting for its checkpoint",
    "shutdown": "stopping, since its supervisor was asked to end",
    "deadline": "stopping, since its deadline has passed",
}
_LETTERS = string.ascii_lowercase + string.digits


class Attempts(ABC):
    """The pods of a run, or of one of its indexes. `save` says where its state goes."""

    def __init__(
        self,
        files: RunDir,
        order: Order,
        job: LocalJob,
        *,
        state: State,
        started: float,
        index: int | None = None,
    ) -> None:
        self.files = files
        self.order = order
        self.job = job
        self.state = state
        self.started = started  # of the whole job, by the monotonic clock
        self.index = index
        self.wakeup = Wakeup(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        self.stop: Stop | None = None
        self.meeting = ""  # HOST:PORT where the nodes of a group meet on this machine

    @abstractmethod
    def save(self) -> None:
        """Keep `self.state` where others look for it."""

    def attempts(self) -> Outcome:
        """Until one has succeeded, no more are allowed, or the run is stopped."""
        while True:
            if self.check(self.wakeup.taken()):
                return judge(self.job, Ending(stop=self.reason), self.state.failures)
            self.update(phase=Phase.STARTING, cause="", fix="", termination={})
            ending = self._attempt()
            outcome = judge(self.job, ending, self.state.failures)
            if not outcome.again:
                return outcome
            self.update(
                phase=outcome.phase,
                cause=outcome.cause,
                fix=outcome.fix,
                termination=outcome.termination,
                failures=outcome.failures,
            )
            if self._stopped_within(self.order.delay(outcome.failures)):
                return judge(self.job, replace(ending, stop=self.reason), self.state.failures)

    @property
    def reason(self) -> str:
        return self.stop.reason if self.stop else ""

    def _attempt(self) -> Ending:
        """One pod, from its start to its end."""
        # pods of an Indexed Job are named so
        index = "" if self.index is None else f"{self.index}-"
        name = f"{self.job.run}-{index}{''.join(secrets.choice(_LETTERS) for _ in range(5))}"
        pod = PodIdentity(name=name, uid=str(uuid.uuid4()))
        status = PodStatus(name=pod.name, phase=Phase.STARTING, node=platform.node(), started=now())
        self.update(pod=status)
        for path, text in self.job.files(pod).items():
            write_whole(self._inside(path), text)
        self.files.termination(pod.name).parent.mkdir(exist_ok=True)
        with self._workplace() as made:
            *before, trainer = self.job.containers(self.files.root)
            code, name = self._containers([] if made else before, pod, status)
        if not (code or self.stop):
            code, name = self._containers([trainer], pod, status)
        termination = (
            read_termination(self.files.termination(pod.name), self.files.log(pod.name, name))
            if code
            else {}
        )
        ending = Ending(container=name, code=code, stop=self.reason, termination=termination)
        phase = Phase.SUCCEEDED if ending.succeeded else Phase.FAILED
        reason = (
            "Completed" if ending.succeeded else "Error" if name == "trainer" else f"Init:{name}"
        )
        self.update(
            pod=replace(status, phase=phase, exit_code=code, reason=reason, finished=now()),
            leader=NOBODY,
        )
        return ending

    def _containers(
        self, containers: list[Mapping[str, Any]], pod: PodIdentity, status: PodStatus
    ) -> tuple[int, str]:
        """One after the other until one fails: the last one's exit code and name."""
        code, name = 0, ""
        for container in containers:
            name = str(container["name"])
            code = self._container(container, pod, status)
            if code or self.stop:
                break
        return code, name

    @contextmanager
    def _workplace(self) -> Iterator[bool]:
        """A pod starts with an empty workspace; those of one sweep share one, whose code the first brings. Yields whether it is there."""
        workspace = self.files.workspace
        if self.index is None:
            shutil.rmtree(workspace, ignore_errors=True)
            yield False
            return
        ready = workspace / ".ready"
        with (self.files.root / "workspace.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = ready.exists()
            if not made:
                shutil.rmtree(workspace, ignore_errors=True)
            yield made
            if not made and (workspace / "code").exists():
                ready.touch()

    def _container(self, container: Mapping[str, Any], pod: PodIdentity, status: PodStatus) -> int:
        """Run one container of the pod; its exit code."""
        name = str(container["name"])
        command = self.job.command(container, pod, os.environ, self.files.root)
        extra = {"VIDJOBS_TERMINATION_LOG": str(self.files.termination(pod.name))}
        extra |= {} if self.index is None else {"JOB_COMPLETION_INDEX": str(self.index)}
        extra |= (
            groups.environment(self.index or 0, self.job.nodes, self.meeting)
            if self.meeting
            else {}
        )
        if name == "code":
            self.files.workspace.mkdir(exist_ok=True)
            # its HOME is the workspace
            extra["GIT_CONFIG_GLOBAL"] = os.environ.get("GIT_CONFIG_GLOBAL") or str(
                Path.home() / ".gitconfig"
            )
        process = Process(
            command, log=self.files.log(pod.name, name), extra_env=extra, folder=self.files.root
        )
        phase = Phase.RUNNING if name == "trainer" else Phase.STARTING
        self.update(
            phase=phase, pod=replace(status, phase=phase), leader=process.identity or NOBODY
        )
        return process.run(self.wakeup, self.check)

    def check(self, signals: set[int]) -> Stop | None:
        """Whether to stop now, and why; leaves a sign of life."""
        with suppress(OSError):
            self.files.heartbeat.touch()
        reason = ""
        if self.files.suspended.exists():
            reason = "cancel"
        elif signals & {signal.SIGTERM, signal.SIGINT}:
            reason = "shutdown"
        elif (
            self.job.deadline_s is not None
            and time.monotonic() - self.started >= self.job.deadline_s
        ):
            reason = "deadline"
        if reason and not self.stop:
            self.stop = Stop(reason=reason, grace_s=self.job.grace_s)
            self.update(cause=f"{_STOPPING[reason]} (at most {self.job.grace_s:g} s)")
        return self.stop

    def _stopped_within(self, seconds: float) -> bool:
        """Wait before the next attempt; True when the run is to stop instead."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.check(self.wakeup.taken()):
                return True
            self.wakeup.wait(min(1.0, left))
        return self.check(self.wakeup.taken()) is not None

    def _inside(self, path: Path) -> Path:
        """A pod's files are written below the run's own folder only."""
        if not path.resolve().is_relative_to(self.files.root.resolve()):
            raise ClusterError(
                f"the manifest wants {path} to be written, which is outside of {self.files.root}"
            )
        return path

    def update(self, *, pod: PodStatus | None = None, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        if pod:
            self.state = self.state.with_pod(pod)
        self.save()
