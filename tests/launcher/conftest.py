"""Runs on this machine for the launcher's tests: a Job as `render` makes it, around a small Python script."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import records
from launcher.backend_base import LogLine, Manifest, RunStatus
from launcher.backends.local import reader
from launcher.backends.local.backend import LocalBackend
from launcher.records import RunRecord, state_dir

_POLICY = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": "trainer",
                "operator": "In",
                "values": [64, 65, 73, 76],
            },
        },
    ]
}


class LocalWorld:
    """The local backend with short delays, and what tests do with it."""

    def __init__(self) -> None:
        self.backend = LocalBackend(retry_base_s=0.05)
        self.runs = state_dir() / "local" / "volumes" / "runs"
        self.started: list[str] = []

    def folder(self, run: str) -> Path:
        """The run's folder on the volume."""
        return self.runs / run

    def job(
        self,
        run: str,
        script: str,
        *,
        container: dict[str, Any] | None = None,
        pod: dict[str, Any] | None = None,
        **spec: Any,
    ) -> Manifest:
        """A Job whose trainer is `python -c SCRIPT`, its run folder in `sys.argv[2]`."""
        trainer: dict[str, Any] = {
            "name": "trainer",
            "command": ["python"],
            "args": ["-c", script.replace("$", "$$"), "--run", str(self.folder(run))],
            "env": [
                {"name": "VIDJOBS_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
            ],
            "volumeMounts": [
                {"name": "pvc-runs", "mountPath": str(self.runs)},
                {"name": "conf", "mountPath": self.backend.conf_dir(run)},
            ],
        }
        items = [
            {"path": "conf.yaml", "fieldRef": {"fieldPath": "metadata.annotations['vidjobs/conf']"}}
        ]
        template: dict[str, Any] = {
            "containers": [trainer | (container or {})],
            "terminationGracePeriodSeconds": 5,
            "volumes": [
                {"name": "pvc-runs", "persistentVolumeClaim": {"claimName": "runs"}},
                {"name": "conf", "downwardAPI": {"items": items}},
            ],
        }
        whole = {
            "metadata": {"annotations": {"vidjobs/conf": "name: a\n"}},
            "spec": template | (pod or {}),
        }
        body = {"backoffLimit": 2, "podFailurePolicy": _POLICY, "template": whole} | spec
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": run, "namespace": "here"},
            "spec": body,
        }

    def submit(self, run: str, script: str, **changes: Any) -> RunRecord:
        """Start it, and keep its record as `vidjobs submit` does."""
        self.backend.submit([self.job(run, script, **changes)])
        self.started.append(run)
        record = self.record(run)
        records.save(record)
        return record

    def record(self, run: str) -> RunRecord:
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
            runs_mount=str(self.runs),
        )

    def wait(
        self, run: str, wanted: Callable[[RunStatus], bool] | None = None, seconds: float = 15
    ) -> RunStatus:
        """The status once it is as wanted (by default: ended)."""
        done = wanted or (lambda status: status.phase.ended)
        end = time.monotonic() + seconds
        while not done(status := reader.read_status(run)):
            assert time.monotonic() < end, f"still {status}"
            time.sleep(0.02)
        return status

    def wait_for_file(self, path: Path, seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < end, f"no {path}"
            time.sleep(0.02)

    def log(self, run: str, **options: Any) -> list[LogLine]:
        return list(self.backend.logs(self.record(run), **options))

    def stop_all(self) -> None:
        """Leave no process behind, whatever a test did."""
        for run in self.started:
            state = reader.read_state(run)
            if state:
                for process in (state.supervisor, state.leader):
                    process.send(9)


@pytest.fixture
def world() -> Iterator[LocalWorld]:
    """The local backend in a state folder of this test's own."""
    made = LocalWorld()
    yield made
    made.stop_all()


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """exp.yaml with the module's CONF, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp.yaml").write_text(request.module.CONF)
    return tmp_path / "exp.yaml"
