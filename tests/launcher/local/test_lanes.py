"""Trials on this machine: beside each other as the conf says, each tried again by itself, stopped and resumed together."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.backend_base import IndexStatus, Phase
from launcher.backends.local import reader
from launcher.backends.local.line_log import LineReader, LineWriter
from launcher.backends.local.process import identify

RUN = "a-train-aaaaaa"
# Says when it begins and ends in the run folder; the index tells what it does.
TRIAL = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[2]); folder.mkdir(exist_ok=True)
index = os.environ["JOB_COMPLETION_INDEX"]
def note(what):
    with open(folder / "notes", "a") as file: file.write(f"{index} {what}\\n")
def stop(*_):
    note("stopped"); sys.exit(75)
signal.signal(signal.SIGTERM, stop)
note("begins"); print("trial", index, flush=True)
if (folder / "wait").exists():
    (folder / f"ready-{index}").touch()
    while (folder / "wait").exists(): time.sleep(0.01)
code = folder / f"exit-{index}"
if code.exists():
    note("fails"); sys.exit(int(code.read_text()))
time.sleep(0.1); note("ends")
"""


def trials(count: int, parallelism: int, **spec: Any) -> dict[str, Any]:
    """What makes a Job of the local world a sweep's."""
    return {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": parallelism,
        "backoffLimitPerIndex": 1,
        **spec,
    }


def submit(
    world: Any,
    count: int,
    parallelism: int,
    codes: dict[int, int] | None = None,
    *,
    wait: bool = False,
    **spec: Any,
) -> Any:
    folder = world.folder(RUN)
    folder.mkdir(parents=True)
    for index, code in (codes or {}).items():
        (folder / f"exit-{index}").write_text(str(code))
    if wait:
        (folder / "wait").touch()
    job = world.job(RUN, TRIAL, **trials(count, parallelism, **spec))
    job["spec"]["template"]["metadata"]["annotations"]["vidjobs/trials"] = (
        '["a.b"]\n' + "[1]\n" * count
    )
    rules = job["spec"]["podFailurePolicy"]["rules"]
    fails = {"containerName": "trainer", "operator": "In"}
    job["spec"]["podFailurePolicy"] = {
        "rules": [
            rules[0],
            {"action": "FailIndex", "onExitCodes": {**fails, "values": [64, 65, 76]}},
            {"action": "FailJob", "onExitCodes": {**fails, "values": [73]}},
        ]
    }
    world.backend.submit([job])
    world.started.append(RUN)
    return folder


def notes(folder: Path) -> list[tuple[int, str]]:
    lines = [line.split() for line in (folder / "notes").read_text().splitlines()]
    return [(int(index), what) for index, what in lines]


def test_so_many_run_beside_each_other_and_no_more(world: Any) -> None:
    folder = submit(world, 7, 3)
    status = world.wait(RUN)
    assert status.phase is Phase.SUCCEEDED
    running, most = 0, 0
    for _, what in notes(folder):
        running += 1 if what == "begins" else -1
        most = max(most, running)
    assert most == 3
    assert status.indexes == {index: IndexStatus(phase=Phase.SUCCEEDED) for index in range(7)}
    assert sorted(int(pod.name.split("-")[3]) for pod in status.pods) == list(range(7))
    assert [line.text for line in world.log(RUN, index=5)] == ["trial 5"]


def test_a_trial_fails_alone_and_resume_tries_only_what_is_not_done(world: Any) -> None:
    """A conf error is not tried again, a crash once here; all others go on."""
    folder = submit(world, 5, 2, {1: 64, 3: 70})
    status = world.wait(RUN)
    assert status.phase is Phase.FAILED
    assert status.cause.startswith("2 of 5 trials failed (1, 3), the last: ")
    assert "vidjobs sweep status" in status.fix
    assert [index for index, what in notes(folder) if what == "fails"].count(1) == 1
    assert [index for index, what in notes(folder) if what == "fails"].count(3) == 2
    assert "retries" in status.indexes[3].cause

    for index in (1, 3):
        (folder / f"exit-{index}").unlink()
    (folder / "notes").unlink()
    world.backend.resume(world.record(RUN))
    assert world.wait(RUN).phase is Phase.SUCCEEDED
    assert sorted(index for index, what in notes(folder) if what == "begins") == [1, 3]


@pytest.mark.parametrize(("code", "spec"), [(73, {}), (64, {"maxFailedIndexes": 0})])
def test_a_full_volume_or_too_many_failures_end_all(
    world: Any, code: int, spec: dict[str, int]
) -> None:
    """The trials that run are stopped as by a cancel, and are neither done nor failed."""
    folder = submit(world, 9, 2, {0: code}, **spec)
    status = world.wait(RUN)
    assert status.phase is Phase.FAILED
    assert ("trial 0: " if code == 73 else "sweep.max_failed is 0") in status.cause
    assert [index for index, each in status.indexes.items() if each.phase is Phase.FAILED] == [0]
    assert len({index for index, _ in notes(folder)}) <= 4


def test_cancel_stops_all_and_resume_goes_on(world: Any) -> None:
    folder = submit(world, 4, 2, wait=True)
    for index in (0, 1):
        world.wait_for_file(folder / f"ready-{index}")
    world.wait(RUN, lambda status: "2 run" in status.cause)
    record = world.record(RUN)
    world.backend.cancel(record)
    status = world.wait(RUN)
    assert (status.phase, dict(status.indexes)) == (Phase.CANCELLED, {})
    assert sorted(notes(folder)) == [(0, "begins"), (0, "stopped"), (1, "begins"), (1, "stopped")]

    (folder / "wait").unlink()
    world.backend.resume(record)
    assert world.wait(RUN).phase is Phase.SUCCEEDED


def test_a_killed_supervisor_leaves_no_trial_behind_and_resume_goes_on(world: Any) -> None:
    folder = submit(world, 3, 2, wait=True)
    for index in (0, 1):
        world.wait_for_file(folder / f"ready-{index}")
    state = reader.read_state(RUN)
    assert state is not None
    lanes = [lane for lane in state.lanes if lane.alive]
    assert len(lanes) == 2
    os.kill(state.supervisor.pid, signal.SIGKILL)
    assert world.wait(RUN, lambda status: status.phase.ended).phase is Phase.FAILED
    (folder / "wait").unlink()
    world.backend.resume(world.record(RUN))
    assert world.wait(RUN).phase is Phase.SUCCEEDED
    assert not any(identify(lane.pid).alive and lane.alive for lane in lanes)
    assert [index for index, what in notes(folder) if what == "stopped"] in ([0, 1], [1, 0])


def test_the_tail_of_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    """The same lines as from its start, and quicker."""
    writer = LineWriter(tmp_path / "log")
    writer.feed(b"".join(b"line %d\n" % number for number in range(60_000)) + b"no newline")
    writer.close()
    whole = [line.text for line in LineReader(tmp_path / "log", "p").lines(ended=True)]
    for count in (1, 200, 5000, 100_000):
        quick = LineReader(tmp_path / "log", "p")
        quick.skip_to_last(count)
        began = time.perf_counter()
        lines = [line.text for line in quick.lines(ended=True)]
        assert whole[-count:] == lines[-count:]
        assert count > 5000 or time.perf_counter() - began < 0.1
