"""Submitting a sweep of 1,000 trials, and listing 1,000 runs, beside kubectl in the same run. Prints ratios; asserts nothing about time.

The cluster's part needs KUBECONFIG; the 1,000 Jobs there are made suspended and then said to be complete, so that they cost it no pod.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

import launcher
from launcher.backend_base import Phase, PodStatus
from launcher.backends.local.line_log import LineWriter
from launcher.backends.local.state import State, run_dir, save
from launcher.records import RunRecord

_ROUNDS = 5
_RUNS = 1000
_LOG = b"".join(
    b"train Loss: 0.0710 epoch=%d step=%d lr=1.5e-03 clips_per_s=412.0 eta=1h02m\n"
    % (step // 100, step)
    for step in range(1000)
)
CONF: dict[str, Any] = {
    "name": "many",
    "data": {"name": "tinyvirat", "root": "/nowhere", "frames": 16, "size": 32},
    "model": {"name": "i3d", "mode": "16x32"},
    "job": {
        "image": "registry.example/v:1",
        "code": "image",
        "resources": {"cpu": "100m", "memory": "96Mi", "shm": "8Mi", "scratch": "64Mi"},
        "volumes": [{"claim": "runs", "mount": "/runs", "as": "runs"}],
        "node_selector": {"no-such": "node"},  # no pod of it ever starts
    },
    "sweep": {
        "grid": {
            "train.lr": [round(0.001 * step, 3) for step in range(1, 101)],
            "train.seed": list(range(10)),
        }
    },
}
pytestmark = pytest.mark.bench


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """State and configuration of this bench's own, for us and for the commands."""
    for what in ("STATE", "CONFIG", "CACHE"):
        monkeypatch.setenv(f"XDG_{what}_HOME", str(tmp_path / what))
    return {**os.environ, "PYTHONPATH": str(Path(launcher.__path__[0]).parent)}


@pytest.fixture
def namespace() -> Iterator[str]:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster: KUBECONFIG names none")
    name = f"bench-{secrets.token_hex(3)}"
    subprocess.run(["kubectl", "create", "namespace", name], check=True, capture_output=True)
    wait = [
        "kubectl",
        "wait",
        "--for=create",
        "serviceaccount/default",
        f"--namespace={name}",
        "--timeout=60s",
    ]
    subprocess.run(wait, check=True, capture_output=True)
    yield name
    subprocess.run(
        ["kubectl", "delete", "namespace", name, "--wait=false"], check=True, capture_output=True
    )


def _run(command: list[str], environ: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        command, env=environ, cwd=folder, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _median(action: Callable[[], object]) -> float:
    """Seconds; the first round, which fills the page cache, does not count."""
    times = []
    for _ in range(_ROUNDS + 1):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def test_a_sweep_of_a_thousand_trials(
    tmp_path: Path, environ: dict[str, str], namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expanded, each trial checked by the trainer, asked of admission, created: beside one run of the same conf, and beside kubectl."""
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(CONF))
    environ["KUBECONFIG"] = _here(tmp_path, namespace)
    vidjobs = [sys.executable, "-m", "launcher"]
    sweep = [*vidjobs, "sweep", "submit", "train", "many.yaml", "--cluster", "kube-one"]
    manifest = yaml.safe_load(_run([*sweep, "--dry-run=client"], environ, tmp_path))

    def by_kubectl() -> None:
        manifest["metadata"]["name"] = f"many-train-{secrets.token_hex(3)}"
        (tmp_path / "job.yaml").write_text(json.dumps(manifest))
        _run(["kubectl", "create", f"--namespace={namespace}", "-f", "job.yaml"], environ, tmp_path)

    ours = _median(lambda: _run(sweep, environ, tmp_path))
    one = _median(
        lambda: _run(
            [*vidjobs, "submit", "train", "many.yaml", "--cluster", "kube-one"], environ, tmp_path
        )
    )
    bare = _median(by_kubectl)
    with capsys.disabled():
        print(
            f"\nvidjobs sweep submit, 1,000 trials: {ours:.2f} s; of one run {one:.2f} s ({ours / one:.1f}x)"
        )
        print(f"kubectl create of the same Job:     {bare:.2f} s ({ours / bare:.1f}x)")


def _here(folder: Path, namespace: str) -> str:
    """A kubeconfig whose namespace is this one."""
    config = json.loads(
        _run(
            ["kubectl", "config", "view", "--raw", "--flatten", "--minify", "-o", "json"],
            dict(os.environ),
            folder,
        )
    )
    config["contexts"][0]["context"]["namespace"] = namespace
    (folder / "kubeconfig").write_text(json.dumps(config))
    return str(folder / "kubeconfig")


def test_a_thousand_runs_of_this_machine_are_listed(
    tmp_path: Path, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its record, state and log of a thousand losses; beside a process that reads the same files and does nothing with them."""
    for number in range(_RUNS):
        record = _record(number, "local", "")
        _keep(record)
        files = run_dir(record.run)
        files.root.mkdir(parents=True)
        pod = f"{record.run}-abcde"
        status = PodStatus(
            name=pod, phase=Phase.SUCCEEDED, exit_code=0, finished="2026-01-01T00:00:00Z"
        )
        save(State(run=record.run, phase=Phase.SUCCEEDED, pods=(status,)), files.state)
        log = LineWriter(files.log(pod))
        log.feed(_LOG)
        log.close()
    ours = _median(lambda: _run([sys.executable, "-m", "launcher", "status"], environ, tmp_path))
    read = "import pathlib, sys; [path.read_bytes() for path in pathlib.Path(sys.argv[1]).rglob('*') if path.is_file()]"
    bare = _median(
        lambda: _run([sys.executable, "-c", read, os.environ["XDG_STATE_HOME"]], environ, tmp_path)
    )
    with capsys.disabled():
        print(
            f"\nvidjobs status, 1,000 ended runs of this machine: {ours:.2f} s; only reading their files {bare:.2f} s ({ours / bare:.1f}x)"
        )


def test_a_thousand_runs_of_a_cluster_are_listed(
    tmp_path: Path, environ: dict[str, str], namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ended well, their Jobs still in the cluster, and then gone, which leaves their records; beside `kubectl get jobs`."""
    environ["KUBECONFIG"] = _here(tmp_path, namespace)
    context = json.loads(Path(environ["KUBECONFIG"]).read_text())["current-context"]
    (tmp_path / "many.yaml").write_text(
        yaml.safe_dump({key: value for key, value in CONF.items() if key != "sweep"})
    )
    command = [
        sys.executable,
        "-m",
        "launcher",
        "render",
        "train",
        "many.yaml",
        "--cluster",
        "kube-one",
    ]
    manifest = yaml.safe_load(_run(command, environ, tmp_path))
    jobs = []
    for number in range(_RUNS):
        record = dataclasses.replace(
            _record(number, "kube", namespace), context=context, manifests=[manifest]
        )
        _keep(record)
        text = json.dumps(manifest).replace(manifest["metadata"]["name"], record.run)
        job = json.loads(text)
        job["metadata"]["namespace"] = namespace
        job["spec"]["suspend"] = True
        jobs.append(job)
    _ended(jobs, environ, tmp_path)
    status = [sys.executable, "-m", "launcher", "status"]
    ours = _median(lambda: _run(status, environ, tmp_path))
    bare = _median(lambda: _run(["kubectl", "get", "jobs", "-o", "json"], environ, tmp_path))
    _run(["kubectl", "delete", "jobs", "--all", "--wait=false"], environ, tmp_path)
    gone = _median(lambda: _run(status, environ, tmp_path))
    with capsys.disabled():
        print(
            f"\nvidjobs status, 1,000 ended runs of a cluster: {ours:.2f} s; kubectl get jobs -o json {bare:.2f} s ({ours / bare:.1f}x)"
        )
        print(f"  with their Jobs gone: {gone:.2f} s ({gone / bare:.1f}x)")


def _ended(jobs: list[dict[str, Any]], environ: dict[str, str], folder: Path) -> None:
    """Create the Jobs, and say that they have ended well just now: had they long ago, their time to live would be over."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [
        {
            "type": kind,
            "status": "True",
            "lastTransitionTime": now,
            "lastProbeTime": now,
            "reason": "CompletionsReached",
            "message": "",
        }
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    status = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": conditions}
    ends = [
        {
            **{key: job[key] for key in ("apiVersion", "kind")},
            "metadata": _named(job),
            "status": status,
        }
        for job in jobs
    ]
    for name, items in (("jobs.json", jobs), ("ends.json", ends)):
        (folder / name).write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    _run(["kubectl", "create", "-f", "jobs.json"], environ, folder)
    _run(
        [
            "kubectl",
            "apply",
            "--server-side",
            "--force-conflicts",
            "--subresource=status",
            "-f",
            "ends.json",
        ],
        environ,
        folder,
    )


def _named(job: dict[str, Any]) -> dict[str, str]:
    return {key: job["metadata"][key] for key in ("name", "namespace")}


def _record(number: int, backend: str, namespace: str) -> RunRecord:
    return RunRecord(
        run=f"many-train-a{number:05d}", verb="train", name="many", created=f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}.000000Z",
        backend=backend, cluster="local" if backend == "local" else "kube-one", context="", namespace=namespace, directory="/",
        runs_claim="runs", runs_mount="/runs", conf_text="train: {lr: 1e-3}\n" * 60, manifests=[{"kind": "Job", "spec": {"x": "y" * 8000}}],
    )  # fmt: skip


def _keep(record: RunRecord) -> None:
    from launcher import records

    records.save(record)
