"""The records of a run, each told four times: the log line, metrics.jsonl, train.log and TensorBoard.

A resumed run cuts all of them back to its checkpoint, so that no step is told twice. metrics.jsonl is the truth; the
TensorBoard events are rebuilt from it.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from trainer.run_folder import RunFolder, writing

Value = float | int | str | None
# metrics too many for a line
IN_FILES_ONLY = re.compile(r"(clip_)?top3|clip_top5|mean_error|mean_class_accuracy|map|best\d+_\w+")
RECORD_LINE = re.compile(r"(?P<phase>\w+)\s+Loss: \S+ .*\bstep=(?P<step>\d+)\b")

USAGE_LINE = '{"kind": "usage"'  # how the lines of usage.py begin


class Writer(Protocol):
    """The part of TensorBoard's SummaryWriter that is used."""

    def add_scalar(self, tag: str, value: float, step: int, *, walltime: float) -> object: ...
    def flush(self) -> object: ...
    def close(self) -> object: ...


class Recorder:
    """Writes the records of one run. With `enabled` off (ranks other than 0) it does nothing."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        tensorboard: bool = True,
        enabled: bool = True,
        require: Callable[[], None] = lambda: None,
    ) -> None:
        """`require` is asked before anything is written; it raises where the folder is no longer this process's."""
        self._folder = folder
        self._require = require
        self._enabled = enabled
        self._with_events = tensorboard and enabled
        self._events: Writer | None = None

    def record(
        self, phase: str, loss: float, *, epoch: int, step: int | None = None, **values: Value
    ) -> None:
        """Tell one record. `eta` is in seconds. Raises CannotWrite when the volume is full."""
        if not self._enabled:
            return
        self._require()
        values |= {} if self._folder.trial is None else {"trial": self._folder.trial}
        print(line := format_line(phase, loss, epoch=epoch, step=step, **values), flush=True)
        now = datetime.now(UTC)
        entry = {
            "phase": phase,
            "loss": loss,
            "epoch": epoch,
            "step": step,
            **values,
            "time": now.isoformat(timespec="milliseconds"),
        }
        entry = {
            key: _finite(value)
            for key, value in entry.items()
            if key != "step" or value is not None
        }
        self._append(self._folder.metrics, json.dumps(entry))
        self._append(self._folder.log, line)
        self._scalars(entry)
        if self._events is not None:
            with writing(self._folder.tensorboard):
                self._events.flush()

    def say(self, message: str) -> None:
        """A line for people: to stdout and train.log."""
        if self._enabled:
            print(message, flush=True)
            self._require()
            self._append(self._folder.log, message)

    def cut_back(self, step: int, *, validated: bool = True) -> int:
        """Forget the records after optimizer step `step`; without `validated` those of its validation too.

        Returns how many were forgotten. A last line that a killed process left unfinished goes as well.
        """
        if not self._enabled:
            return 0

        def stays(phase: str, at: int) -> bool:
            return at < step or (at == step and (validated or phase == "train"))

        kept = [
            entry
            for entry in read_metrics(self._folder.metrics)
            if stays(entry["phase"], int(entry.get("step") or 0))
        ]
        before = _lines(self._folder.metrics)
        # of time, not of steps: they stay
        usage = [line for line in before if line.startswith(USAGE_LINE) and line.endswith("}")]
        self._folder.write_text(
            self._folder.metrics, "".join(f"{line}\n" for line in (*usage, *map(json.dumps, kept)))
        )
        log = [
            line
            for line in _lines(self._folder.log)
            if not (hit := RECORD_LINE.match(line)) or stays(hit["phase"], int(hit["step"]))
        ]
        self._folder.write_text(self._folder.log, "".join(line + "\n" for line in log))
        self._rebuild_events(kept)
        return len(before) - len(kept) - len(usage)

    def close(self) -> None:
        """Flush the events."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _append(self, path: Path, line: str) -> None:
        with writing(path, len(line) + 1), path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _scalars(self, entry: Mapping[str, Any]) -> None:
        events = self._writer()
        if events is None:
            return
        time = datetime.fromisoformat(entry["time"]).timestamp()
        step = int(entry.get("step") or entry["epoch"])
        with writing(self._folder.tensorboard):
            for key, value in entry.items():
                if isinstance(value, (int, float)) and key not in ("step", "epoch", "eta", "trial"):
                    events.add_scalar(f"{entry['phase']}/{key}", float(value), step, walltime=time)

    def _rebuild_events(self, entries: list[dict[str, Any]]) -> None:
        self.close()
        for path in self._folder.tensorboard.glob("events.*"):  # not those of usage
            path.unlink(missing_ok=True)
        for entry in entries:
            self._scalars(entry)

    def _writer(self) -> Writer | None:
        if not self._with_events:
            return None
        if self._events is None:
            try:
                # heavy, and optional: only when a first scalar is written
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                self._with_events = False
                print(
                    f"warning: no TensorBoard events are written ({error})",
                    file=sys.stderr,
                    flush=True,
                )
                return None
            with writing(self._folder.tensorboard):
                self._events = SummaryWriter(str(self._folder.tensorboard))
        return self._events


def format_line(
    phase: str, loss: float, *, epoch: int, step: int | None = None, **values: Value
) -> str:
    """`train Loss: 0.0710 epoch=3 step=120 lr=1.5e-03 ...`; `eta` is given in seconds and told as 1h02m.

    What IN_FILES_ONLY names is left to metrics.jsonl and TensorBoard.
    """
    fields = {"epoch": epoch, "step": step, **values}
    told = [
        f"{key}={_format(key, value)}"
        for key, value in fields.items()
        if value is not None and not IN_FILES_ONLY.fullmatch(key)
    ]
    return f"{phase:<4} Loss: {_format('loss', loss)} {' '.join(told)}"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, without what is no whole record (the end that a killed process left)."""
    entries = []
    for line in _lines(path):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"phase", "loss", "epoch", "time"} <= entry.keys():
            entries.append(entry)
    return entries


def format_eta(seconds: float) -> str:
    """3720 -> "1h02m", 75 -> "1m15s", 9 -> "9s"."""
    whole = max(round(seconds), 0)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


def _format(key: str, value: float | int | str) -> str:
    if isinstance(value, str) or (isinstance(value, int) and key != "eta"):
        return str(value)
    if key == "eta":
        return format_eta(value)
    if key == "lr":
        short = f"{value:.1e}"
        return short if float(short) == value else f"{value:.3e}"
    if key in ("clips_per_s", "data_wait"):
        return f"{value:.1f}" if key == "clips_per_s" else f"{value:.2f}"
    return f"{value:.4f}" if not 0 < abs(value) < 1e-3 else f"{value:.3e}"


def _finite(value: Value) -> Value:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
