"""Logs of real pods: found as they come, followed over cuts, every line once, the unterminated last one too."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import Lab
from researcher import kubectl

from launcher.backend_base import LogLine
from launcher.backends.kube.client import KubeClient
from launcher.backends.kube.logs import JobLogs

pytestmark = pytest.mark.cluster

# stdout and stderr at once, so that timestamps go back now and then
COUNT = """
import sys, time
for number in range({n}):
    (sys.stdout if number % 3 else sys.stderr).write('line %d\\n' % number)
    sys.stdout.flush()
    if number % 20 == 0: time.sleep({pause})
sys.stdout.write('last words')
"""


def counting(n: int, pause: float) -> dict[str, list[str]]:
    return {"command": ["python", "-c", COUNT.format(n=n, pause=pause)]}


def texts(lines: list[LogLine]) -> list[str]:
    return [line.text for line in lines]


def test_a_run_is_followed_from_pending_to_its_last_unterminated_line(kube: Lab) -> None:
    """The follow begins before there is a pod, and ends by itself."""
    record = kube.submit("", container=counting(100, 0.2))
    lines = list(kube.backend.logs(record, follow=True))
    assert sorted(texts(lines[:-1])) == sorted(f"line {number}" for number in range(100))
    assert (lines[-1].text, lines[-1].terminated) == ("last words", False)
    assert {line.kind for line in lines} == {"line"}
    assert lines[0].time.endswith("Z")


def test_tail_and_since_begin_later(kube: Lab) -> None:
    """Of an ended run."""
    record = kube.submit("echo old; sleep 4; echo new; printf end")
    list(kube.backend.logs(record, follow=True))
    assert texts(list(kube.backend.logs(record, tail=2))) == ["new", "end"]
    assert texts(list(kube.backend.logs(record, since_s=3600))) == ["old", "new", "end"]
    lines = list(kube.backend.logs(record))
    since = int(time.time() - kube_time(lines[0].time)) - 2  # two seconds after the first line
    assert texts(list(kube.backend.logs(record, since_s=since, follow=True))) == ["new", "end"]


def kube_time(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


def test_a_retry_follows_on(kube: Lab) -> None:
    """A failed pod's lines, then those of the pod that replaces it, and afterwards both with all_pods."""
    record = kube.submit("echo I am $HOSTNAME; exit 3", retries=1)
    lines = list(kube.backend.logs(record, follow=True))
    first, second = (pod.name for pod in kube.backend.status(record).pods)
    assert texts(lines) == [f"I am {first}", f"I am {second}"]
    assert texts(list(kube.backend.logs(record))) == [f"I am {second}"]
    assert texts(list(kube.backend.logs(record, all_pods=True))) == [
        f"I am {first}",
        f"I am {second}",
    ]


def test_pods_that_run_together_are_followed_side_by_side(kube: Lab) -> None:
    """Each pod's lines in its own order, none missing, and all in time order."""
    job = kube.job("for i in 1 2 3 4 5; do echo $JOB_COMPLETION_INDEX $i; sleep 0.5; done")
    job["spec"] |= {"completions": 3, "parallelism": 3, "completionMode": "Indexed"}
    kube.backend.submit([job])
    lines = list(kube.backend.logs(kube.record(job), follow=True, all_pods=True))
    for index in range(3):
        assert [text for text in texts(lines) if text.startswith(f"{index} ")] == [
            f"{index} {i}" for i in range(1, 6)
        ]
    assert len({line.pod for line in lines}) == 3
    assert [line.time for line in lines] == sorted(line.time for line in lines)


def test_what_a_failed_first_container_said_is_shown(kube: Lab) -> None:
    """A checkout that fails is the run's log."""
    first = {
        "name": "code",
        "image": kube.image,
        "command": ["sh", "-c", "echo no such commit >&2; exit 65"],
    }
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    record = kube.submit("echo never", initContainers=[first | {"securityContext": restricted}])
    lines = list(kube.backend.logs(record, follow=True))
    assert [(line.container, line.text) for line in lines] == [("code", "no such commit")]


def test_lines_of_a_megabyte_and_progress_bars_come_whole(kube: Lab) -> None:
    """containerd cuts them into chunks of 16 KiB; carriage returns are left as they are."""
    script = "import sys; print('x' * 1_000_000); [print('\\r%d%%' % i, end='', flush=True) for i in range(5000)]; print('\\ndone')"
    record = kube.submit("", container={"command": ["python", "-c", script]})
    big, bar, done = list(kube.backend.logs(record, follow=True))
    assert big.text == "x" * 1_000_000
    assert bar.text == "".join(f"\r{i}%" for i in range(5000))
    assert done.text == "done"


def test_every_line_once_although_the_connection_is_cut_again_and_again(
    kube: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that resets connections at random moments stands between us and the API server."""
    record = kube.submit("", container=counting(6000, 0.03))
    with _cutting_proxy(random.Random(1)) as (port, cuts):
        monkeypatch.setenv("KUBECONFIG", str(_through(port, tmp_path)))
        client = KubeClient(wanted_namespace=kube.namespace)
        lines = list(JobLogs(client=client, run=record.run, silence_s=2.0).follow(all_pods=False))
    assert len(cuts) >= 3, "the proxy must have cut something"
    assert {line.kind for line in lines} == {"line"}
    assert lines[-1].text == "last words"
    assert len(lines) == 6001
    for part in (0, 1):  # stdout and stderr are each in order
        numbers = [
            int(line.text[5:]) for line in lines[:-1] if (int(line.text[5:]) % 3 == 0) == part
        ]
        assert numbers == sorted(set(numbers))


def test_a_pod_deleted_in_the_middle_leaves_a_gap_and_its_replacement_follows(kube: Lab) -> None:
    """What the cluster itself lost is marked, and the follow goes on."""
    record = kube.submit(
        "trap 'exit 1' TERM; echo I am $HOSTNAME; sleep 8 & wait; echo $HOSTNAME is done", retries=2
    )
    lines: list[LogLine] = []
    reader = threading.Thread(target=lambda: lines.extend(kube.backend.logs(record, follow=True)))
    reader.start()
    status = kube.wait(record, lambda status: status.phase == "running")
    time.sleep(1)
    kubectl("delete", "pod", status.pods[0].name, f"--namespace={kube.namespace}")
    reader.join(timeout=90)
    pods = [line.text.removeprefix("I am ") for line in lines if line.text.startswith("I am ")]
    assert len(pods) == 2
    assert pods[0] == status.pods[0].name
    assert lines[-1].text == f"{pods[1]} is done"
    assert {line.kind for line in lines} <= {"line", "gap"}


@contextmanager
def _cutting_proxy(dice: random.Random) -> Iterator[tuple[int, list[float]]]:
    """A TCP proxy to the API server; each connection is reset after 0.2 to 1.5 seconds. Yields its port and the moments of the cuts."""
    server = urlsplit(KubeClient().server)
    listener = socket.create_server(("127.0.0.1", 0))
    cuts: list[float] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()

    def reset(*ends: socket.socket) -> None:
        if any(end.fileno() >= 0 for end in ends):
            cuts.append(time.monotonic())
        for end in ends:
            with suppress(OSError):  # closed already
                # close sends RST
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            upstream = socket.create_connection((server.hostname or "", server.port or 443))
            for ends in ((client, upstream), (upstream, client)):
                threading.Thread(target=pump, args=ends, daemon=True).start()
            threading.Timer(dice.uniform(0.2, 1.5), reset, (client, upstream)).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], cuts
    finally:
        listener.close()


def _through(port: int, folder: Path) -> Path:
    """The same kubeconfig with the proxy as its server."""
    config = json.loads(
        kubectl("config", "view", "--raw", "--flatten", "--minify", "--output=json")
    )
    cluster = config["clusters"][0]["cluster"]
    cluster["tls-server-name"] = urlsplit(cluster["server"]).hostname
    cluster["server"] = f"https://127.0.0.1:{port}"
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path
