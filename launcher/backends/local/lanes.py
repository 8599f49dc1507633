"""Pods with an index of their own, some beside each other: each in a lane, a process that this one forked and that runs its attempts.

A lane tells its state down a pipe, a line of JSON for each change; the supervisor makes one state of them all. A lane that loses its
supervisor is told by the kernel, and stops its pod as a cancel would.
"""

from __future__ import annotations

import os
import selectors
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NoReturn

from launcher import indexes
from launcher.backend_base import IndexStatus, Phase
from launcher.backends.local import groups
from launcher.backends.local.attempts import Attempts
from launcher.backends.local.outcome import Ending, Outcome, judge
from launcher.backends.local.process import Identity, adopt_orphans, die_with_parent, identify
from launcher.backends.local.state import NOBODY, State, from_json, to_json

_TICK_S = 1.0
_MOST_FILES = 4096  # that the supervisor could have open
_ENDED = Phase.SUCCEEDED, Phase.FAILED
_FAILS_ALL = 3  # exit code of a lane whose failure is the whole job's


class _Lane(Attempts):
    """One index, in a process of its own."""

    pipe = -1

    def save(self) -> None:
        """To the supervisor, while there is one."""
        with suppress(OSError):
            os.write(self.pipe, to_json(self.state).encode() + b"\n")


@dataclass
class _Running:
    """A lane as the supervisor sees it."""

    index: int
    process: Identity
    heard: bytes = b""
    state: State | None = None


@dataclass
class Lanes:
    """All indexes of a job, `at_once` beside each other, each tried again by itself."""

    owner: Attempts
    _running: dict[int, _Running] = field(default_factory=dict)  # by the pipe that is read
    _stopped: bool = False  # the lanes were told to stop
    _whole: str = ""  # why the whole job fails before its end
    _note: str = ""  # that it is being stopped, and why

    def run(self) -> Outcome:
        """Until every index has succeeded or failed for good, or the run is stopped."""
        owner, job = self.owner, self.owner.job
        todo = [
            index
            for index in range(job.completions)
            if index not in owner.state.indexes or job.nodes > 1
        ]
        owner.meeting = groups.meeting() if job.nodes > 1 else ""
        while True:
            owner.check(owner.wakeup.taken())
            self._stop_if_asked()
            while todo and len(self._running) < job.at_once and not self._stopped:
                self._start(todo.pop(0))
            if not self._running:
                return self._outcome()
            self._listen()

    def _stop_if_asked(self) -> None:
        if (self.owner.stop or self._whole) and not self._stopped:
            self._stopped = True
            self._note = f"; {self.owner.state.cause}" if self.owner.stop else ""
            for lane in self._running.values():
                lane.process.send(signal.SIGTERM)

    def _start(self, index: int) -> None:
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            _be_lane(self.owner, index, theirs)
        os.close(theirs)
        self._running[ours] = _Running(index, identify(pid))
        self._tell()

    def _listen(self) -> None:
        """What the lanes say, or nothing for a while."""
        with selectors.DefaultSelector() as selector:
            for pipe in (self.owner.wakeup.fd, *self._running):
                selector.register(pipe, selectors.EVENT_READ)
            ready = [key.fd for key, _ in selector.select(_TICK_S) if key.fd in self._running]
        for pipe in ready:
            lane = self._running[pipe]
            data = os.read(pipe, 1 << 16)
            *lines, lane.heard = (lane.heard + data).split(b"\n")
            if lines:
                lane.state = from_json(lines[-1].decode())
            if not data:
                self._end(pipe, lane)
        if ready:
            self._tell()

    def _end(self, pipe: int, lane: _Running) -> None:
        os.close(pipe)
        _, status = os.waitpid(lane.process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        del self._running[pipe]
        state = lane.state
        if state is None or not state.phase.ended:
            state = State(
                run=self.owner.state.run, phase=Phase.FAILED, cause=f"its lane ended with {code}"
            )
        self._take(lane.index, state)
        failed = indexes.of_phase(self.owner.state.indexes, Phase.FAILED)
        if code == _FAILS_ALL:
            self._whole = f"{self._word[:-1]} {lane.index}: {state.cause}"
        elif self.owner.job.nodes > 1 and failed and not self._whole:
            self._whole = f"node {lane.index}: {state.cause}"
        elif len(failed) > self.owner.job.max_failed:
            self._whole = f"{len(failed)} {self._word} failed, and sweep.max_failed is {self.owner.job.max_failed}"

    def _take(self, index: int, state: State) -> None:
        """Into the one state: its pods, and what the index does."""
        mine = self.owner.state
        for pod in state.pods:
            mine = mine.with_pod(pod)
        status = IndexStatus(phase=state.phase, cause=state.cause)
        known = {**mine.indexes, index: status}
        if state.phase is Phase.CANCELLED:
            del known[index]  # stopped, neither done nor failed
        self.owner.state = replace(
            mine, indexes=known, termination=state.termination or mine.termination
        )

    def _tell(self) -> None:
        """One state of all lanes."""
        for lane in self._running.values():
            if lane.state is not None:
                self._take(lane.index, lane.state)
        states = [lane.state.phase for lane in self._running.values() if lane.state is not None]
        phases = [
            phase for phase in (Phase.RUNNING, Phase.STARTING, Phase.RETRYING) if phase in states
        ]
        text = indexes.summary(self._word, self.owner.job.completions, self.owner.state.indexes)
        processes = tuple(lane.process for lane in self._running.values())
        self.owner.update(
            phase=phases[0] if phases else Phase.STARTING, cause=text + self._note, lanes=processes
        )

    @property
    def _word(self) -> str:
        return (
            "trials" if self.owner.job.trials else "nodes" if self.owner.job.nodes > 1 else "shards"
        )

    def _outcome(self) -> Outcome:
        owner, job = self.owner, self.owner.job
        state = owner.state
        done, failed = (indexes.of_phase(state.indexes, phase) for phase in _ENDED)
        if owner.stop and len(done) < job.completions:
            return judge(job, Ending(stop=owner.reason), 0)
        if not failed and not self._whole:
            return Outcome(phase=Phase.SUCCEEDED, failures=0, termination=state.termination)
        cause = self._whole or indexes.failure(self._word, job.completions, state.indexes)
        why = (
            f"`vidjobs sweep status {job.run}` says why each"
            if job.trials
            else f"`vidjobs logs {job.run} --all-pods` shows them"
        )
        fix = f"{why}; `vidjobs resume {job.run}` tries those again that are not done"
        return Outcome(
            phase=Phase.FAILED,
            failures=len(failed),
            cause=cause,
            fix=fix,
            termination=state.termination,
        )


def _be_lane(owner: Attempts, index: int, pipe: int) -> NoReturn:
    """In the forked process: run the index, and end with it. What the supervisor has open (its lock!) is closed here."""
    code = 1
    try:
        ask: Callable[[], None] | None = die_with_parent()
        if ask:
            ask()
        os.setpgid(0, 0)
        adopt_orphans()
        signal.set_wakeup_fd(-1)
        os.closerange(3, pipe)
        os.closerange(pipe + 1, _MOST_FILES)
        state = State(run=owner.state.run, supervisor=owner.state.supervisor, leader=NOBODY)
        lane = _Lane(
            owner.files, owner.order, owner.job, state=state, started=owner.started, index=index
        )
        lane.pipe, lane.meeting = pipe, owner.meeting
        outcome = lane.attempts()
        phase = Phase.CANCELLED if lane.stop and outcome.phase is Phase.FAILED else outcome.phase
        lane.update(
            phase=phase, cause=outcome.cause, fix=outcome.fix, termination=outcome.termination
        )
        code = _FAILS_ALL if outcome.whole else 0
    except Exception:  # noqa: BLE001  the top of a process: the log says it, and the supervisor sees that it ended
        traceback.print_exc()
    finally:
        os._exit(code)
