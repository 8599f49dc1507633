"""Asks the trainer whether a flat conf is right: `python -m trainer check`, as a process, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


def check(experiment: Experiment, verb: str = "train", trials: Trials | None = None) -> Verdict:
    """The trainer's faults for this verb, each with the file and line of its value, and the defaults it fills in.

    With `trials`, of what all of these make of the conf, in one process; a fault then says in which trials it is.
    """
    with tempfile.TemporaryDirectory() as folder:
        conf, file = Path(folder) / "conf.yaml", Path(folder) / TRIALS_FILE
        conf.write_text(experiment.flat_text, encoding="utf-8")
        if trials:
            file.write_text(trials.text, encoding="utf-8")
        try:
            done = ask("check", "--verb", verb, "--conf", str(conf), "--json", *(["--trials", str(file)] if trials else []))
        except subprocess.TimeoutExpired:
            return Verdict(note=f"the trainer's check took more than {_LIMIT_S} s and was left out")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return Verdict(note=f"the trainer could not check the conf: {_last_line(done.stderr)}")
    faults = tuple(_placed(experiment, fault, trials) for fault in answer.get("faults", []))
    return Verdict(faults=faults, defaults=dict(answer.get("defaults", {})))


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m trainer ...` of the working directory, else of the installation that this launcher is part of."""
    path = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[1])) if part)
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=_LIMIT_S,
        check=False,
        text=True,
    )


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
