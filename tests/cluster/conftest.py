"""A namespace of one's own on the cluster that KUBECONFIG names, and small pods in it."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import training_lab
from locks import sharing
from researcher import kubectl
from small_image import small_image

from launcher.backend_base import RunStatus
from launcher.backends.kube.backend import KubeBackend
from launcher.profiles import ClusterProfile
from launcher.records import RunRecord

BRIDGE = Path("/sys/class/net/kube0")
_SET = "3"  # NET_ADDR_SET of Linux


@dataclass(frozen=True)
class Lab:
    """A namespace, an image with sh and python, and the backend under test."""

    namespace: str
    image: str
    backend: KubeBackend

    def job(
        self, script: str, *, retries: int = 0, container: dict[str, Any] | None = None, **spec: Any
    ) -> dict[str, Any]:
        """A Job in a run's shape whose trainer runs a shell script, Pod Security `restricted` clean; `spec` goes to its pod."""
        run = f"t-{secrets.token_hex(3)}"
        trainer = {
            "name": "trainer",
            "image": self.image,
            "command": ["sh", "-c", script],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
            **(container or {}),
        }
        ids = {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        pod = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "securityContext": ids,
            "containers": [trainer],
            **spec,
        }
        labels = {"vidjobs/run": run, "app.kubernetes.io/managed-by": "vidjobs"}
        template = {"metadata": {"labels": labels}, "spec": pod}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": run, "labels": labels},
            "spec": {
                "backoffLimit": retries,
                "podReplacementPolicy": "Failed",
                "template": template,
            },
        }

    def record(self, job: dict[str, Any], claim: str = "runs") -> RunRecord:
        """The record that `vidjobs submit` would have kept."""
        return RunRecord(
            run=job["metadata"]["name"], verb="train", name="t", created="2026-01-01T00:00:00Z", backend="kube", cluster="test",
            context="", namespace=self.namespace, directory="/", runs_claim=claim, runs_mount="/runs", manifests=[job],
        )  # fmt: skip

    def submit(self, script: str, **options: Any) -> RunRecord:
        job = self.job(script, **options)
        self.backend.submit([job])
        return self.record(job)

    def wait(
        self, record: RunRecord, wanted: Callable[[RunStatus], bool], seconds: float = 60
    ) -> RunStatus:
        """The first status that is as wanted."""
        until = time.monotonic() + seconds
        while not wanted(status := self.backend.status(record)):
            assert time.monotonic() < until, f"after {seconds} s: {status}"
            time.sleep(0.3)
        return status

    def claim(self, name: str, size: str = "64Mi") -> dict[str, Any]:
        """Make a claim; pod fields that mount it at /runs."""
        self.backend.create_volume(name, size=size, access="ReadWriteOnce")
        return mounted(name)


def mounted(claim: str) -> dict[str, Any]:
    """Arguments of `submit` that mount the claim at /runs."""
    return {
        "container": {"volumeMounts": [{"name": "runs", "mountPath": "/runs"}]},
        "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": claim}}],
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that train come first, for they take longest; those that stop parts of the node last, for they run alone."""
    training = {item.path for item in items if "lab" in item.fixturenames}
    items.sort(
        key=lambda item: (
            item.get_closest_marker("disturbs") is not None,
            item.path not in training,
        )
    )


@pytest.fixture(scope="module", autouse=True)
def _node(request: pytest.FixtureRequest) -> Iterator[None]:
    """Files run side by side, in processes of `pytest -n` or of other people; one that stops parts of the node waits until it is alone."""
    with sharing("node", alone=request.node.get_closest_marker("disturbs") is not None):
        yield


@pytest.fixture(scope="session")
def _cluster() -> None:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip('no cluster: eval "$(../shared/kube/cluster env)" after `cluster up`')
    _hold_the_bridges_address()


def _hold_the_bridges_address() -> None:
    """So that pods of the one-node cluster do not lose its host, which is their name server, whenever another pod comes or goes.

    A bridge has the lowest hardware address of its ports, until it is given one: else pods that are there send to the old one for as long
    as they remember it, 15 to 60 s.
    """
    given = BRIDGE / "addr_assign_type"
    if given.exists() and given.read_text().strip() != _SET:
        subprocess.run(
            ["ip", "link", "set", "dev", BRIDGE.name, "address", "02:00:0a:58:00:01"], check=True
        )


@pytest.fixture(scope="session")
def small(_cluster: None) -> str:
    """The name of an image with sh and python that the cluster has."""
    return os.environ.get("VIDJOBS_TEST_IMAGE") or small_image()


@pytest.fixture(scope="module")
def kube(small: str) -> Iterator[Lab]:
    """A fresh namespace, gone afterwards."""
    namespace = f"vidjobs-{secrets.token_hex(3)}"
    kubectl("create", "namespace", namespace)
    try:
        kubectl(
            "wait",
            "--for=create",
            "serviceaccount/default",
            f"--namespace={namespace}",
            "--timeout=60s",
        )  # without it no pod is admitted
        yield Lab(namespace, small, KubeBackend(ClusterProfile(name="test", namespace=namespace)))
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="module")
def lab(_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[training_lab.Lab]:
    """What trainings need: the job image, code on a git server, data on a volume."""
    with training_lab.opened(tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("git")) as lab:
        yield lab
