"""The README names every key of what `--json` prints: programs read these, so a change here is a change for them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher import lint
from launcher.backend_base import Finding, LogLine, Phase, PodStatus, RemoteFile, RunStatus, Volume
from launcher.commands import clusters, submit
from launcher.conf.explain import Setting
from launcher.diffing import Comparison, Difference
from launcher.fetching import Fetched
from launcher.log_view import line_document
from launcher.profiles import load
from launcher.pushing import Pushed
from launcher.records import RunRecord
from launcher.run_view import RunView
from launcher.sweep_view import SweepView, TrialView

_README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
_TABLE = re.search(r"<!-- json -->\n(.*?)<!-- /json -->", _README, re.DOTALL)
_RECORD = RunRecord(
    run="a-train-abcdef",
    verb="train",
    name="a",
    created="2026-01-01T00:00:00Z",
    backend="local",
    cluster="local",
    context="",
    namespace="",
    directory="/here",
    runs_claim="runs",
    runs_mount="/runs",
)
_STATUS = RunStatus(run=_RECORD.run, phase=Phase.RUNNING)
_TRIAL = TrialView(number=0, changes={}, phase="running")


def _fields(kind: Any) -> set[str]:
    return {each.name for each in dataclasses.fields(kind)}


_PRINTED: Mapping[str, set[str]] = {
    "`status` [], `status RUN`": set(
        RunView(run=_RECORD.run, record=_RECORD, status=_STATUS, cluster="local").as_json()
    ),
    "its `pods` []": _fields(PodStatus),
    "`sweep status`": set(
        SweepView(record=_RECORD, status=_STATUS, keys=(), trials=(_TRIAL,)).as_json()
    ),
    "its `trials` []": set(_TRIAL.as_json()),
    "`logs`": set(line_document(LogLine(pod="p", text="t"))),
    # more of them: tests/launcher/test_logs_command.py
    "`logs --parse`": {"phase", "loss", "epoch", "step", "line", "pod"},
    "`submit`, `rerun`": set(submit.document(_RECORD)),
    "`fetch`": {"run", "out", "files"} | _fields(Fetched),
    "`push`": {"claim", "path"} | _fields(Pushed),
    "`diff`": {"a", "b"} | _fields(Comparison) | _fields(Difference),
    "`conf`": {"name", "job", "sweep", "conf", "settings"} | (_fields(Setting) - {"said"}),
    "`lint` []": _fields(lint.Finding),
    "`volume ls` []": _fields(Volume),
    "`volume ls CLAIM` []": _fields(RemoteFile),
    "`doctor` []": _fields(Finding),
    "`clusters` []": set(clusters.document(load("local"))),
}


def _told() -> dict[str, set[str]]:
    assert _TABLE is not None
    rows = [line.strip("| ").split(" | ", 1) for line in _TABLE[1].splitlines()[2:]]
    return {
        row[0]: {word for code in re.findall(r"`([^`]+)`", row[1]) for word in code.split()}
        for row in rows
    }


@pytest.mark.parametrize("what", list(_PRINTED))
def test_the_readme_names_the_keys_of(what: str) -> None:
    beside = (
        {"line", "gap", "truncated"}
        if what == "`logs`"
        else {"--explain"}
        if what == "`conf`"
        else set()
    )
    assert _told()[what] - beside == _PRINTED[what]


def test_the_readme_names_every_document() -> None:
    assert _told().keys() == _PRINTED.keys()


def test_the_readme_names_the_phases() -> None:
    said = re.search(r"A `phase` is one of `([a-z ]+)`, or `unknown`", _README)
    assert said is not None
    assert said[1].split() == [phase.value for phase in Phase]
