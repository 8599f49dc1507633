"""Which of a run's pods a log is of: the newest that has one, also while the next attempt waits. A real HTTP server answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from log_server import kubeconfig

from launcher import log_spool
from launcher.backend_base import LogLine
from launcher.backends.kube.client import KubeClient
from launcher.backends.kube.kept_logs import KeptLogs
from launcher.backends.kube.logs import JobLogs
from launcher.run_view import _losses


@dataclass
class Cluster:
    """One Job's pods: name -> state of the trainer's container. Each log is three lines with the pod's name."""

    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended: bool = False
    asked: list[str] = field(default_factory=list)  # pods whose log was

    def pod(self, name: str) -> dict[str, Any]:
        state = self.pods[name]
        meta = {
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "creationTimestamp": f"2026-01-01T00:00:{int(name[1:]):02d}Z",
        }
        status = {
            "phase": "Failed" if "terminated" in state else "Pending",
            "containerStatuses": [{"name": "trainer", "state": state}],
        }
        return {"metadata": meta, "spec": {"containers": [{"name": "trainer"}]}, "status": status}

    def answer(self, url: str) -> bytes | None:
        *_, kind, name = urlsplit(url).path.split("/")
        if name == "pods":
            return json.dumps(
                {
                    "metadata": {"resourceVersion": "1"},
                    "items": [self.pod(each) for each in self.pods],
                }
            ).encode()
        if kind == "jobs":
            conditions = [{"type": "Failed", "status": "True"}] if self.ended else []
            return json.dumps(
                {"metadata": {"name": name}, "spec": {}, "status": {"conditions": conditions}}
            ).encode()
        if name == "log":
            self.asked.append(kind)
            lines = [
                b"2026-01-01T00:00:0%d.000000000Z %s %d\n" % (number, kind.encode(), number)
                for number in (1, 2, 3)
            ]
            return b"".join(lines[-int(parse_qs(urlsplit(url).query).get("tailLines", ["3"])[0]) :])
        return json.dumps(self.pod(name)).encode() if name in self.pods else None


WAITING: dict[str, Any] = {"waiting": {"reason": "ContainerCreating"}}
OVER = {"terminated": {"exitCode": 75, "startedAt": "2026-01-01T00:00:00Z"}}
# taken away before its container began
NEVER = {"terminated": {"exitCode": 137, "startedAt": None}}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Runs are kept in a state folder of the test's own."""
    there = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = there.answer(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"{}")))
            self.end_headers()
            self.wfile.write(body or b"{}")

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv(
            "KUBECONFIG", str(kubeconfig(tmp_path, f"http://127.0.0.1:{server.server_address[1]}"))
        )
        yield there
        server.shutdown()


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[str]:
    name = request.node.name
    yield name
    log_spool.forget(name)


def logs(run: str, *, tail: int | None = None) -> JobLogs:
    return JobLogs(client=KubeClient(), run=run, tail=tail, kept=KeptLogs(run=run))


def texts(lines: Iterator[LogLine]) -> list[str]:
    return [line.text for line in lines]


@pytest.mark.parametrize("newest", [WAITING, NEVER])
def test_while_the_next_attempt_waits_the_log_is_that_of_the_one_before(
    cluster: Cluster, run: str, newest: dict[str, Any]
) -> None:
    """For hours, on a shared cluster: what the training has come to must not be out of sight meanwhile."""
    cluster.pods = {"p1": OVER, "p2": OVER, "p3": newest}
    assert texts(logs(run).read(all_pods=False)) == ["p2 1", "p2 2", "p2 3"]
    assert texts(logs(run).read(all_pods=True)) == ["p1 1", "p2 1", "p1 2", "p2 2", "p1 3", "p2 3"]


def test_a_follow_shows_the_attempt_before_and_then_the_next_one_from_its_start(
    cluster: Cluster, run: str
) -> None:
    """A tail is one of the log that is there: of what begins later nothing is left out."""
    cluster.pods = {"p1": OVER, "p2": WAITING}
    lines = logs(run, tail=2).follow(all_pods=False)
    assert [next(lines).text, next(lines).text] == ["p1 2", "p1 3"]
    cluster.pods["p2"], cluster.ended = OVER, True
    assert texts(lines) == ["p2 1", "p2 2", "p2 3"]


def test_an_attempt_that_was_deleted_is_shown_as_it_was_seen_here(
    cluster: Cluster, run: str
) -> None:
    """As a preempted pod is: nothing but this machine's copy has its lines."""
    cluster.pods, cluster.ended = {"p1": OVER}, True
    assert texts(logs(run).follow(all_pods=False)) == ["p1 1", "p1 2", "p1 3"]
    cluster.pods, cluster.ended = {"p2": WAITING}, False
    assert texts(logs(run).read(all_pods=False)) == ["p1 1", "p1 2", "p1 3"]
    assert texts(logs(run, tail=1).read(all_pods=False)) == ["p1 3"]
    cluster.pods = {}
    assert texts(logs(run).read(all_pods=False)) == ["p1 1", "p1 2", "p1 3"]


def test_a_run_that_has_not_begun_has_no_line(cluster: Cluster, run: str) -> None:
    cluster.pods = {"p1": WAITING}
    assert texts(logs(run).read(all_pods=False)) == []
    assert cluster.asked == []


def test_many_pods_that_are_over_are_not_all_asked_at_once(cluster: Cluster, run: str) -> None:
    """A sweep of a thousand trials is followed without a thousand connections; what still runs is merged as ever."""
    cluster.pods = {f"p{number}": OVER for number in range(40)}
    cluster.ended = True
    shown = texts(logs(run).follow(all_pods=True))
    assert shown == [f"p{number} {line}" for number in range(40) for line in (1, 2, 3)]
    assert cluster.asked == list(cluster.pods)


def test_what_was_not_followed_to_its_end_is_marked_and_is_not_how_far_a_run_is(
    cluster: Cluster, run: str
) -> None:
    """Somebody looked at the first lines, as `logs -f | head` does; then the pod was preempted."""
    cluster.pods = {"p1": {"running": {}}}
    lines = logs(run).follow(all_pods=False)
    next(lines)
    lines.close()  # type: ignore[attr-defined]
    cluster.pods = {"p2": WAITING}
    seen = list(logs(run, tail=1).read(all_pods=False))
    assert [line.kind for line in seen] == ["line", "gap"]
    assert _losses([LogLine(pod="p1", text="train Loss: 1.5 step=3"), *seen]) == []
    assert len(_losses([*seen, LogLine(pod="p2", text="train Loss: 1.5 step=3")])) == 1
