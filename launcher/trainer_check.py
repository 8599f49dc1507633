"""Asks the trainer whether a flat conf is right: `python -m trainer check`, as a process, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.conf.nodes import Node, Origin, find, from_plain
from launcher.conf.resolve import Experiment, key_path
from launcher.errors import Fault

_LIMIT_S = 60


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the trainer said. `note` says why nothing could be asked."""

    faults: tuple[Fault, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)  # key path -> the value that the trainer fills in
    note: str = ""


def check(experiment: Experiment) -> Verdict:
    """The trainer's faults, each with the file and line of its value, and the defaults it fills in."""
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "conf.yaml"
        conf.write_text(experiment.flat_text, encoding="utf-8")
        command = [sys.executable, "-m", "trainer", "check", "--conf", str(conf), "--json"]
        try:
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_LIMIT_S, check=False, text=True)
        except subprocess.TimeoutExpired:
            return Verdict(note=f"the trainer's check took more than {_LIMIT_S} s and was left out")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return Verdict(note=f"the trainer could not check the conf: {_last_line(done.stderr)}")
    faults = tuple(_placed(experiment, fault) for fault in answer.get("faults", []))
    return Verdict(faults=faults, defaults=dict(answer.get("defaults", {})))


def filled(experiment: Experiment, verdict: Verdict) -> dict[str, Any]:
    """The trainer's sections with its defaults filled in, sections and keys as the trainer orders them after those that were set."""
    whole: dict[str, Any] = {
        section: dict(values) if isinstance(values, dict) else values for section, values in experiment.trainer.items()
    }
    for path, value in verdict.defaults.items():
        section, _, key = path.partition(".")
        if key and isinstance(whole.setdefault(section, {}), dict):
            whole[section].setdefault(key, value)
    return whole


def with_defaults(experiment: Experiment, verdict: Verdict) -> Node:
    """The whole tree with the trainer's defaults as its lowest layer."""
    tree = dict(experiment.tree.value)
    for path, value in verdict.defaults.items():
        section, _, key = path.partition(".")
        node = tree.setdefault(section, Node({}, Origin("trainer default")))
        if key and isinstance(node.value, dict) and find(node, (key,)) is None:
            tree[section] = Node({**node.value, key: from_plain(value, Origin("trainer default"))}, node.origin)
    return Node(tree, experiment.tree.origin)


def _placed(experiment: Experiment, said: dict[str, Any]) -> Fault:
    path = str(said.get("path", ""))
    origin = experiment.origin(key_path(path))
    return Fault(path=path, message=str(said.get("message", "")), hint=str(said.get("hint", "")), file=origin.file, line=origin.line)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    if any("No module named trainer" in line for line in lines):
        return "it is not installed here (pip install 'vidjobs[trainer]', or work in a checkout)"
    return lines[-1] if lines else "it said nothing"
