"""`logs --all-pods` on this machine: attempts beside each other, line by line in time order, as they come and afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.backend_base import LogLine, Phase, PodStatus
from launcher.backends.local import merged_logs
from launcher.backends.local.state import State, run_dir, save

RUN = "a-train-aaaaaa"
# Two trials take turns: a line of one, then a line of the other. Half way they wait for a word from
# outside.
TURNS = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[2]); folder.mkdir(exist_ok=True)
own = int(os.environ["JOB_COMPLETION_INDEX"])
for turn in range(own, 20, 2):
    while turn and not (folder / f"turn-{turn - 1}").exists(): time.sleep(0.001)
    while turn >= 10 and not (folder / "go").exists(): time.sleep(0.001)
    print("turn", turn, flush=True)
    (folder / f"turn-{turn}").touch()
"""


def test_lines_of_trials_beside_each_other_come_in_the_order_of_their_times_and_at_once(
    world: Any,
) -> None:
    trials = {
        "completionMode": "Indexed",
        "completions": 2,
        "parallelism": 2,
        "backoffLimitPerIndex": 0,
    }
    job = world.job(RUN, TURNS, **trials)
    job["spec"]["template"]["metadata"]["annotations"]["vidjobs/trials"] = '["a.b"]\n[1]\n[2]\n'
    world.backend.submit([job])
    world.started.append(RUN)
    seen: list[LogLine] = []
    for line in world.backend.logs(world.record(RUN), follow=True, all_pods=True):
        seen.append(line)
        if len(seen) == 10:
            assert not world.wait(RUN, lambda _: True).phase.ended
            (world.folder(RUN) / "go").touch()
    assert sorted(line.text for line in seen) == sorted(f"turn {turn}" for turn in range(20))
    assert [line.time for line in seen] == sorted(line.time for line in seen)
    assert world.wait(RUN).phase is Phase.SUCCEEDED
    assert world.log(RUN, all_pods=True) == seen
    assert sorted(line.text for line in world.log(RUN, all_pods=True, tail=1)) == [
        "turn 18",
        "turn 19",
    ]
    odd = [f"turn {turn}" for turn in range(1, 20, 2)]
    assert [line.text for line in world.log(RUN, index=1)] == odd
    assert [line.text for line in world.log(RUN, all_pods=True, index=1)] == odd


def _time(second: float) -> str:
    return f"2026-01-01T00:{int(second) // 60:02d}:{second % 60:012.9f}Z"


@pytest.fixture
def written(world: Any) -> list[tuple[str, str]]:
    """A sweep of 120 trials, a few at a time, that has ended: its lines by their times."""
    random_ = random.Random(0)
    pods, lines = [], []
    files = run_dir(RUN)
    (files.root / "logs").mkdir(parents=True)
    for number in range(120):
        name, start = f"{RUN}-{number}-xxxxx", number * 10 + random_.random()
        mine = sorted(
            (_time(start + random_.random() * 40), f"{number} {word}") for word in range(5)
        )
        lines += mine
        files.log(name).write_text("".join(f"{time} F {text}\n" for time, text in mine))
        pods.append(
            PodStatus(
                name=name,
                phase=Phase.SUCCEEDED,
                started=f"{_time(start)[:19]}Z",
                finished=f"{_time(start + 41)[:19]}Z",
            )
        )
    save(State(run=RUN, phase=Phase.SUCCEEDED, pods=tuple(pods)), files.state)
    return sorted(lines)


def _open_logs() -> int:
    return sum("/logs/" in str(path.resolve()) for path in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("follow", [True, False])
def test_of_many_trials_only_those_that_ran_at_once_are_open_at_once(
    written: list[tuple[str, str]], follow: bool
) -> None:
    most, found = 0, []
    for line in merged_logs.read_merged(RUN, follow=follow, since_s=None, tail=None):
        found.append((line.time, line.text))
        most = max(most, _open_logs())
    assert found == written
    assert most < 12


def test_a_line_that_is_too_new_waits_until_all_before_it_must_be_there(world: Any) -> None:
    """With a tail too: what was held back is shown in its turn."""
    files = run_dir(RUN)
    (files.root / "logs").mkdir(parents=True)
    pod = PodStatus(name=f"{RUN}-0-xxxxx", phase=Phase.RUNNING, started=_time(0))
    files.log(pod.name).write_text("".join(f"{_time(number)} F {number}\n" for number in range(10)))
    source = merged_logs._Source(RUN, pod, tail=5)

    def texts(lines: Iterator[LogLine]) -> list[str]:
        return [line.text for line in lines]

    assert texts(source.lines(_time(7))) == ["5", "6"]
    assert texts(source.lines(_time(7))) == []
    with files.log(pod.name).open("a") as file:
        file.write(f"{_time(10)} F 10\n{_time(11)} P cut")
    assert texts(source.lines(_time(9.5))) == ["7", "8", "9"]
    assert not source.done
    source.ended = True
    assert texts(source.lines("")) == ["10", "cut"]
    assert source.done
