"""One trial of a sweep: which line of the trials file is this process's, what it changes in the conf, and how it ended.

The file has a line of key paths and then a line of values for each trial, all JSON; null leaves the conf's own value:
    ["model.read_at","model.apply_at"]
    [0,0]
    [0,1]
Trial 1 is the last line here. It writes `<run>/trials/0001/` in a run's own layout, and there `trial.json`: what it changed and its ending.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.shards import INDEX
from trainer.errors import ConfFault, Fault

if TYPE_CHECKING:  # `check` reads trials, and is awaited at every submit
    from trainer.run_folder import RunFolder

_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One of `of` trials."""

    number: int  # from 0
    of: int
    changes: Mapping[str, Any]  # key path -> value over the conf's

    def __str__(self) -> str:
        changes = " ".join(f"{key}={_short(value)}" for key, value in self.changes.items())
        return f"trial {self.number} of {self.of}: {changes}"


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What a trials file says."""

    keys: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def read(cls, path: Path) -> Trials:
        """Raises ConfFault for a file that cannot be read, or is of another form."""
        try:
            keys, *rows = [
                json.loads(line)
                for line in path.read_text(encoding="utf-8").splitlines()
                if line.strip()
            ]
        except (OSError, ValueError, RecursionError) as error:
            raise ConfFault([_fault(f"cannot read {path}: {error}")]) from error
        if not (isinstance(keys, list) and keys and all(isinstance(key, str) for key in keys)):
            raise ConfFault([_fault(f"the first line of {path} is no list of key paths")])
        wrong = [
            line
            for line, row in enumerate(rows, 2)
            if not (isinstance(row, list) and len(row) == len(keys))
        ]
        if wrong or not rows:
            raise ConfFault(
                [
                    _fault(
                        f"line {wrong[0] if wrong else 2} of {path} is no list of {len(keys)} values"
                    )
                ]
            )
        return cls(keys=tuple(keys), rows=tuple(map(tuple, rows)))

    def __len__(self) -> int:
        return len(self.rows)

    def trial(self, number: int) -> Trial:
        """Raises ConfFault for a number beyond the last."""
        if not 0 <= number < len(self):
            raise ConfFault(
                [
                    _fault(
                        f"trial {number} was asked for (--index or {INDEX}), and there are 0 to {len(self) - 1}"
                    )
                ]
            )
        changes = {
            key: value
            for key, value in zip(self.keys, self.rows[number], strict=True)
            if value is not None
        }
        return Trial(number=number, of=len(self), changes=changes)


def choose(path: Path, index: int | None, environ: Mapping[str, str]) -> Trial:
    """The trial that `--index` names, else the index that Kubernetes gave this pod. Raises ConfFault."""
    text = environ.get(INDEX, "") if index is None else str(index)
    if not _NUMBER.fullmatch(text):
        raise ConfFault(
            [_fault(f"which trial is it? --index is not given, and {INDEX} is {text!r}")]
        )
    return Trials.read(path).trial(int(text))


def begin(trial: Trial, folder: RunFolder) -> None:
    """Say on stdout which trial this is, and write trial.json without an ending. Raises CannotWrite."""
    print(trial, flush=True)
    facts = {
        "trial": trial.number,
        "of": trial.of,
        "changes": dict(trial.changes),
        "started": _now(),
    }
    folder.write_text(folder.trial_file, json.dumps(facts) + "\n")


def end(ending: Mapping[str, Any], folder: RunFolder) -> None:
    """Add to trial.json how the trial ended. Raises CannotWrite."""
    try:
        facts = json.loads(folder.trial_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # it did not come as far as `begin`
    folder.write_text(
        folder.trial_file, json.dumps(facts | {"ended": {**ending, "time": _now()}}) + "\n"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _fault(message: str) -> Fault:
    return Fault(
        path="",
        message=message,
        hint="`vidjobs sweep submit` writes the file, and gives each pod its number",
    )
