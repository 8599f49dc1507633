"""Reads what a supervisor left: the status of a run, also when the supervisor is gone, and its log across attempts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from launcher.backend_base import LogLine, Phase, PodStatus, RunStatus
from launcher.backends.local.line_log import LineReader, stamp
from launcher.backends.local.state import RunDir, State, load, run_dir

_POLL_S = 0.1
_START_S = 10.0
_SILENT_S = 60.0  # without a heartbeat


def read_state(run: str) -> State | None:
    """What the supervisor wrote last; None when the run has no folder here."""
    try:
        return load(run_dir(run).state)
    except FileNotFoundError:
        return None


def read_status(run: str) -> RunStatus:
    """The run's status; tells a supervisor that was killed from one that works."""
    state = read_state(run)
    if state is None:
        fix = f"what it wrote is still in its folder: `vidjobs fetch all {run}`"
        return RunStatus(
            run=run,
            phase=Phase.GONE,
            cause="this machine keeps no trace of it any more (deleted)",
            fix=fix,
        )
    lost = not state.phase.ended and not state.supervisor.alive and not _about_to_start(state)
    if lost and (again := read_state(run)) is not None:
        state = again  # it may have ended between the two looks
        lost = not state.phase.ended
    phase, cause, fix = (
        (Phase.FAILED, *_why_lost(state)) if lost else (state.phase, state.cause, state.fix)
    )
    pods = tuple(_as_lost(pod) for pod in state.pods) if lost else state.pods
    if not lost and not phase.ended:
        cause = cause or _silence(run_dir(run))
    indexes = {
        number: each for number, each in state.indexes.items() if not lost or each.phase.ended
    }
    return RunStatus(
        run=run,
        phase=phase,
        cause=cause,
        fix=fix,
        pods=pods,
        termination=state.termination,
        indexes=indexes,
    )


def _about_to_start(state: State) -> bool:
    """Between `submit`'s first note and the supervisor's own."""
    noted = run_dir(state.run).state
    return (
        state.supervisor.pid == 0
        and noted.exists()
        and time.time() - noted.stat().st_mtime < _START_S
    )


def _why_lost(state: State) -> tuple[str, str]:
    fix = f"`vidjobs resume {state.run}` goes on from its last checkpoint"
    if state.supervisor.pid == 0:
        return "it was never started: `submit` was interrupted", fix
    if not state.supervisor.same_boot:
        return "this machine was restarted while it ran", fix
    return (
        f"its supervisor (pid {state.supervisor.pid}) was killed; {run_dir(state.run).supervisor_log} may say why",
        fix,
    )


def _as_lost(pod: PodStatus) -> PodStatus:
    if pod.finished:
        return pod
    return PodStatus(
        name=pod.name,
        phase=Phase.FAILED,
        node=pod.node,
        reason="its supervisor was lost",
        started=pod.started,
    )


def _silence(files: RunDir) -> str:
    try:
        age = time.time() - files.heartbeat.stat().st_mtime
    except FileNotFoundError:
        return ""
    return (
        f"its supervisor has not reported for {age:.0f} s: stopped, or the machine slept"
        if age > _SILENT_S
        else ""
    )


def read_logs(
    run: str, *, follow: bool, since_s: int | None, tail: int | None, index: int | None = None
) -> Iterator[LogLine]:
    """Each line of the newest attempt once, in order; with `follow` those of later attempts, until the run has ended.

    `index`: of that trial or shard alone.
    """
    since = stamp(time.time_ns() - since_s * 1_000_000_000) if since_s is not None else ""
    for number, pod in enumerate(_pods(run, follow=follow, index=index)):
        lines = _pod_lines(run, pod, follow=follow, tail=tail if number == 0 else None)
        yield from (line for line in lines if line.time >= since)


def of_index(status: RunStatus, index: int | None) -> list[PodStatus]:
    """The attempts of one trial or shard; None: all."""
    return [
        pod for pod in status.pods if index is None or pod.name.startswith(f"{status.run}-{index}-")
    ]


def index_ended(status: RunStatus, index: int | None) -> bool:
    return index is not None and index in status.indexes and status.indexes[index].phase.ended


def _pods(run: str, *, follow: bool, index: int | None) -> Iterator[str]:
    """Names of the attempts from the newest on; with `follow` also those to come."""
    seen: set[str] = set()
    while True:
        status = read_status(run)
        names = [pod.name for pod in of_index(status, index)]
        ended = status.phase.ended or index_ended(status, index)
        fresh = [name for name in names if name not in seen]
        if not seen:
            seen.update(names[:-1])
            fresh = fresh[-1:]
        for name in fresh:
            seen.add(name)
            yield name
        if not fresh and (not follow or ended):
            return
        if not fresh:
            time.sleep(_POLL_S)


def _pod_lines(run: str, pod: str, *, follow: bool, tail: int | None) -> Iterator[LogLine]:
    """One attempt: what is there now (or its last `tail` lines), then with `follow` what comes."""
    reader = LineReader(run_dir(run).log(pod), pod)
    if tail is not None:
        reader.skip_to_last(tail)
    ended = _ended(run, pod)  # asked before reading: what was written until now is then in the file
    yield from _last(reader.lines(ended=ended), tail)
    while follow and not ended:
        time.sleep(_POLL_S)
        ended = _ended(run, pod)
        yield from reader.lines(ended=ended)
    if not run_dir(run).log(pod).exists():  # the trainer did not start: what `code` wrote says why
        yield from _last(
            LineReader(run_dir(run).log(pod, "code"), pod, "code").lines(ended=ended), tail
        )


def _last(lines: Iterator[LogLine], tail: int | None) -> Iterator[LogLine]:
    return lines if tail is None else iter(deque(lines, maxlen=tail))


def _ended(run: str, pod: str) -> bool:
    """True when nothing will be written to this attempt's log any more."""
    status = read_status(run)
    return status.phase.ended or any(
        known.name == pod and bool(known.finished) for known in status.pods
    )
