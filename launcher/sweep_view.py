"""What is known of each trial of a sweep: from its Job while there is one, and from the trial's folder, which outlives it.

All folders are read with two questions, whatever the number of trials.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from launcher import records
from launcher.all_backends import for_record
from launcher.backend_base import Files, Phase, RemoteFile, RunStatus
from launcher.errors import ClusterError, UserError
from launcher.records import RunPaths, RunRecord
from launcher.render import TRIALS_ANNOTATION
from launcher.sweep import Trials

_IN = RunPaths(root=PurePosixPath())  # names inside a trial's folder
_WHOLE = (
    "trial.json",
    str(_IN.manifest),
    str(_IN.predictions / "metrics.json"),
    str(_IN.predictions / "test.json"),
)
_WHOLE_LIMIT = 4 << 20  # bytes; a manifest of 10,000 epochs has less
_TAIL_LIMIT = 4096  # bytes at the end of metrics.jsonl: the newest records
_PATH = re.compile(r"trials/(?P<number>[0-9]{4,})/(?P<name>.+)")
_NO_SCORES = frozenset({"epoch", "step", "threshold", "labels", "samples", "time"})
_LOWER_IS_BETTER = frozenset({"loss", "val_loss", "train_loss", "mean_error"})
PREFERRED = ("f1_macro", "top1", "accuracy", "val_loss", "train_loss")


@dataclass(frozen=True, kw_only=True)
class TrialView:
    """One trial."""

    number: int
    changes: Mapping[str, Any]
    # a Phase's word; "waiting" for its turn; "stopped" and "not started" when nothing runs it any
    # more
    phase: str
    cause: str = ""
    epoch: int | None = None
    step: int | None = None
    loss: float | None = None  # the newest one of training
    checkpoint: str = ""  # the best one by the conf's own measure
    scores: Mapping[str, float] = field(default_factory=dict)  # of that checkpoint

    def score(self, metric: str) -> float | None:
        """By a name of `SweepView.metrics`."""
        return self.loss if metric == "train_loss" else self.scores.get(metric)

    def as_json(self) -> dict[str, Any]:
        """The stable schema of `vidjobs sweep status --json`."""
        return {
            "trial": self.number,
            "changes": dict(self.changes),
            "phase": self.phase,
            "cause": self.cause,
            "epoch": self.epoch,
            "step": self.step,
            "loss": self.loss,
            "checkpoint": self.checkpoint,
            "scores": dict(self.scores),
        }


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """All of them."""

    record: RunRecord
    status: RunStatus
    keys: tuple[str, ...]  # that vary
    trials: tuple[TrialView, ...]
    select: str = ""  # what the trainer chose each best checkpoint by
    unread: str = ""  # why the folders could not be read now
    # trial -> what was read of it, by name
    small: Mapping[int, Mapping[str, bytes]] = field(default_factory=dict, repr=False)

    @property
    def metrics(self) -> list[str]:
        """What trials can be compared by, the usual one first."""
        found = dict.fromkeys(name for trial in self.trials for name in trial.scores)
        found |= (
            {"train_loss": None} if any(trial.loss is not None for trial in self.trials) else {}
        )
        first = [name for name in (self.select, *PREFERRED) if name in found]
        return list(dict.fromkeys([*first, *found]))

    def ranked(self, metric: str) -> list[TrialView]:
        """Those that have this metric, the best first."""
        scored = [
            (value, trial) for trial in self.trials if (value := trial.score(metric)) is not None
        ]
        return [
            trial
            for _, trial in sorted(
                scored, key=lambda pair: pair[0], reverse=not lower_is_better(metric)
            )
        ]

    def best_first(self, metric: str) -> list[TrialView]:
        """All trials, those without the metric at the end."""
        ranked = self.ranked(metric)
        known = {trial.number for trial in ranked}
        return [*ranked, *(trial for trial in self.trials if trial.number not in known)]

    def counts(self) -> dict[str, int]:
        """Phase -> how many trials."""
        found: dict[str, int] = {}
        for trial in self.trials:
            found[trial.phase] = found.get(trial.phase, 0) + 1
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "run": self.record.run,
            "phase": str(self.status.phase),
            "cause": self.status.cause,
            "counts": self.counts(),
            "select": self.select,
            "trials": [trial.as_json() for trial in self.trials],
        }


def lower_is_better(metric: str) -> bool:
    """For losses and errors."""
    return metric in _LOWER_IS_BETTER


def trials_of(record: RunRecord) -> Trials | None:
    """The trials that were submitted; None for a run that is no sweep."""
    for manifest in record.manifests:
        template = (
            manifest.get("spec", {}).get("template", {}) if manifest.get("kind") == "Job" else {}
        )
        text = template.get("metadata", {}).get("annotations", {}).get(TRIALS_ANNOTATION)
        if text:
            return Trials.read(text)
    return None


def find(name: str | None) -> RunRecord:
    """The sweep called so; None: the newest one submitted from this directory. UserError when there is none."""
    known = records.load_all()
    if name is not None:
        record = records.find(name, known)
        if trials_of(record) is None:
            raise UserError(
                f"{record.run} is one run, not a sweep", hint=f"vidjobs status {record.run}"
            )
        return record
    sweeps = [record for record in known if trials_of(record) is not None]
    if not any(record.directory == str(Path.cwd()) for record in sweeps):
        raise UserError(
            f"no sweep was submitted from {Path.cwd()}",
            hint="name one: `vidjobs status` lists the runs",
        )
    return records.find(None, sweeps)


def require_trial(record: RunRecord, number: int) -> None:
    """UserError for a number that is no trial of the run."""
    trials = trials_of(record)
    if trials is None:
        raise UserError(
            f"{record.run} is one run, not a sweep: it has no trial {number}",
            hint="leave --trial out",
        )
    if number >= len(trials):
        raise UserError(
            f"{record.run} has no trial {number}",
            hint=f"0 to {len(trials) - 1}; `vidjobs sweep status` lists them",
        )


def folder_of(number: int) -> str:
    """A trial's folder inside the run's, as the trainer names it."""
    return f"trials/{number:04d}"


@dataclass(frozen=True)
class TrialFiles:
    """The files of one trial, by their names in its folder."""

    files: Files
    number: int

    def list(self) -> list[RemoteFile]:
        start = folder_of(self.number) + "/"
        return [
            replace(file, path=file.path.removeprefix(start))
            for file in self.files.list()
            if file.path.startswith(start)
        ]

    def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
        return self.files.read(self._inside(path), offset, length)

    def sha256(self, path: str, length: int | None = None) -> str:
        return self.files.sha256(self._inside(path), length)

    def gather(self, patterns: Sequence[str], limit: int) -> dict[str, bytes]:
        found = self.files.gather([self._inside(pattern) for pattern in patterns], limit)
        return {
            path.removeprefix(folder_of(self.number) + "/"): content
            for path, content in found.items()
        }

    def bundle(self, have: Mapping[str, str]) -> dict[str, bytes | None]:
        found = self.files.bundle({self._inside(path): digest for path, digest in have.items()})
        return {
            path.removeprefix(folder_of(self.number) + "/"): content
            for path, content in found.items()
        }

    def _inside(self, path: str) -> str:
        return f"{folder_of(self.number)}/{path}"


def look(record: RunRecord, before: SweepView | None = None) -> SweepView:
    """Ask the backend and read the folders. Where they cannot be read now, progress and scores are those of `before`, if any."""
    backend = for_record(record)
    status = backend.status(record)
    found: Mapping[int, Mapping[str, bytes]] = {}
    unread = ""
    if status.indexes or status.phase.ended:
        try:
            with backend.files(record) as folder:
                found = _folders(folder)
        except ClusterError as error:
            found, unread = before.small if before else {}, error.message
    return replace(_together(record, status, found), unread=unread)


def in_folder(record: RunRecord, status: RunStatus, files: Files) -> SweepView:
    """The same when both are known already."""
    return _together(record, status, _folders(files))


def _together(
    record: RunRecord, status: RunStatus, found: Mapping[int, Mapping[str, bytes]]
) -> SweepView:
    trials = trials_of(record)
    assert trials is not None
    views = tuple(
        _view(number, trials, status, found.get(number, {})) for number in range(len(trials))
    )
    selects = [
        str(select)
        for files in found.values()
        if (select := _mapping(files, str(_IN.manifest)).get("select"))
    ]
    select = max(set(selects), key=selects.count) if selects else ""
    select = "val_loss" if select == "loss" else select
    return SweepView(
        record=record, status=status, keys=trials.keys, trials=views, select=select, small=found
    )


def _folders(files: Files) -> dict[int, dict[str, bytes]]:
    """Trial -> its small files by name."""
    gathered = files.gather([f"trials/*/{name}" for name in _WHOLE], _WHOLE_LIMIT)
    gathered |= files.gather([f"trials/*/{_IN.metrics}"], _TAIL_LIMIT)
    found: dict[int, dict[str, bytes]] = {}
    for path, content in gathered.items():
        match = _PATH.fullmatch(path)
        if match:
            found.setdefault(int(match["number"]), {})[match["name"]] = content
    return found


def _view(number: int, trials: Trials, status: RunStatus, files: Mapping[str, bytes]) -> TrialView:
    phase, cause = _phase(number, status, _mapping(files, "trial.json"))
    newest = _newest(files.get(str(_IN.metrics), b""))
    checkpoint, scores = _best(files)
    last = newest.get("train", {})
    places = [record for record in newest.values() if isinstance(record.get("step"), int)]
    place = max(places, key=lambda record: int(record["step"]), default={})
    return TrialView(
        number=number,
        changes=trials.changes(number),
        phase=phase,
        cause=cause,
        epoch=place.get("epoch"),
        step=place.get("step"),
        loss=_number(last.get("loss")),
        checkpoint=checkpoint,
        scores=scores,
    )


def _phase(number: int, status: RunStatus, told: Mapping[str, Any]) -> tuple[str, str]:
    """The Job's word; where it has none, that of trial.json."""
    ended = told.get("ended")
    said = (
        ""
        if not isinstance(ended, dict) or ended.get("cause") == "done"
        else str(ended.get("message", "")).partition("\n")[0]
    )
    known = status.indexes.get(number)
    if known is not None:
        return str(known.phase), known.cause or (said if known.phase is Phase.FAILED else "")
    if not told:
        return ("not started" if status.phase.ended else "waiting"), ""
    if not isinstance(ended, dict):
        return "stopped", "its pod ended without a word" if status.phase.ended else ""
    if ended.get("cause") in ("done", "stopped"):
        return ("succeeded" if ended["cause"] == "done" else "stopped"), ""
    return "failed", said


def _best(files: Mapping[str, bytes]) -> tuple[str, dict[str, float]]:
    """The best checkpoint and its scores: of a training, else of a test, else of an evaluation."""
    manifest = _mapping(files, str(_IN.manifest))
    entries = manifest.get("files")
    if isinstance(entries, dict) and entries:
        name = str(manifest.get("best") or manifest.get("last") or "")
        entry = entries.get(name)
        scores = _scores(entry.get("metrics") if isinstance(entry, dict) else None)
        return name, {
            ("val_loss" if key == "loss" else key): value for key, value in scores.items()
        }
    test = _mapping(files, str(_IN.predictions / "test.json"))
    rows = test.get("checkpoints")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.get("checkpoint") == test.get("best"):
            return str(row["checkpoint"]), _scores(row)
    return "", _scores(_mapping(files, str(_IN.predictions / "metrics.json")))


def _scores(values: Any) -> dict[str, float]:
    named = values.items() if isinstance(values, dict) else ()
    return {
        str(key): number
        for key, value in named
        if key not in _NO_SCORES and (number := _number(value)) is not None
    }


def _newest(tail: bytes) -> dict[str, dict[str, Any]]:
    """Phase -> its last record; the first line of a tail may be cut, and the last one of a run that was killed."""
    found: dict[str, dict[str, Any]] = {}
    for line in tail.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("phase"), str):
            found[record["phase"]] = record
    return found


def _mapping(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """A JSON object; empty when there is none, or it is no JSON."""
    try:
        value = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    """None for what cannot be compared: NaN is neither better nor worse than anything."""
    return (
        float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )


def in_order(values: Sequence[Any]) -> list[Any]:
    """Each once: numbers ascending, all else as they come."""
    once = [json.loads(text) for text in dict.fromkeys(json.dumps(value) for value in values)]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in once)
    return sorted(once) if numbers else once
