"""A rendered Job around a small Python script, and a backend that runs it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.backend_base import Manifest, Phase, RunStatus
from launcher.backends.local import reader
from launcher.backends.local.backend import LocalBackend
from launcher.records import RunRecord, state_dir

MakeJob = Callable[..., Manifest]


def wait_for(run: str, wanted: Callable[[RunStatus], bool], seconds: float = 10) -> RunStatus:
    """Poll until the run's status is as wanted."""
    end = time.monotonic() + seconds
    while True:
        status = reader.read_status(run)
        if wanted(status):
            return status
        assert time.monotonic() < end, f"still {status}"
        time.sleep(0.02)


def ended(status: RunStatus) -> bool:
    return status.phase.ended


def running(status: RunStatus) -> bool:
    return status.phase is Phase.RUNNING


def job(run: str, script: str, **changes: Any) -> Manifest:
    """A Job whose trainer is `python -c SCRIPT`; `changes` go into the Job's spec, `pod` and `container` further in."""
    runs = state_dir() / "local" / "volumes" / "runs"
    conf = state_dir() / "local" / "runs" / run / "conf"
    container = {
        "name": "trainer",
        "command": ["python"],
        "args": ["-c", script.replace("$", "$$"), "--run", f"{runs}/{run}"],
        "env": [{"name": "VIDJOBS_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [{"name": "pvc-runs", "mountPath": str(runs)}, {"name": "conf", "mountPath": str(conf)}],
        **changes.pop("container", {}),
    }
    items = [{"path": "conf.yaml", "fieldRef": {"fieldPath": "metadata.annotations['vidjobs/conf']"}}]
    pod = {
        "containers": [container],
        "terminationGracePeriodSeconds": 5,
        "volumes": [
            {"name": "pvc-runs", "persistentVolumeClaim": {"claimName": "runs"}},
            {"name": "conf", "downwardAPI": {"items": items}},
        ],
        **changes.pop("pod", {}),
    }
    policy = {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [64, 65, 73, 76]}},
        ]
    }
    template = {"metadata": {"annotations": {"vidjobs/conf": "name: a\n"}}, "spec": pod}
    spec = {"backoffLimit": 2, "podFailurePolicy": policy, "template": template, **changes}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": run, "namespace": "here"}, "spec": spec}


def record(run: str) -> RunRecord:
    """The record of a run, as `submit` would keep it."""
    return RunRecord(
        run=run,
        verb="train",
        name="a",
        created="2026-01-01T00:00:00Z",
        backend="local",
        cluster="local",
        context="",
        namespace="",
        directory=str(Path.cwd()),
        runs_claim="runs",
        runs_mount=str(state_dir() / "local" / "volumes" / "runs"),
    )


@pytest.fixture
def backend() -> LocalBackend:
    return LocalBackend(retry_base_s=0.05)


assert sys.version_info >= (3, 11)
