"""Asks the trainer whether a flat conf is right: `python -m trainer check`, as a process, without torch."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from launcher.conf.nodes import Node, Origin, find, from_plain, merge, nested, plain
from launcher.conf.resolve import SECTIONS, Experiment, key_path
from launcher.conf.schema import TRAINER_SECTIONS
from launcher.errors import Fault
from launcher.render import TRIALS_FILE
from launcher.sweep import Trials, shown

_LIMIT_S = 60


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the trainer said. `note` says why nothing could be asked."""

    faults: tuple[Fault, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)  # key path -> the value that the trainer fills in
    note: str = ""


def all_faults(ours: Sequence[Fault], verdict: Verdict) -> list[Fault]:
    """The launcher's faults and the trainer's, one for each key: of a value that was not resolved the trainer says nothing new."""
    if any(not fault.path for fault in ours):
        return list(ours)  # a file that cannot be read: what it says to the trainer says nothing
    told = {fault.path for fault in ours}
    return list(dict.fromkeys([*ours, *(fault for fault in verdict.faults if fault.path not in told)]))


class Check:
    """`python -m trainer check` as a process. It is started before its conf is known, since it starts as slowly as a conf is read.

    `tell` it the conf once, then ask for its `verdict`; what comes between costs no time. Leaving the context ends it.
    """

    def __init__(self, verb: str = "train", *, trials: bool = False) -> None:
        self.verb, self.with_trials = verb, trials

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._trials_file = Path(self._folder.name) / TRIALS_FILE
        more = ["--trials", str(self._trials_file)] if self.with_trials else []
        self._process = subprocess.Popen(
            _command("check", "--verb", self.verb, "--conf", "/dev/stdin", "--json", *more),
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        with self._process:  # closes its pipes and waits
            self._folder.cleanup()

    def tell(self, experiment: Experiment, trials: Trials | None = None) -> None:
        """Hand it the conf to check for the verb; with trials, what all of these make of it."""
        self._experiment, self._trials = experiment, trials
        if trials:
            self._trials_file.write_text(trials.text, encoding="utf-8")
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:  # one that could not start says why on stderr
            pipe.write(experiment.flat_text)
        self._process.stdin = None  # communicate() would flush it

    def verdict(self) -> Verdict:
        """The trainer's faults, each with the file and line of its value (and its trials), and the defaults it fills in."""
        try:
            said, errors = self._process.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            return Verdict(note=f"the trainer's check took more than {_LIMIT_S} s and was left out")
        try:
            answer = json.loads(said)
        except ValueError:
            return Verdict(note=f"the trainer could not check the conf: {_last_line(errors)}")
        faults = tuple(_placed(self._experiment, fault, self._trials) for fault in answer.get("faults", []))
        return Verdict(faults=faults, defaults=dict(answer.get("defaults", {})))


def check(experiment: Experiment, verb: str = "train", trials: Trials | None = None) -> Verdict:
    """What the trainer says of this conf for this verb; with `trials`, of what all of these make of it."""
    with Check(verb, trials=trials is not None) as asked:
        asked.tell(experiment, trials)
        return asked.verdict()


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m trainer ...` of the working directory, else of the installation that this launcher is part of."""
    return subprocess.run(
        _command(*arguments),
        env=_environment(),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=_LIMIT_S,
        check=False,
        text=True,
    )


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trainer", *arguments]


def _environment() -> dict[str, str]:
    path = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[1])) if part)
    return {**os.environ, "PYTHONPATH": path}


def with_defaults(experiment: Experiment, verdict: Verdict) -> Node:
    """The whole tree with the trainer's defaults as its lowest layer; sections in their usual order."""
    origin = Origin("trainer default")
    lowest = Node({}, origin)
    for path, value in verdict.defaults.items():
        lowest = merge(lowest, nested(key_path(path), from_plain(value, origin)))
    whole = merge(lowest, experiment.tree)
    ordered = {section: whole.value[section] for section in SECTIONS if section in whole.value}
    return Node(ordered, whole.origin)


def filled(experiment: Experiment, verdict: Verdict) -> dict[str, Any]:
    """The flat conf with the trainer's defaults filled in."""
    whole: dict[str, Any] = plain(with_defaults(experiment, verdict))
    return {section: values for section, values in whole.items() if section in TRAINER_SECTIONS}


def _placed(experiment: Experiment, said: dict[str, Any], trials: Trials | None = None) -> Fault:
    path, message = str(said.get("path", "")), str(said.get("message", ""))
    origin = experiment.origin(key_path(path))
    numbers = [int(number) for number in said.get("trials", ())]
    if trials and path in trials.keys:
        origin = _varied_at(experiment, path)
    if trials and 0 < len(numbers) < len(trials):
        others = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
        message = f"{message}, in trial {numbers[0]} ({shown(trials.changes(numbers[0]))}){others}"
    return Fault(path=path, message=message, hint=str(said.get("hint", "")), file=origin.file, line=origin.line)


def _varied_at(experiment: Experiment, key: str) -> Origin:
    """Where the sweep gives a key its values."""
    for above in (("sweep", "grid"), ("sweep", "random", "space")):
        node = find(experiment.tree, (*above, key))
        if node is not None:
            return node.origin
    return experiment.origin(("sweep", "list"))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    if any("No module named trainer" in line for line in lines):
        return "it is not installed here (pip install 'vidjobs[trainer]', or work in a checkout)"
    return lines[-1] if lines else "it said nothing"
