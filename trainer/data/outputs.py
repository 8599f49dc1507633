"""A step of `prepare` that makes one file or folder of each video: done once, whole or not at all, and nothing lost in silence.

<target>/.prepared.json            in a folder that a step made: from which file, how, how many frames; written before it has its name
<folder>/.<name>.prepared.json     the same beside a file that a step made
<folder>/.<name>.part              in the making: its share is nobody else's, so a later process finds by name what a killed one left
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainer.compute import cores
from trainer.data.progress import Progress, Say
from trainer.errors import DataError
from trainer.run_folder import atomic, writing

RECORD = ".prepared.json"


class NothingMade(Exception):
    """Nothing could be made of one video; the text says why. The step goes on with the others."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One video, and what is to be made of it."""

    id: str  # its name in the report
    source: Path  # a video file or a folder of frames
    target: Path


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a step made of a video."""

    frames: int
    damage: str = ""  # what the decoder complained of, where it gave frames all the same


class Step(Protocol):
    """What is done with each video, by several threads at once."""

    name: str  # of progress lines and of the report
    folders: bool  # whether a target is a folder; else it is a file
    settings: Mapping[str, Any]  # everything that changes the output; plain values

    def make(self, task: Task, place: Path) -> Made:
        """Write the output of `task` to `place` (an empty folder, or the name of a file to write). Raises NothingMade."""
        ...

    def stop(self) -> None:
        """End what runs as soon as possible: the process is asked to leave."""
        ...


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What a step did. Lists hold {"id", "problem", "source" (its signature)}."""

    folder: str
    settings: dict[str, Any]
    videos: int
    made: int  # now; the others were there
    frames: int  # in all outputs
    seconds: float
    broken: list[dict[str, str]]  # nothing could be made of these
    damaged: list[dict[str, str]]  # made, from what could be read

    def __add__(self, other: StepReport) -> StepReport:
        """Both shares of one step together."""
        return StepReport(
            folder=self.folder,
            settings=self.settings,
            videos=self.videos + other.videos,
            made=self.made + other.made,
            frames=self.frames + other.frames,
            seconds=max(self.seconds, other.seconds),
            broken=self.broken + other.broken,
            damaged=self.damaged + other.damaged,
        )


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    task: Task
    source: str
    made: Made | None = None
    fresh: bool = False
    fault: str = ""


def run(step: Step, tasks: Sequence[Task], root: Path, say: Say) -> StepReport:
    """Do what is not done yet, one video a core. Raises CannotWrite, DataError where two videos would get one name."""
    began = time.monotonic()
    _require_distinct(tasks)
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    progress = Progress(step.name, len(tasks), say)
    outcomes = []
    for outcome in _outcomes(step, tasks):
        outcomes.append(outcome)
        progress.step()
    made = [outcome.made for outcome in outcomes if outcome.made]
    report = StepReport(
        folder=str(root),
        settings=dict(step.settings),
        videos=len(tasks),
        made=sum(outcome.fresh for outcome in outcomes),
        frames=sum(each.frames for each in made),
        seconds=round(time.monotonic() - began, 1),
        broken=_items((outcome, outcome.fault) for outcome in outcomes if outcome.fault),
        damaged=_items(
            (outcome, outcome.made.damage)
            for outcome in outcomes
            if outcome.made and outcome.made.damage
        ),
    )
    say(
        f"prepare {step.name}: {report.made} made, {len(made) - report.made} there before, {len(report.broken)} cannot be made"
    )
    return report


def _outcomes(step: Step, tasks: Sequence[Task]) -> Iterator[_Outcome]:
    """As they come; an exception ends the step, and what its threads have begun."""
    with ThreadPoolExecutor(min(cores(), 64)) as pool:
        try:
            for future in as_completed([pool.submit(_do, step, task) for task in tasks]):
                yield future.result()
        finally:
            step.stop()
            pool.shutdown(cancel_futures=True)


def _do(step: Step, task: Task) -> _Outcome:
    source = signature(task.source)
    held = _held(step, task, source)
    if held:
        return _Outcome(task=task, source=source, made=held)
    if not source:
        return _Outcome(task=task, source=source, fault="No such file or directory")
    if not os.access(task.source, os.R_OK):
        return _Outcome(task=task, source=source, fault="Permission denied")
    place = _part(task.target)
    with writing(task.target):
        task.target.parent.mkdir(parents=True, exist_ok=True)
        _remove(place)
        _remove(_part(task.target, "old"))
        try:
            made = _make(step, task, place, source)
        except NothingMade as error:
            return _Outcome(task=task, source=source, fault=str(error))
        finally:
            _remove(place)
    return _Outcome(task=task, source=source, made=made, fresh=True)


def _make(step: Step, task: Task, place: Path, source: str) -> Made:
    """Make it under another name, say what it is, and give it its name."""
    if step.folders:
        place.mkdir()
    made = step.make(task, place)
    size = 0 if step.folders else place.stat().st_size
    facts = {
        "source": source,
        "settings": dict(step.settings),
        "size": size,
        **dataclasses.asdict(made),
    }
    record = place / RECORD if step.folders else _record(task.target, folders=False)
    with atomic(record) as sink:
        sink.write(json.dumps(facts).encode())
    # of other settings, or of a file that changed; a folder cannot be replaced in one step
    if step.folders and task.target.exists():
        old = _part(task.target, "old")
        task.target.rename(old)
        place.rename(task.target)
        _remove(old)
    else:
        place.rename(task.target)
    return made


def _held(step: Step, task: Task, source: str) -> Made | None:
    """What is there already, if it was made of this file with these settings. Raises DataError for what prepare did not make."""
    try:
        facts = json.loads(_record(task.target, folders=step.folders).read_text())
        size = task.target.stat().st_size if not step.folders else 0
        same = (facts["source"], facts["settings"], facts["size"]) == (
            source,
            dict(step.settings),
            size,
        )
        return Made(frames=facts["frames"], damage=facts["damage"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if _foreign(task.target):
        what = f"{task.target} is there, and `prepare` did not make it"
        raise DataError(
            what, hint=f"name another folder for the {step.name}, or move what is there away"
        )
    return None


def _foreign(target: Path) -> bool:
    """Something of that name that a person would miss. A file may be ours, its record lost."""
    return target.is_dir() and next(target.iterdir(), None) is not None


def _record(target: Path, *, folders: bool) -> Path:
    return target / RECORD if folders else target.with_name(f".{target.name}{RECORD}")


def _part(target: Path, *kind: str) -> Path:
    """Beside the target. Nothing looks for it by listing the folder, which may hold a quarter of a million."""
    return target.with_name(".".join(["", target.name, *kind, "part"]))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def signature(path: Path) -> str:
    """Changes when the file does, or what the folder holds; "" when it is not there. Of a file: "<bytes>-<time>".

    A folder's own time tells of files that came and went, and its first and last file of a folder that was written over in place.
    """
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return f"{status.st_size}-{status.st_mtime_ns}"
        names = os.listdir(path)  # noqa: PTH208  half the time of iterdir
        ends = [path / name for name in (min(names), max(names))] if names else []
        return " ".join(
            [f"{status.st_mtime_ns}", *(signature(end) for end in ends if end.is_file())]
        )
    except OSError:
        return ""


def sizes(signed: str) -> list[str]:
    """Of the files in a signature: what a copy keeps, whatever becomes of the times."""
    return [part.partition("-")[0] for part in signed.split() if "-" in part]


def _require_distinct(tasks: Sequence[Task]) -> None:
    first: dict[Path, Task] = {}
    for task in tasks:
        other = first.setdefault(task.target, task)
        if other is not task:
            raise DataError(
                f"{other.source} and {task.source} would both become {task.target}",
                hint="rename or remove one of them",
            )


def _items(found: Iterator[tuple[_Outcome, str]] | Any) -> list[dict[str, str]]:
    return sorted(
        (
            {"id": outcome.task.id, "problem": problem, "source": outcome.source}
            for outcome, problem in found
        ),
        key=lambda item: item["id"],
    )
