"""The helper pod goes away however its work ends, and a server that is away at the end does not undo what was done."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from launcher.backends.kube.client import KubeClient, Listing
from launcher.backends.kube.helper_pod import HelperSpec, helper_pod
from launcher.errors import ClusterError

SPEC = HelperSpec(image="i", claim="runs", mount="/runs")


@dataclass
class Cluster:
    """A namespace in which every pod runs at once."""

    namespace: str = "lab"
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    made: int = 0
    refuses: ClusterError | None = None  # what it says to a deletion

    def list(self, kind: str, *, labels: str) -> Listing:  # noqa: ARG002
        return Listing(items=[], version="1")

    def create(self, manifest: dict[str, Any]) -> None:
        self.made += 1
        running = {
            "phase": "Running",
            "containerStatuses": [{"name": "files", "state": {"running": {}}}],
        }
        self.pods[manifest["metadata"]["name"]] = manifest | {"status": running}

    def get(self, kind: str, name: str) -> dict[str, Any]:  # noqa: ARG002
        return self.pods[name]

    def delete(self, kind: str, name: str) -> None:  # noqa: ARG002
        if self.refuses:
            raise self.refuses
        del self.pods[name]


def client(cluster: Cluster) -> KubeClient:
    return cast("KubeClient", cluster)


@contextmanager
def handled(number: signal.Signals, how: signal.Handlers) -> Iterator[None]:
    """Whatever this process began with: under nohup SIGHUP is ignored."""
    before = signal.signal(number, how)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_closed_terminal_leaves_no_pod(number: signal.Signals) -> None:
    cluster = Cluster()
    with handled(number, signal.SIG_DFL):
        with pytest.raises(KeyboardInterrupt), helper_pod(client(cluster), SPEC):
            os.kill(os.getpid(), number)
        assert (cluster.made, cluster.pods) == (1, {})
        assert signal.getsignal(number) is signal.SIG_DFL


def test_what_was_asked_to_outlive_its_terminal_does() -> None:
    """As under nohup."""
    with handled(signal.SIGHUP, signal.SIG_IGN), helper_pod(client(Cluster()), SPEC):
        os.kill(os.getpid(), signal.SIGHUP)


def test_a_server_that_is_away_at_the_end_hides_neither_success_nor_the_error() -> None:
    cluster = Cluster(refuses=ClusterError("cannot connect", transient=True))
    with helper_pod(client(cluster), SPEC):
        pass
    with pytest.raises(ValueError, match="the work's own"), helper_pod(client(cluster), SPEC):
        raise ValueError("the work's own")


def test_a_right_that_is_missing_is_told() -> None:
    cluster = Cluster(refuses=ClusterError("not allowed", status=403))
    with pytest.raises(ClusterError, match="not allowed"), helper_pod(client(cluster), SPEC):
        pass


def test_whoever_waits_for_a_pod_is_told_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once for each reason; and the last one is the error's."""
    monkeypatch.setattr("launcher.backends.kube.helper_pod._START_S", 1.0)
    monkeypatch.setattr("launcher.backends.kube.helper_pod._QUIET_S", 0.1)
    message = "0/3 nodes are available: 3 Insufficient cpu."

    class Crowded(Cluster):
        def get(self, kind: str, name: str) -> dict[str, Any]:
            waits = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
            }
            return super().get(kind, name) | {"status": {"phase": "Pending", "conditions": [waits]}}

        def find(self, kind: str, name: str) -> dict[str, Any]:  # noqa: ARG002
            return {"status": {"phase": "Bound"}, "spec": {}}

    with (
        pytest.raises(
            ClusterError, match=r"does not start: no node can take it: .*Insufficient cpu"
        ),
        helper_pod(client(Crowded()), SPEC),
    ):
        pass
    assert (
        capsys.readouterr().err.count(
            "waits: no node can take it: 0/3 nodes are available: 3 Insufficient cpu"
        )
        == 1
    )


def test_an_image_without_python_is_named_as_the_cause() -> None:
    said = 'exec: "python": executable file not found in $PATH: unknown'
    ended = {
        "exitCode": 128,
        "reason": "StartError",
        "message": said,
        "startedAt": "2026-01-01T00:00:00Z",
    }

    class WithoutPython(Cluster):
        def get(self, kind: str, name: str) -> dict[str, Any]:
            failed = {
                "phase": "Failed",
                "containerStatuses": [{"name": "files", "state": {"terminated": ended}}],
            }
            return super().get(kind, name) | {"status": failed}

    cluster = WithoutPython()
    with (
        pytest.raises(ClusterError, match="executable file not found") as told,
        helper_pod(client(cluster), SPEC),
    ):
        pass
    assert "Python" in told.value.hint
    assert cluster.pods == {}
