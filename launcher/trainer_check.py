"""Asks the trainer whether a flat conf is right: `python -m trainer check`, as a process, without torch."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher.conf.nodes import Node, Origin, find, from_plain, merge, nested, plain
from launcher.conf.resolve import SECTIONS, Experiment, key_path
from launcher.conf.schema import TRAINER_SECTIONS
from launcher.errors import Fault
from launcher.sweep import Trials, shown
from launcher.trainer_process import LIMIT_S, Checking


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the trainer said. `note` says why nothing could be asked."""

    faults: tuple[Fault, ...] = ()
    # key path -> the value that the trainer fills in
    defaults: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def all_faults(ours: Sequence[Fault], verdict: Verdict) -> list[Fault]:
    """The launcher's faults and the trainer's, one for each key: of a value that was not resolved the trainer says nothing new."""
    if any(not fault.path for fault in ours):
        return list(ours)  # a file that cannot be read: what it says to the trainer says nothing
    told = {fault.path for fault in ours}
    return list(
        dict.fromkeys([*ours, *(fault for fault in verdict.faults if fault.path not in told)])
    )


def verb_of(experiment: Experiment) -> str:
    """What a conf is for where nobody says it: what trains names a model, and a conf without one prepares, fuses or infers."""
    sections = experiment.trainer
    return (
        "train"
        if "model" in sections
        else next((verb for verb in ("fuse", "infer", "prepare") if verb in sections), "train")
    )


def check(experiment: Experiment, verb: str = "train", trials: Trials | None = None) -> Verdict:
    """What the trainer says of this conf for this verb; with `trials`, of what all of these make of it, in one process."""
    with Checking(verb, trials=trials is not None) as asked:
        tell(asked, experiment, trials)
        return verdict(asked, experiment, trials)


def tell(asked: Checking, experiment: Experiment, trials: Trials | None = None) -> None:
    """Hand the conf to a check that runs."""
    asked.tell(experiment.flat_text, trials.text if trials else "")


def verdict(asked: Checking, experiment: Experiment, trials: Trials | None = None) -> Verdict:
    """Its answer: the faults, each with the file and line of its value and the trials that have it, and the defaults it fills in."""
    try:
        said, errors = asked.answer()
    except subprocess.TimeoutExpired:
        return Verdict(note=f"the trainer's check took more than {LIMIT_S} s and was left out")
    try:
        answer = json.loads(said)
    except ValueError:
        return Verdict(note=f"the trainer could not check the conf: {_last_line(errors)}")
    faults = tuple(_placed(experiment, fault, trials) for fault in answer.get("faults", []))
    return Verdict(faults=faults, defaults=dict(answer.get("defaults", {})))


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
    return Fault(
        path=path,
        message=message,
        hint=str(said.get("hint", "")),
        file=origin.file,
        line=origin.line,
    )


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
