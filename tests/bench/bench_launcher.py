"""The launcher beside kubectl in one run: a log followed through grep, and a submit until its Job exists. Prints ratios; asserts none.

`--help` beside torchx and `render` are in bench_startup.py, a sweep of 1,000 trials and a list of 1,000 runs in bench_sweep.py.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from launcher.records import RunRecord

pytestmark = pytest.mark.bench

PROJECT = Path(__file__).resolve().parents[2]
LINES = 2_000_000  # 205 MB: what the launcher still keeps of one log on disk
ROUNDS = 5
SUBMITS = 9
BEGAN = "2026-01-01T00:00:00Z"
RECORD = RunRecord(
    run="r", verb="train", name="r", created=BEGAN, backend="kube", cluster="kube-one", context="test", namespace="lab",
    directory="/", runs_claim="runs", runs_mount="/runs",
)  # fmt: skip
FOLLOW = """
import atexit, sys
from pathlib import Path
from launcher.cli import main
atexit.register(lambda: print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0], file=sys.stderr))
sys.argv = ["vidjobs", "logs", "r", "-f", "--grep", "Loss"]
main()
"""


def _state(over: bool) -> dict[str, Any]:
    return (
        {"terminated": {"exitCode": 0, "startedAt": BEGAN}}
        if over
        else {"running": {"startedAt": BEGAN}}
    )


class _Server:
    """Answers what kubectl and the launcher ask before they follow a log; the log is one long chunked answer, made beforehand."""

    def __init__(self) -> None:
        lines = [self._line(number) for number in range(LINES)]
        raw = b"".join(lines)
        blocks = [raw[start : start + 32768] for start in range(0, len(raw), 32768)]
        self.bodies = {
            "one chunk a line": self._chunked(lines),
            "chunks of 32 KiB": self._chunked(blocks),
        }
        self.mode = "one chunk a line"
        self.followed = False
        self.began = 0.0  # time.perf_counter() when the log was asked for
        self.last = lines[-1]
        self.listener = socket.create_server(("127.0.0.1", 0))

    @staticmethod
    def _line(number: int) -> bytes:
        second, rest = divmod(number * 33_000, 10**9)
        stamp = b"2026-11-21T16:%02d:%02d.%09dZ " % (second // 60, second % 60, rest)
        if number % 10:
            return (
                stamp
                + b"step %d of an epoch, and a few more words that nobody looks for\n" % number
            )
        return (
            stamp
            + b"train Loss: 0.0710 epoch=3 step=%d lr=1.5e-03 clips_per_s=412.0 data_wait=0.03 eta=1h02m\n"
            % number
        )

    @staticmethod
    def _chunked(pieces: Sequence[bytes]) -> bytes:
        return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer_all, args=(client,), daemon=True).start()

    def _answer_all(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as asked:
            while first := asked.readline().decode():
                while asked.readline().strip():
                    pass
                path = first.split()[1]
                if "/log" in path and "follow" in path:
                    self.followed, self.began = True, time.perf_counter()
                    client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    client.sendall(self.bodies[self.mode])
                    continue
                data = (
                    self.last
                    if "/log" in path
                    else json.dumps(self._object(path.partition("?")[0])).encode()
                )
                client.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                    % len(data)
                    + data
                )

    def _object(self, path: str) -> dict[str, Any]:
        pods = {
            "name": "pods",
            "singularName": "pod",
            "namespaced": True,
            "kind": "Pod",
            "verbs": ["get", "list"],
        }
        status = {
            "name": "trainer",
            "state": _state(self.followed),
            "ready": True,
            "restartCount": 0,
            "image": "i",
            "imageID": "i",
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "p",
                "namespace": "lab",
                "uid": "u",
                "resourceVersion": "1",
                "creationTimestamp": BEGAN,
            },
            "spec": {"containers": [{"name": "trainer", "image": "i"}]},
            "status": {
                "phase": "Succeeded" if self.followed else "Running",
                "containerStatuses": [status],
            },
        }
        known: dict[str, dict[str, Any]] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [pods]},
            "/api/v1/namespaces/lab/pods/p": pod,
            "/api/v1/namespaces/lab/pods": {
                "kind": "PodList",
                "metadata": {"resourceVersion": "1"},
                "items": [pod],
            },
        }
        return known.get(
            path,
            {
                "metadata": {"name": "r"},
                "status": {"conditions": [{"type": "Complete", "status": "True"}]},
            },
        )


@contextmanager
def _served(folder: Path) -> Iterator[tuple[_Server, dict[str, str]]]:
    server = _Server()
    threading.Thread(target=server.serve, daemon=True).start()
    address = f"http://127.0.0.1:{server.listener.getsockname()[1]}"
    context = {"cluster": "c", "user": "u", "namespace": "lab"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": context}],
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
    try:
        yield (
            server,
            os.environ | {"KUBECONFIG": str(folder / "kubeconfig"), "PYTHONPATH": str(PROJECT)},
        )
    finally:
        server.listener.close()


@dataclass(frozen=True)
class _Follow:
    """One run of a command: seconds in all, seconds from its question for the log on, and of CPU; peak MiB where it says so."""

    whole_s: float
    follow_s: float
    cpu_s: float
    peak: float


def _followed(server: _Server, command: Sequence[str], environment: dict[str, str]) -> _Follow:
    server.followed = False
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    end, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.count(b"\n") == LINES // 10
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = done.stderr.split()
    return _Follow(end - start, end - server.began, cpu_s, int(said[-1]) / 1024 if said else 0.0)


def _medians(runs: Sequence[_Follow]) -> _Follow:
    return _Follow(
        *(statistics.median(getattr(run, one.name) for run in runs) for one in fields(_Follow))
    )


def test_a_log_followed_through_grep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two million lines, a tenth of them with a loss, in turns; the launcher keeps a copy on disk meanwhile. Medians.

    In all: from the command's start to its end. While following: from its question for the log to its end.
    """
    kubectl = shutil.which("kubectl") or pytest.skip("no kubectl")
    commands = {
        "kubectl logs -f | grep Loss": ["sh", "-c", f"{kubectl} logs -f p | grep Loss"],
        "vidjobs logs -f --grep Loss": [sys.executable, "-c", FOLLOW],
    }
    with _served(tmp_path) as (server, environment), capsys.disabled():
        for mode in server.bodies:
            server.mode = mode
            runs: dict[str, list[_Follow]] = {name: [] for name in commands}
            for number in range(ROUNDS):
                for name, command in commands.items():
                    state = tmp_path / f"state{number}"
                    (state / "vidjobs/runs").mkdir(parents=True)
                    (state / "vidjobs/runs/r.json").write_text(json.dumps(asdict(RECORD)))
                    runs[name].append(
                        _followed(server, command, environment | {"XDG_STATE_HOME": str(state)})
                    )
                    shutil.rmtree(state, ignore_errors=True)
            print(
                f"\n{mode}, load {os.getloadavg()[0]:.1f}; klines/s in all, while following; CPU s; peak"
            )
            theirs, ours = (_medians(each) for each in runs.values())
            for name, run in zip(commands, (theirs, ours), strict=True):
                rates = f"{LINES / run.whole_s / 1000:8.0f}{LINES / run.follow_s / 1000:8.0f}"
                print(
                    f"  {name:30}{rates}{run.cpu_s:7.2f}"
                    + (f"{run.peak:6.0f} MiB" if run.peak else "")
                )
            ratios = (theirs.whole_s / ours.whole_s, theirs.follow_s / ours.follow_s)
            print(
                "  ratio in all {:.2f}, while following {:.2f}; CPU {:.2f}".format(
                    *ratios, ours.cpu_s / theirs.cpu_s
                )
            )


def test_submit_until_the_job_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`vidjobs submit` against `kubectl apply` of the manifest that `vidjobs render` prints; no node has so many GPUs, so nothing runs.

    Once with the kubeconfig as it is, once with a word in it for which the kubernetes package is imported to read it.
    """
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster: KUBECONFIG is not set")
    namespace = f"bench-{secrets.token_hex(3)}"
    _output("kubectl", "create", "namespace", namespace)
    _output(
        "kubectl",
        "wait",
        "--for=create",
        "serviceaccount/default",
        f"--namespace={namespace}",
        "--timeout=60s",
    )
    try:
        environment = os.environ | {
            "PYTHONPATH": str(PROJECT),
            "XDG_STATE_HOME": str(tmp_path / "state"),
        }
        plain, by_package = (
            environment | {"KUBECONFIG": each} for each in _kubeconfigs(tmp_path, namespace)
        )
        volumes = "job.volumes=[{claim: c, mount: /r, as: runs}, {claim: d, mount: /d, as: data}]"
        sets = ("job.code=image", "job.image=localhost/none:1", "job.resources.gpus=99", volumes)
        options = [
            "train",
            "conf/quickstart.yaml",
            "--cluster",
            "kube-one",
            *(part for each in sets for part in ("--set", each)),
        ]
        vidjobs = [sys.executable, "-m", "launcher"]
        manifest = _output(*vidjobs, "render", *options, env=plain)
        name = next(
            line.split()[-1].strip('"')
            for line in manifest.splitlines()
            if line.startswith("  name:")
        )
        times: dict[str, list[float]] = {
            "kubectl apply": [],
            "vidjobs submit": [],
            "vidjobs submit, kubernetes package": [],
        }
        for number in range(SUBMITS + 1):
            text = manifest.replace(name, f"bench-{number}")
            for each, command, env in (
                ("kubectl apply", ["kubectl", "apply", "-f", "-"], plain),
                ("vidjobs submit", [*vidjobs, "submit", *options], plain),
                ("vidjobs submit, kubernetes package", [*vidjobs, "submit", *options], by_package),
            ):
                start = time.perf_counter()
                _output(*command, env=env, text=text)
                times[each].append(time.perf_counter() - start)
        assert len(_output("kubectl", "get", "jobs", "-oname", env=plain).split()) == 3 * (
            SUBMITS + 1
        )
    finally:
        _output("kubectl", "delete", "namespace", namespace, "--wait=false")
    with capsys.disabled():
        print(f"\nuntil the Job exists, load {os.getloadavg()[0]:.1f}")
        # the first fills caches
        medians = {each: 1000 * statistics.median(found[1:]) for each, found in times.items()}
        for each, median in medians.items():
            print(f"  {each:36}{median:6.0f} ms, ratio {median / medians['kubectl apply']:.2f}")


def _kubeconfigs(folder: Path, namespace: str) -> Iterator[str]:
    """Two for this namespace that mean the same."""
    config = json.loads(_output("kubectl", "config", "view", "--raw", "--flatten", "-ojson"))
    config["contexts"][0]["context"]["namespace"] = namespace
    for name in ("plain", "for-the-package"):
        (folder / name).write_text(json.dumps(config))
        config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = False
        yield str(folder / name)


def _output(*command: str, env: dict[str, str] | None = None, text: str = "") -> str:
    return subprocess.run(
        command, cwd=PROJECT, env=env, input=text, text=True, capture_output=True, check=True
    ).stdout
