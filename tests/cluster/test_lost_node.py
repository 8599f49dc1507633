"""A node of which nobody hears any more: its kubelet is stopped. A file of its own, since nothing else may run beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import Lab, mounted
from researcher import get, kubectl

from launcher.backend_base import Phase, RunStatus

pytestmark = [pytest.mark.cluster, pytest.mark.disturbs]

TRAINER = """
[ ! -e /runs/saved ] || { echo goes on; sleep 600; }
trap 'touch /runs/saved; exit 75' TERM
sleep 600 & wait
"""


def _cluster(*arguments: str) -> None:
    program = (
        os.environ.get("KUBE_CLUSTER")
        or shutil.which("cluster")
        or Path(__file__).resolve().parents[3] / "shared" / "kube" / "cluster"
    )
    if not Path(program).exists():
        pytest.skip("KUBE_CLUSTER names no program that stops a kubelet")
    subprocess.run([program, *arguments], check=True, capture_output=True)


def _give_up(namespace: str, pod: str) -> None:
    """As the taint-eviction controller does. Here it leaves that to us: when all nodes are lost, Kubernetes suspects itself and waits."""
    # one without a time is taken for stale, and taken back
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "lastTransitionTime": now,
    }
    patch = json.dumps({"status": {"conditions": [condition]}})
    kubectl(
        "patch", "pod", pod, f"--namespace={namespace}", "--subresource=status", f"--patch={patch}"
    )
    kubectl("delete", "pod", pod, f"--namespace={namespace}", "--wait=false")


def test_a_lost_node(kube: Lab) -> None:
    """`node X lost, waiting`, also while Kubernetes gives the pod up; when the node is back, a new attempt goes on."""
    kube.claim("runs")
    record = kube.submit(TRAINER, retries=2, **mounted("runs"))
    first = kube.wait(record, lambda status: status.phase is Phase.RUNNING).pods[0].name
    node = get("nodes")["items"][0]["metadata"]["name"]
    _cluster("stop", "kubelet")
    try:
        status = kube.wait(record, lambda status: "lost" in status.cause, seconds=90)
        assert status.cause == f"node {node} lost, waiting"
        assert f"vidjobs rerun {record.run}" in status.fix
        _give_up(kube.namespace, first)
        assert kube.backend.status(record).cause == f"node {node} lost, waiting"
    finally:
        _cluster("start", "kubelet")

    def goes_on(status: RunStatus) -> bool:
        return status.phase is Phase.RUNNING and status.pods[-1].name != first and not status.cause

    kube.wait(record, goes_on, seconds=180)
    assert next(kube.backend.logs(record, follow=True)).text == "goes on"
    kube.backend.delete(record)
