"""Each supported version of the kubernetes package works through the one adapter: login, proxy, follow, and exec where there is a cluster.

Each is installed into a folder of its own (30 to 130 MB, a few seconds) and put before the one that the tests run with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from log_server import kubeconfig

PROJECT = Path(__file__).resolve().parents[2]
VERSIONS = ("35", "36", "37")
pytestmark = pytest.mark.slow

PROGRAM = """
import json, sys
from importlib.metadata import version
from launcher.backends.kube.client import KubeClient
from launcher.backends.kube.container_log import ContainerLog

client = KubeClient()
pods = [pod["metadata"]["name"] for pod in client.list("Pod").items]
lines = ContainerLog(client=client, pod="p", uid="u-1", container="trainer", pace_s=0.0).lines(follow=True)
seen = [(line.text, line.terminated) for line in lines]
events = [kind for kind, pod in client.watch("Pod", version="1", timeout_s=1)]
print(json.dumps({"version": version("kubernetes"), "pods": pods, "lines": seen, "events": events, "namespace": client.namespace}))
"""
EXEC = """
import json, sys
from importlib.metadata import version
from launcher.backends.kube.backend import KubeBackend
from launcher.backends.kube.exec import run_command
from launcher.backends.kube.logs import JobLogs
from launcher.profiles import ClusterProfile

backend = KubeBackend(ClusterProfile(name="test", namespace=sys.argv[1]))
pod = backend.client.list("Pod").items[0]["metadata"]["name"]
said = b"".join(run_command(backend.client, pod, "trainer", ["sh", "-c", "head -c 3000000 /dev/zero; touch /tmp/stop"]))
lines = [line.text for line in JobLogs(client=backend.client, run=sys.argv[2]).follow(all_pods=False)]
assert "kubernetes" in sys.modules
print(json.dumps({"version": version("kubernetes"), "bytes": len(said), "lines": lines}))
"""


@pytest.fixture(scope="module", params=VERSIONS)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with this version of the package and what it needs."""
    folder = tmp_path_factory.mktemp(f"kubernetes{request.param}")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--disable-pip-version-check",
        "--target",
        str(folder),
    ]
    done = subprocess.run(
        [*install, f"kubernetes=={request.param}.*"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1][:200]}")
    return str(folder)


def run(package: str, program: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """What the program prints with this version; warnings of the package are its own."""
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    env = clean | {"PYTHONPATH": os.pathsep.join((package, str(PROJECT)))} | environment
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


POD = {
    "metadata": {"name": "p", "uid": "u-1", "resourceVersion": "1"},
    "spec": {"containers": [{"name": "trainer"}]},
    "status": {
        "phase": "Succeeded",
        "containerStatuses": [{"name": "trainer", "state": {"terminated": {"startedAt": "then"}}}],
    },
}
LOG = (
    b"2026-11-21T12:00:00.500000000Z one\n2026-11-21T12:00:01.500000000Z \r10%\rTraceback: CUDA OOM"
)


class _Server(BaseHTTPRequestHandler):
    """Takes only the newest token of the login command; as a proxy it takes the whole address."""

    protocol_version = "HTTP/1.1"
    refused: int
    seen: list[str]
    tokens: Path

    def do_GET(self) -> None:
        self.seen.append(self.path)
        count = len(self.tokens.read_text().split()) if self.tokens.exists() else 0
        if (
            len(self.seen) <= self.refused
            or self.headers["authorization"] != f"Bearer token-{count}"
        ):
            self._answer(401, b'{"kind": "Status", "code": 401, "message": "Unauthorized"}')
        elif "watch=true" in self.path:
            self._answer(200, json.dumps({"type": "ADDED", "object": POD}).encode() + b"\n")
        elif "/log" in self.path:
            self._answer(200, LOG)
        else:
            listing = {"items": [POD], "metadata": {"resourceVersion": "1"}}
            self._answer(200, json.dumps(POD if "/pods/p" in self.path else listing).encode())

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[type[_Server]]:
    """A server, and in `tmp_path` a kubeconfig whose login command gives a token that lives an hour, another one each time it is run."""
    tokens = tmp_path / "tokens"
    handler = type("Handler", (_Server,), {"refused": 0, "seen": [], "tokens": tokens})
    spoken = {"token": "token-%s", "expirationTimestamp": "2096-01-01T00:00:00Z"}
    credential = json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": spoken,
        }
    )
    script = f"echo x >> {tokens}; printf '{credential}' $(wc -l < {tokens})"
    command = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", script],
        "interactiveMode": "Never",
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        handler.address = f"http://127.0.0.1:{listening.server_address[1]}"  # type: ignore[attr-defined]
        kubeconfig(tmp_path, handler.address, {"exec": command})  # type: ignore[attr-defined]
        yield handler
        listening.shutdown()


def expected(package: str) -> dict[str, Any]:
    lines = [["one", True], ["\r10%\rTraceback: CUDA OOM", False]]
    return {"pods": ["p"], "lines": lines, "events": ["ADDED"], "namespace": "lab"}


def test_login_command_follow_and_watch(
    package: str, server: type[_Server], tmp_path: Path
) -> None:
    """The login command is run once for many requests, and again when its token is refused; the unterminated last line comes."""
    config = str(tmp_path / "kubeconfig")
    said = run(package, PROGRAM, KUBECONFIG=config)
    assert f"kubernetes{said.pop('version').split('.')[0]}" in package
    assert said == expected(package)
    assert server.tokens.read_text().split() == ["x"]
    server.seen.clear()
    server.refused = 1
    assert run(package, PROGRAM, KUBECONFIG=config)["pods"] == ["p"]
    assert len(server.tokens.read_text().split()) == 3


def test_proxies_of_the_environment_and_of_the_kubeconfig(
    package: str, server: type[_Server], tmp_path: Path
) -> None:
    """A proxy is asked with the whole address; NO_PROXY goes past it, one for https is not for http, the kubeconfig's own comes first."""
    proxy = server.address  # type: ignore[attr-defined]
    far = "http://cluster.example.invalid:6443"
    config = json.loads((tmp_path / "kubeconfig").read_text())
    command = config["users"][0]["user"]["exec"]
    own = str(tmp_path / "kubeconfig")
    assert run(
        package, PROGRAM, KUBECONFIG=own, HTTP_PROXY="http://127.0.0.1:9", NO_PROXY="127.0.0.1"
    )["pods"] == ["p"]
    assert run(package, PROGRAM, KUBECONFIG=own, HTTPS_PROXY="http://127.0.0.1:9")["pods"] == ["p"]
    kubeconfig(tmp_path, far, {"exec": command})
    server.seen.clear()
    assert (
        run(package, PROGRAM, KUBECONFIG=own, HTTP_PROXY=proxy)["lines"]
        == expected(package)["lines"]
    )
    assert all(path.startswith(far) for path in server.seen)
    kubeconfig(tmp_path, far, {"exec": command}, **{"proxy-url": proxy})
    assert run(package, PROGRAM, KUBECONFIG=own, HTTP_PROXY="http://127.0.0.1:9")["pods"] == ["p"]


@pytest.mark.cluster
def test_exec_and_follow_on_a_real_cluster(package: str, tmp_path: Path) -> None:
    """Client certificates, three megabytes through a WebSocket, and a log to its last unterminated line."""
    from conftest import Lab
    from locks import sharing
    from researcher import kubectl
    from small_image import small_image

    from launcher.backends.kube.backend import KubeBackend
    from launcher.profiles import ClusterProfile

    if not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster: KUBECONFIG is not set")
    namespace = f"vidjobs-{Path(package).name[-8:].lower().strip('-')}"
    with sharing("node", alone=False):
        kubectl("create", "namespace", namespace)
        try:
            lab = Lab(
                namespace,
                os.environ.get("VIDJOBS_TEST_IMAGE") or small_image(),
                KubeBackend(ClusterProfile(name="t", namespace=namespace)),
            )
            record = lab.submit("echo one; until [ -e /tmp/stop ]; do sleep 0.2; done; printf two")
            lab.wait(record, lambda status: status.phase == "running")
            config = json.loads(kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
            # so that the package reads it, not kubeconfig.py
            config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = False
            (tmp_path / "kubeconfig").write_text(json.dumps(config))
            said = run(
                package, EXEC, namespace, record.run, KUBECONFIG=str(tmp_path / "kubeconfig")
            )
        finally:
            kubectl("delete", "namespace", namespace, "--wait=false")
    assert (said["bytes"], said["lines"]) == (3_000_000, ["one", "two"])
