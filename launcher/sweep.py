"""A conf's `sweep:` as trials: which settings each one changes. Pure, and the same for the same conf.

`list`, `grid` and `random` together are crossed: each entry of the list with each combination of the grid with each random sample, in
this order, the last key changing fastest; `where` then leaves out what it is not true of, and a combination that came before.
The text that travels with the Job has a line of key paths and a line of values for each trial (trainer/trials.py reads it).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from launcher.conf import where as expression
from launcher.conf.convert import fault_at
from launcher.conf.nodes import KeyPath, Node, find, path_text, plain
from launcher.conf.resolve import Experiment
from launcher.conf.schema import TRAINER_SECTIONS, SweepConf
from launcher.errors import ConfError, Fault, did_you_mean

MOST_TRIALS = 10_000
MOST_COMBINATIONS = 200_000  # before `where`
_NOT_VARIED = ("prepare.shards", "prepare.shard")
Changes = dict[str, Any]  # key path -> value over the conf's


@dataclass(frozen=True)
class Trials:
    """The trials of one sweep, numbered from 0."""

    keys: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def changes(self, number: int) -> Changes:
        """What a trial changes; a key that it leaves alone is not there."""
        return {
            key: value
            for key, value in zip(self.keys, self.rows[number], strict=True)
            if value is not None
        }

    @property
    def text(self) -> str:
        """The trials file."""
        return "".join(
            json.dumps(line, separators=(",", ":")) + "\n" for line in (self.keys, *self.rows)
        )

    @classmethod
    def read(cls, text: str) -> Trials:
        """From `text`. ValueError for anything else."""
        keys, *rows = [json.loads(line) for line in text.splitlines()]
        return cls(tuple(keys), tuple(map(tuple, rows)))


def shown(changes: Mapping[str, Any]) -> str:
    """`model.read_at=0 model.apply_at=3`"""
    return " ".join(f"{key}={shown_value(value)}" for key, value in changes.items())


def shown_value(value: Any) -> str:
    """A text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def expand(experiment: Experiment) -> Trials:
    """The trials of a conf. ConfError with every fault, each with the file and line of what is wrong."""
    if experiment.sweep is None:
        hint = "sweep: {grid: {train.lr: [1e-3, 1e-4]}, parallelism: 2}"
        raise ConfError(
            [Fault(path="sweep", message="the conf has none", hint=hint, file=str(experiment.path))]
        )
    reader = _Reader(experiment, experiment.sweep)
    trials = reader.trials()
    if reader.faults:
        raise ConfError(reader.faults)
    return trials


class _Reader:
    """Reads the parts of one `sweep:`, and keeps what is wrong with them."""

    def __init__(self, experiment: Experiment, sweep: SweepConf) -> None:
        self.experiment = experiment
        self.sweep = sweep
        self.faults: list[Fault] = []

    def trials(self) -> Trials:
        parts = [self._list(), self._grid(), self._random()]
        if self.sweep.parallelism < 1:
            self._fault(
                ("sweep", "parallelism"),
                f"is {self.sweep.parallelism}",
                "at least 1 trial at a time",
            )
        combinations = math.prod(len(part) for part in parts)
        if not any(part != [{}] for part in parts) and not self.faults:
            self._fault(("sweep",), "varies nothing", "give it a grid, a list or random samples")
        if combinations > MOST_COMBINATIONS:
            self._fault(
                ("sweep",),
                f"has {combinations} combinations; at most {MOST_COMBINATIONS} are looked at",
                "vary less",
            )
        if self.faults:
            return Trials((), ())
        self._once(parts)
        keys = tuple(dict.fromkeys(key for part in parts for changes in part for key in changes))
        rows = self._chosen(keys, parts)
        if len(rows) > MOST_TRIALS:
            self._fault(
                ("sweep",),
                f"has {len(rows)} trials; one Job takes at most {MOST_TRIALS}",
                "vary less, or split it",
            )
        return Trials(keys, rows)

    def _chosen(
        self, keys: tuple[str, ...], parts: Sequence[Sequence[Changes]]
    ) -> tuple[tuple[Any, ...], ...]:
        """The rows that `where` is true of, each once."""
        where = self._where(keys)
        own = _flat(self.experiment.trainer)
        rows: dict[str, tuple[Any, ...]] = {}
        for combination in itertools.product(*parts):
            changes = {key: value for part in combination for key, value in part.items()}
            try:
                if where is not None and not where.holds(
                    own | {key: value for key, value in changes.items() if value is not None}
                ):
                    continue
            except expression.Refused as error:
                self._fault(("sweep", "where"), f"of {shown(changes)}: {error}", error.hint)
                break
            row = tuple(changes.get(key) for key in keys)
            rows.setdefault(json.dumps(row), row)
        if not rows and not self.faults:
            self._fault(("sweep", "where"), "is true of no combination", "loosen it")
        return tuple(rows.values())

    def _where(self, keys: tuple[str, ...]) -> expression.Where | None:
        if not self.sweep.where:
            return None
        try:
            where = expression.parse(self.sweep.where)
        except expression.Refused as error:
            self._fault(("sweep", "where"), str(error), error.hint)
            return None
        known = [*keys, *_flat(self.experiment.trainer)]
        for key in where.keys:
            if key not in known:
                hint = (
                    did_you_mean(key, known)
                    or f"varied: {', '.join(keys)}; any key that the conf sets may be named too"
                )
                self._fault(("sweep", "where"), f'"{key}" is no key of the sweep or the conf', hint)
        return None if self.faults else where

    def _grid(self) -> list[Changes]:
        node = find(self.experiment.tree, ("sweep", "grid"))
        axes: dict[str, list[Any]] = {}
        for path, child in _axes(node, ("sweep", "grid")) if node is not None else ():
            key = ".".join(map(str, path[2:]))
            if not isinstance(child.value, list):
                self._fault(path, f"is {plain(child)!r}, not a list of values", f"[{child.text}]")
            elif not child.value:
                self._fault(path, "is empty", "leave the key out, or give it values")
            elif self._varies(key, path):
                axes[key] = plain(child)
        if math.prod(map(len, axes.values())) > MOST_COMBINATIONS:
            self._fault(
                ("sweep", "grid"), f"has more than {MOST_COMBINATIONS} combinations", "vary less"
            )
            return [{}]
        return [
            dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
        ]

    def _list(self) -> list[Changes]:
        entries = self.sweep.list_
        for number, changes in enumerate(entries):
            for key in changes:
                self._varies(key, ("sweep", "list", number, key))
        return list(entries) or [{}]

    def _random(self) -> list[Changes]:
        random = self.sweep.random
        if random is None:
            return [{}]
        path: KeyPath = ("sweep", "random", "space")
        draws = {
            key: self._draw(value, (*path, key))
            for key, value in random.space.items()
            if self._varies(key, (*path, key))
        }
        if not random.space:
            self._fault(
                ("sweep", "random"),
                "has no space",
                "space: {train.lr: {low: 1e-5, high: 1e-2, log: true}}",
            )
        if not 1 <= random.samples <= MOST_TRIALS:
            self._fault(
                ("sweep", "random", "samples"), f"is {random.samples}", f"1 to {MOST_TRIALS}"
            )
            return [{}]
        return [
            {
                key: draw.value(Random(f"{random.seed} {key} {sample}"))
                for key, draw in draws.items()
            }
            for sample in range(random.samples)
        ]  # each by its own name, so that more samples or keys leave the others as they were

    def _draw(self, said: Any, path: KeyPath) -> _Draw:
        """What a key's samples are drawn from: a list, or {low, high, log, whole}."""
        hint = "a list to choose from, or {low: 1e-5, high: 1e-2, log: true}; whole: true draws whole numbers"
        if isinstance(said, list) and said:
            return _Draw(choices=tuple(said))
        if not isinstance(said, dict) or not {"low", "high"} <= said.keys() <= {
            "low",
            "high",
            "log",
            "whole",
        }:
            self._fault(path, f"is {said!r}", hint)
            return _Draw(choices=(None,))
        low, high, log, whole = (
            said["low"],
            said["high"],
            said.get("log", False),
            said.get("whole", False),
        )
        numbers = all(
            isinstance(each, (int, float)) and not isinstance(each, bool) and math.isfinite(each)
            for each in (low, high)
        )
        if not numbers or not low < high or not (isinstance(log, bool) and isinstance(whole, bool)):
            self._fault(path, f"is {said!r}: low and high must be numbers that ascend", hint)
        elif log and low <= 0:
            self._fault(path, f"is {said!r}: what is drawn by its logarithm is above 0", hint)
        elif whole and (int(low) != low or int(high) != high):
            self._fault(path, f"is {said!r}: whole numbers are drawn between whole numbers", hint)
        else:
            return _Draw(low=float(low), high=float(high), log=log, whole=whole)
        return _Draw(choices=(None,))

    def _varies(self, key: str, path: KeyPath) -> bool:
        """Whether trials may differ in this key; what they may not is a fault."""
        section, _, rest = key.partition(".")
        if section in TRAINER_SECTIONS and all(rest.split(".")) and key not in _NOT_VARIED:
            return True
        if section in ("job", "name", "sweep"):
            self._fault(
                path,
                "cannot vary: all trials are pods of one Job",
                f"sections that vary: {', '.join(TRAINER_SECTIONS)}",
            )
        elif key in _NOT_VARIED:
            self._fault(
                path, "cannot vary: an Indexed Job has trials or shards, not both", "leave it out"
            )
        elif section in TRAINER_SECTIONS:
            self._fault(path, f'"{key}" is a section, not a key path', f"{section}.key")
        else:
            hint = (
                did_you_mean(section, TRAINER_SECTIONS)
                or f"its first word is one of {', '.join(TRAINER_SECTIONS)}"
            )
            self._fault(path, f'"{key}" is no key path of the trainer', hint)
        return False

    def _once(self, parts: Sequence[Sequence[Changes]]) -> None:
        """A key varies in one part only."""
        names = [{key for changes in part for key in changes} for part in parts]
        for one, other in itertools.combinations(names, 2):
            for key in sorted(one & other):
                self._fault(
                    ("sweep",),
                    f"varies {key} twice",
                    "list, grid and random are crossed, so each key belongs to one of them",
                )

    def _fault(self, path: KeyPath, message: str, hint: str = "") -> None:
        for length in range(len(path), 0, -1):
            node = find(self.experiment.tree, path[:length])
            if node is not None:
                self.faults.append(fault_at(node, path, message, hint))
                return
        self.faults.append(
            Fault(path=path_text(path), message=message, hint=hint, file=str(self.experiment.path))
        )


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """One key's samples."""

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False

    def value(self, random: Random) -> Any:
        if self.choices:
            return random.choice(self.choices)
        share = random.random()
        if self.whole:
            low, high = (
                (math.log(self.low), math.log(self.high + 1))
                if self.log
                else (self.low, self.high + 1)
            )
            drawn = math.exp(low + share * (high - low)) if self.log else low + share * (high - low)
            return max(int(self.low), min(int(self.high), math.floor(drawn)))
        if self.log:
            return float(
                f"{math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low))):.6g}"
            )
        return float(f"{self.low + share * (self.high - self.low):.6g}")


def _axes(node: Node, path: KeyPath) -> Iterator[tuple[KeyPath, Node]]:
    """The lists of a grid; `--set sweep.grid.train.lr=[...]` makes mappings inside mappings."""
    for key, child in node.value.items() if isinstance(node.value, dict) else ():
        if isinstance(child.value, dict) and child.value:
            yield from _axes(child, (*path, key))
        else:
            yield (*path, key), child


def _flat(conf: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Key path -> value of everything that is set, whole lists and mappings included."""
    found: dict[str, Any] = {}
    for key, value in conf.items():
        found[f"{prefix}{key}"] = value
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
    return found
