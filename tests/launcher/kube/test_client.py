"""Each answer of an API server, and each way not to get one, becomes the right retry or one clear error. A real HTTP server answers."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from launcher.backends.kube.client import KubeClient
from launcher.errors import AdmissionError, ClusterError


@dataclass
class Script:
    """What the server answers, in turn; the last answer for ever. A string instead of a body does something to the connection."""

    answers: list[tuple[int, dict[str, str], Any]]
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.script.seen.append(
            (
                self.command,
                self.path,
                {key.lower(): value for key, value in self.headers.items()},
                body,
            )
        )
        status, headers, answer = self.script.answers[
            min(len(self.script.seen), len(self.script.answers)) - 1
        ]
        if answer == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) + (10 if headers.get("cut") else 0)))
        self.end_headers()
        self.wfile.write(data)
        if headers.get("cut"):
            self.close_connection = True

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815  http.server's names

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def kubeconfig(folder: Path, server: str, user: dict[str, Any]) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [
            {"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "lab"}}
        ],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """A server on this machine, and a kubeconfig that names it."""
    script = Script([(200, {}, {})])
    handler = type("Scripted", (Handler,), {"script": script})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv(
            "KUBECONFIG",
            kubeconfig(
                tmp_path, f"http://127.0.0.1:{listening.server_address[1]}", {"token": "secret"}
            ),
        )
        yield script
        listening.shutdown()


def status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


def test_the_kubeconfigs_login_and_namespace_are_used(server: Script) -> None:
    """Nothing is asked before the first request."""
    client = KubeClient()
    assert server.seen == []
    client.find("Job", "a/../b")
    method, path, headers, _ = server.seen[0]
    assert (method, path) == ("GET", "/apis/batch/v1/namespaces/lab/jobs/a%2F..%2Fb")
    assert headers["authorization"] == "Bearer secret"


def test_a_busy_server_is_asked_again_when_it_says_so(server: Script) -> None:
    """429 with Retry-After, for a POST too: it is refused before anything was done."""
    server.answers = [
        (429, {"Retry-After": "1"}, status(429, "too many")),
        (201, {}, {"kind": "Job"}),
    ]
    start = time.monotonic()
    assert KubeClient().create({"kind": "Job", "metadata": {"name": "x"}}) == {"kind": "Job"}
    assert time.monotonic() - start >= 1.0
    assert len(server.seen) == 2


def test_a_restarting_server_is_asked_again_but_never_twice_for_a_change(server: Script) -> None:
    """503 and a reset connection: GET goes on, POST does not, since it may have been done."""
    server.answers = [
        (503, {}, status(503, "starting")),
        (0, {}, "reset"),
        (200, {}, {"items": []}),
    ]
    assert KubeClient().list("Pod").items == []
    assert len(server.seen) == 3

    server.answers, server.seen[:] = [(0, {}, "reset")], []
    with pytest.raises(ClusterError, match="the connection broke before the answer came"):
        KubeClient().create({"kind": "Job", "metadata": {"name": "x"}})
    assert len(server.seen) == 1


def test_a_login_that_is_refused_is_renewed_once(server: Script) -> None:
    """A token may have expired meanwhile; a second 401 is the person's to solve."""
    server.answers = [(401, {}, status(401, "Unauthorized")), (200, {}, {"items": []})]
    assert KubeClient().list("Pod").items == []
    server.answers, server.seen[:] = [(401, {}, status(401, "Unauthorized"))], []
    with pytest.raises(ClusterError, match="does not accept the login") as refusal:
        KubeClient().list("Pod")
    assert len(server.seen) == 2
    assert '"test"' in refusal.value.hint
    assert refusal.value.status == 401


@pytest.mark.parametrize(
    ("code", "message", "kind", "hint"),
    [
        (
            403,
            'jobs.batch is forbidden: User "u" cannot create resource "jobs" in API group "batch"',
            ClusterError,
            "`create jobs`",
        ),
        (
            403,
            'admission webhook "job.nrp-nautilus.io" denied the request: utilization is too low',
            AdmissionError,
            "rule of this site",
        ),
        (
            403,
            'jobs "x" is forbidden: exceeded quota: q, requested: count/jobs.batch=1',
            AdmissionError,
            "doctor",
        ),
        (
            422,
            'Job.batch "x" is invalid: spec.template.spec.containers[0].image: Required value',
            AdmissionError,
            "vidjobs render",
        ),
        (404, 'namespaces "lab" not found', ClusterError, "namespace"),
    ],
)
def test_a_refusal_keeps_the_servers_whole_message(
    server: Script, code: int, message: str, kind: type[ClusterError], hint: str
) -> None:
    """And says what to do, by what refused it."""
    server.answers = [(code, {}, status(code, message))]
    with pytest.raises(ClusterError) as refusal:
        KubeClient().create({"kind": "Job", "metadata": {"name": "x"}})
    assert type(refusal.value) is kind
    assert message in refusal.value.message
    assert hint in refusal.value.hint
    assert refusal.value.status == code


def test_long_lists_come_page_by_page_and_start_again_when_the_server_forgets(
    server: Script,
) -> None:
    """410 for a page mark: from the top, nothing twice."""
    page = {"metadata": {"continue": "mark", "resourceVersion": "1"}, "items": [{"n": 1}]}
    last = {"metadata": {"resourceVersion": "9"}, "items": [{"n": 2}]}
    server.answers = [
        (200, {}, page),
        (410, {}, status(410, "expired")),
        (200, {}, page),
        (200, {}, last),
    ]
    listing = KubeClient().list("Pod", labels="a=b")
    assert listing.items == [{"n": 1}, {"n": 2}]
    assert listing.version == "9"
    assert "continue=mark" in server.seen[3][1]
    assert "labelSelector=a%3Db" in server.seen[3][1]


@pytest.mark.slow
def test_a_server_that_is_away_and_a_name_that_is_unknown_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is a login problem."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    for name, words in (
        (f"http://127.0.0.1:{port}", "cannot connect"),
        ("http://no-such-host.invalid", "cannot be looked up"),
    ):
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path, name, {"token": "t"}))
        with pytest.raises(ClusterError, match=words) as error:
            KubeClient().list("Pod")
        assert error.value.transient
        assert error.value.status == 0


def test_a_login_command_is_run_again_when_its_token_has_expired(
    server: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exec plugin whose tokens live for no time at all: every request carries a new one."""
    count = tmp_path / "count"
    spoken = {"token": "t%s", "expirationTimestamp": "2020-01-01T00:00:00Z"}
    credential = json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": spoken,
        }
    )
    script = f"echo x >> {count}; printf '{credential}' $(wc -l < {count})"
    command = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", script],
        "interactiveMode": "Never",
    }
    client = KubeClient()
    url = client.server
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path, url, {"exec": command}))
    client = KubeClient()
    client.find("Job", "a")
    client.find("Job", "b")
    tokens = [headers["authorization"] for _, _, headers, _ in server.seen]
    assert len(set(tokens)) == 2


def test_a_login_command_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubernetes package only logs it and goes on without a login."""
    command = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", "echo token refresh failed >&2; exit 1"],
    }
    monkeypatch.setenv(
        "KUBECONFIG",
        kubeconfig(
            tmp_path, "http://127.0.0.1:1", {"exec": command | {"interactiveMode": "Never"}}
        ),
    )
    with pytest.raises(ClusterError, match="token refresh failed") as error:
        KubeClient().list("Pod")
    assert error.value.status == 401


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{}",
        "a: [",
        "clusters: !!python/object:os.x {}",
        '{"current-context": "t", "contexts": [{"name": "t", "context": {"namespace": 1}}]}',
        '{"current-context": "t", "contexts": [{"name": "t", "context": "c"}], "clusters": [], "users": []}',
        '{"current-context": "t", "contexts": [{"name": "t", "context": {"cluster": "c", "user": "u"}}],'
        ' "users": [{"name": "u", "user": {}}],'
        ' "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", "proxy-url": "::::"}}]}',
    ],
)
def test_no_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    """Missing, empty, or damaged in whatever way: which file, and what to set; one line, and no bug of ours."""
    path = tmp_path / "absent"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ClusterError, match=f"no usable kubeconfig: {path}") as error:
        KubeClient().list("Pod")
    assert "\n" not in error.value.message
    assert "KUBECONFIG" in error.value.hint


def test_an_unknown_context_names_the_known_ones(server: Script) -> None:
    """A profile may name a context that this kubeconfig lacks."""
    with pytest.raises(ClusterError, match='no context "nautilus"') as error:
        KubeClient(context="nautilus").list("Pod")
    assert "test" in error.value.hint


def test_an_answer_that_is_cut_short_is_no_answer(server: Script) -> None:
    """Fewer bytes than promised: asked again, never half a list."""
    server.answers = [(200, {"cut": "yes"}, {"items": [1]}), (200, {}, {"items": [{"n": 1}]})]
    assert KubeClient().list("Pod").items == [{"n": 1}]


@pytest.mark.parametrize("code", [200, 302])
def test_a_page_for_people_is_not_taken_for_an_answer(server: Script, code: int) -> None:
    """As a network's login page, or a proxy's."""
    server.answers = [
        (code, {"Content-Type": "text/html", "Location": "/login"}, b"<html>log in</html>")
    ]
    with pytest.raises(
        ClusterError, match=rf"\(HTTP {code}, text/html\) is not an object"
    ) as error:
        KubeClient().list("Pod")
    assert "login page" in error.value.hint
