"""How a finished attempt is judged: is the run done, failed for good, or tried again? Pure, apart from reading the termination message."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.backend_base import Phase
from launcher.backends.local.job import LocalJob
from launcher.backends.local.line_log import LineReader
from launcher.exit_codes import log_tells, meaning, next_step

_MESSAGE = 4096  # bytes of a termination message, and
_TAIL = 80  # lines of the log in its place, as Kubernetes has them
_TAIL_BYTES = 2048


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How one attempt ended."""

    container: str = ""  # the one that ended it; "" when none was started
    code: int = 0
    stop: str = ""  # why it was stopped: "cancel", "deadline", "shutdown"; "" = by itself
    termination: Mapping[str, Any] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        return self.code == 0 and self.container == "trainer"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What follows from it. `phase` is RETRYING when there is another attempt."""

    phase: Phase
    failures: int
    cause: str = ""
    fix: str = ""
    termination: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False  # of an index: the whole job fails with it

    @property
    def again(self) -> bool:
        return self.phase is Phase.RETRYING


def judge(job: LocalJob, ending: Ending, failures: int) -> Outcome:
    """The Job controller's decision, `failures` being the attempts that counted before this one."""
    if ending.succeeded:
        return Outcome(phase=Phase.SUCCEEDED, failures=failures, termination=ending.termination)
    if ending.stop:
        return _stopped(job, ending, failures)
    action = job.failure_action(ending.container, ending.code)
    counted = failures if action == "Ignore" else failures + 1
    cause = _cause(ending)
    if not action.startswith("Fail") and counted <= job.retries:
        return Outcome(
            phase=Phase.RETRYING,
            failures=counted,
            cause=f"{cause}; retry {counted} of {job.retries}",
            termination=ending.termination,
        )
    if not action.startswith("Fail") and job.retries:
        cause = f"{cause}; all {job.retries} retries are used"
    fix = next_step(ending.code if ending.container == "trainer" else 1, job.run)
    return Outcome(
        phase=Phase.FAILED,
        failures=counted,
        cause=cause,
        fix=fix,
        termination=ending.termination,
        whole=action == "FailJob",
    )


def _stopped(job: LocalJob, ending: Ending, failures: int) -> Outcome:
    resume = f"`vidjobs resume {job.run}` goes on from its last checkpoint"
    causes = {
        "cancel": (Phase.CANCELLED, "cancelled", resume),
        "shutdown": (
            Phase.FAILED,
            "its supervisor was asked to end (SIGTERM), perhaps by a shutdown of this machine",
            resume,
        ),
        "deadline": (
            Phase.FAILED,
            f"it ran longer than its deadline of {job.deadline_s or 0:g} s",
            f"{resume}; `job.deadline` sets it",
        ),
    }
    phase, cause, fix = causes[ending.stop]
    if ending.code == 137:
        cause = f"{cause}; it did not end within its grace of {job.grace_s:g} s and was killed"
    return Outcome(
        phase=phase, failures=failures, cause=cause, fix=fix, termination=ending.termination
    )


def _cause(ending: Ending) -> str:
    """One line: what the code means, and what the trainer itself said."""
    what = (
        meaning(ending.code)
        if ending.container == "trainer"
        else f"container {ending.container}: exit code {ending.code}"
    )
    last_words = "cause" in ending.termination or log_tells(ending.code)
    said = str(ending.termination.get("message", "")).strip() if last_words else ""
    first = next((line.strip() for line in said.splitlines() if line.strip()), "")
    # a message must not steer the terminal
    shown = "".join(letter if letter.isprintable() else " " for letter in first)
    return what + (f": {shown}" if shown else "")


def read_termination(path: Path, log: Path) -> dict[str, Any]:
    """The trainer's JSON; text that is not JSON, or else the log's last line, as its `message`."""
    text = (
        path.read_bytes()[:_MESSAGE].decode("utf-8", errors="replace").strip()
        if path.exists()
        else ""
    )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # any program may have written it
        return {"message": text or _last_line(log)} if text or log.exists() else {}
    return value if isinstance(value, dict) else {"message": text}


def _last_line(log: Path) -> str:
    """The last line with something on it; a traceback ends with the error itself."""
    tail = deque(LineReader(log, "").lines(ended=True), maxlen=_TAIL)
    return next(
        (line.text.strip()[:_TAIL_BYTES] for line in reversed(tail) if line.text.strip()), ""
    )
