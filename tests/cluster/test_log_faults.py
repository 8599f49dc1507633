"""Logs while parts of the node are killed under them, and what other readers show of the same. Each test leaves a healthy node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Lab
from researcher import kubectl

from launcher.backend_base import LogLine
from launcher.backends.kube.logs import JobLogs
from launcher.records import RunRecord

pytestmark = [pytest.mark.cluster, pytest.mark.disturbs]

CLUSTER = Path(__file__).resolve().parents[3] / "shared" / "kube" / "cluster"
COUNT = """
import sys, time
for number in range({n}):
    print('line %d {filler}' % number, flush=True)
    time.sleep({pause})
sys.stdout.write('last words')
"""
WATCH = """
import sys
from kubernetes import client, config, watch
config.load_kube_config()
stream = watch.Watch().stream(client.CoreV1Api().read_namespaced_pod_log, name=sys.argv[1], namespace=sys.argv[2], follow=True)
for line in stream:
    print(line, flush=True)
"""


def cluster(*arguments: str, **environment: str) -> None:
    if not CLUSTER.exists():
        pytest.skip(f"{CLUSTER} is not there: nothing else stops parts of a node")
    subprocess.run(
        [CLUSTER, *arguments],
        check=True,
        capture_output=True,
        env=os.environ | environment,
        timeout=120,
    )


@pytest.fixture(autouse=True)
def _healthy_afterwards() -> Iterator[None]:
    """Every part runs again with its own settings, and the node takes pods."""
    try:
        yield
    finally:
        status = subprocess.run(
            [CLUSTER, "status"], capture_output=True, text=True, check=False
        ).stdout
        for part in ("apiserver", "kubelet"):
            # a second one would end at once, and its number be written down for the first's
            if f"{part} running" not in status:
                cluster("start", part)
        kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=90s")


@dataclass
class Reader:
    """A thread or a process that collects lines."""

    lines: list[str] = field(default_factory=list)
    said: str = ""


@contextmanager
def beside(commands: dict[str, Sequence[str]]) -> Iterator[dict[str, Reader]]:
    """Other readers of the same log; killed at the end."""
    readers = {name: Reader() for name in commands}
    processes = {
        name: subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name, argv in commands.items()
    }

    def collect(name: str) -> None:
        out = processes[name].stdout
        assert out is not None
        readers[name].lines += [line.rstrip("\n") for line in out]

    threads = [threading.Thread(target=collect, args=(name,)) for name in processes]
    for thread in threads:
        thread.start()
    try:
        yield readers
    finally:
        for name, process in processes.items():
            process.terminate()
            readers[name].said = (process.communicate()[1].strip().splitlines() or [""])[-1]
        for thread in threads:
            thread.join()


def followed(
    kube: Lab, record: RunRecord, fault: threading.Thread, *, silence_s: float = 5.0
) -> list[LogLine]:
    """All that a follow shows while the fault happens."""
    fault.start()
    try:
        return list(
            JobLogs(client=kube.backend.client, run=record.run, silence_s=silence_s).follow(
                all_pods=False
            )
        )
    finally:
        fault.join()


def later(seconds: float, *steps: Sequence[str]) -> threading.Thread:
    """Calls of the cluster program, each `seconds` after the one before."""

    def do() -> None:
        for step in steps:
            time.sleep(seconds)
            cluster(*step)

    return threading.Thread(target=do)


def counting(n: int, pause: float, filler: str = "") -> dict[str, list[str]]:
    return {"command": ["python", "-c", COUNT.format(n=n, pause=pause, filler=filler)]}


def tell(
    capsys: pytest.CaptureFixture[str],
    name: str,
    expected: Sequence[str],
    lines: Sequence[str],
    said: str = "",
) -> None:
    """How many of the lines a reader lost or doubled."""
    found = [line for line in lines if line in set(expected)]
    with capsys.disabled():
        print(
            f"\n  {name:28} {len(set(expected) - set(found)):6} lost {len(found) - len(set(found)):6} doubled  {said[:90]}",
            end="",
        )


def test_every_line_once_although_the_api_server_is_killed(
    kube: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL and start again, twice, in the middle of a follow; `kubectl logs -f` and the package's own follow run beside it."""
    record = kube.submit("", container=counting(400, 0.05))
    status = kube.wait(record, lambda status: status.phase == "running")
    pod = status.pods[0].name
    expected = [f"line {number} " for number in range(400)] + ["last words"]
    peers = {
        "kubectl logs -f": [
            shutil.which("kubectl") or "kubectl",
            "logs",
            "-f",
            pod,
            f"--namespace={kube.namespace}",
        ],
        "kubernetes Watch.stream": [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            WATCH,
            pod,
            kube.namespace,
        ],
    }
    with beside(peers) as readers:
        lines = followed(kube, record, later(5, ("restart", "apiserver"), ("restart", "apiserver")))
        time.sleep(2)  # time for the others to end by themselves
    assert [line.text for line in lines] == expected
    assert {line.kind for line in lines} == {"line"}
    tell(capsys, "vidjobs", expected, [line.text for line in lines])
    for name, reader in readers.items():
        tell(capsys, name, expected, reader.lines, reader.said)


def test_every_line_once_although_the_kubelet_is_stopped(kube: Lab) -> None:
    """The pod runs on without it for six seconds; nobody can read its log meanwhile."""
    record = kube.submit("", container=counting(400, 0.05))
    kube.wait(record, lambda status: status.phase == "running")
    lines = followed(kube, record, later(6, ("stop", "kubelet"), ("start", "kubelet")))
    assert [line.text for line in lines] == [
        *(f"line {number} " for number in range(400)),
        "last words",
    ]
    assert {line.kind for line in lines} == {"line"}


def test_lines_that_the_node_rotated_away_are_marked(
    kube: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fast writer, and nobody who can read for seven seconds: nothing comes twice, and wherever lines are missing there is a mark."""
    cluster("restart", "kubelet", KUBE_LOG_MAX_SIZE="64Ki")
    try:
        kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=90s")
        record = kube.submit("", container=counting(6000, 0.003, "x" * 100))
        status = kube.wait(record, lambda status: status.phase == "running")
        with beside(
            {
                "kubectl logs -f": [
                    "kubectl",
                    "logs",
                    "-f",
                    status.pods[0].name,
                    f"--namespace={kube.namespace}",
                ]
            }
        ) as readers:
            lines = followed(
                kube, record, later(7, ("stop", "apiserver"), ("start", "apiserver")), silence_s=2.0
            )
    finally:
        cluster("restart", "kubelet")
    marked, numbers = False, []
    for line in lines:
        if line.kind != "line" or not line.text.startswith("line "):
            marked = marked or line.kind == "gap"
            continue
        number = int(line.text.split()[1])
        assert number == (numbers[-1] + 1 if numbers else 0) or (
            marked and number > (numbers or [-1])[-1]
        ), "an unmarked hole, or twice"
        numbers.append(number)
        marked = False
    assert numbers[-1] == 5999
    expected = [f"line {number} {'x' * 100}" for number in range(6000)]
    tell(
        capsys,
        f"vidjobs ({sum(line.kind == 'gap' for line in lines)} marks)",
        expected,
        [line.text for line in lines],
    )
    tell(
        capsys,
        "kubectl logs -f (no mark)",
        expected,
        readers["kubectl logs -f"].lines,
        readers["kubectl logs -f"].said,
    )
