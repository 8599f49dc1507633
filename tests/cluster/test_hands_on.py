"""Hands-on commands on a real cluster: data pushed onto a claim through cuts, a shell in a pod, a run of the same again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pty
import random
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab, mounted
from researcher import Researcher, arrive, get, kubectl

from launcher import records, run_view
from launcher.backend_base import Channel, Inlet, ShellOptions
from launcher.backends.kube import doctor
from launcher.backends.kube.duplex import Duplex
from launcher.errors import ClusterError, UserError
from launcher.push_source import tree
from launcher.pushing import Push
from launcher.records import RunRecord

pytestmark = pytest.mark.cluster


def helpers(kube: Lab) -> list[str]:
    pods = get("pods", f"--namespace={kube.namespace}", "--selector=vidjobs/helper")["items"]
    return [pod["metadata"]["name"] for pod in pods if not pod["metadata"].get("deletionTimestamp")]


@pytest.fixture(scope="module")
def claim(kube: Lab) -> str:
    """A claim, and a run that used it: pods that mount it take their image from there."""
    kube.claim("data", "256Mi")
    record = kube.submit("true", **mounted("data"))
    kube.wait(record, lambda status: status.phase == "succeeded")
    return "data"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """1,000 small files and a large one."""
    numbers = random.Random(0)
    for number in range(1000):
        file = tmp_path / "source" / f"class-{number % 9}" / f"clip-{number:04d}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(numbers.randbytes(number))
    (tmp_path / "source/large.bin").write_bytes(numbers.randbytes(48 << 20))
    return tmp_path / "source"


class Cutter:
    """Connects as the inlet does, and pulls the plug of each of the first connections after so many bytes."""

    def __init__(self, inlet: Inlet, cuts: list[int]) -> None:
        self.inlet = inlet
        self.cuts = cuts

    @contextlib.contextmanager
    def connect(self, folder: str, only: str) -> Iterator[Channel]:
        with self.inlet.connect(folder, only) as channel:
            assert isinstance(channel, Duplex)
            yield _Plugged(channel, self.cuts.pop(0)) if self.cuts else channel


class _Plugged:
    def __init__(self, channel: Duplex, left: int) -> None:
        self.channel = channel
        self.left = left

    def send(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left < 0:
            _cut(self.channel)
            self.left = 1 << 62
        self.channel.send(data)

    def receive(self, *, wait: bool) -> bytes | None:
        return self.channel.receive(wait=wait)


def _cut(channel: Duplex) -> None:
    """The connection is gone, without a word to either side's program."""
    with socket.socket(fileno=os.dup(channel.fileno())) as plug:
        plug.shutdown(socket.SHUT_RDWR)


def whole(kube: Lab, claim: str, folder: str, source: Path) -> bool:
    """Every file of `source` lies in the claim's folder, equal by digest, and nothing else does."""
    with kube.backend.volume_files(claim, folder) as files:
        there = {
            file.path: files.sha256(file.path)
            for file in files.list()
            if file.path.endswith(("large.bin", "177.bin"))
        }
        listed = {file.path: file.size for file in files.list()}
    here = {
        path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()
    }
    assert listed == {name: path.stat().st_size for name, path in here.items()}
    return all(
        digest == hashlib.sha256(here[name].read_bytes()).hexdigest()
        for name, digest in there.items()
    )


def test_a_push_through_three_cuts_sends_only_what_is_missing(
    kube: Lab, claim: str, source: Path
) -> None:
    files = tree(source)
    with kube.backend.inlet(claim) as inlet:
        done = Push(
            inlet=Cutter(inlet, [200_000, 9 << 20, 11 << 20]), files=files, folder="deep/tree"
        ).run()
        assert len(helpers(kube)) == 1
        assert (done.cuts, done.there) == (3, 0)
        assert done.sent - done.bytes < 3 * (18 << 20), (
            "no more than what was on the wire at each cut"
        )
        again = Push(inlet=inlet, files=files, folder="deep/tree").run()
        assert (again.sent, again.there) == (0, 1001)
    assert helpers(kube) == []
    assert whole(kube, claim, "deep/tree", source)


def test_a_push_goes_on_in_another_pod_when_its_own_is_deleted(
    kube: Lab, claim: str, source: Path
) -> None:
    def kill() -> None:
        while not (found := helpers(kube)):
            time.sleep(0.2)
        time.sleep(2)
        kubectl("delete", "pod", found[0], f"--namespace={kube.namespace}", "--grace-period=1")

    thread = threading.Thread(target=kill)
    thread.start()
    with kube.backend.inlet(claim) as inlet:
        done = Push(
            inlet=inlet,
            files=tree(source),
            folder="other",
            progress=lambda _done: time.sleep(0.002),
        ).run()
    thread.join()
    assert done.cuts >= 1
    assert whole(kube, claim, "other", source)


def test_what_the_volume_refuses_is_told(kube: Lab, claim: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with kube.backend.inlet(claim) as inlet:
        Push(inlet=inlet, files=tree(tmp_path), folder="x").run()
        with pytest.raises(UserError, match=r"x/a cannot be written on the claim: Not a dir"):
            Push(inlet=inlet, files=tree(tmp_path), folder="x/a").run()
    with (
        pytest.raises(ClusterError, match='"absent" does not exist'),
        kube.backend.inlet("absent") as inlet,
    ):
        Push(inlet=inlet, files=tree(tmp_path)).run()


@pytest.fixture(scope="module")
def newcomer(small: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Researcher]:
    """A researcher with a claim and a conf, exp.yaml, of the small image, which has no trainer: its runs fail."""
    namespace = f"rerun-{secrets.token_hex(3)}"
    researcher = arrive(tmp_path_factory.mktemp("newcomer"), namespace)
    try:
        researcher.vidjobs("volume", "create", "runs", "--size", "64Mi")
        job = {
            "image": small,
            "code": "image",
            "resources": {
                "gpus": 0,
                "cpu": "200m",
                "memory": "512Mi",
                "shm": "64Mi",
                "scratch": "100Mi",
            },
            "volumes": [{"claim": "runs", "mount": "/runs", "as": "runs"}],
            "env": {"WORD": "it's $(WORD) of ${runs}"},
            "retries": 0,
        }
        conf = {
            "name": "again",
            "data": {"root": "/data", "frames": 8, "size": 32},
            "model": {"name": "i3d", "mode": "8x32"},
            "job": job,
        }
        (researcher.folder / "exp.yaml").write_text(json.dumps(conf))
        yield researcher
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


def _until(researcher: Researcher, run: str, wanted: Callable[[Any], bool]) -> Any:
    """The run's status once `wanted` holds of it."""
    until = time.monotonic() + 90
    while not wanted(status := researcher.json("status", run)):
        assert time.monotonic() < until, status
        time.sleep(1)
    return status


def test_a_rerun_on_the_cluster_is_the_same_pod_again(newcomer: Researcher) -> None:
    """From the record alone: the Job was deleted, the conf too."""
    conf = newcomer.folder / "exp.yaml"
    first = newcomer.vidjobs("submit", "train", "exp.yaml").strip()
    _until(newcomer, first, lambda status: status["phase"] == "failed")
    before = newcomer.pods(first)[0]
    newcomer.vidjobs("delete", first)
    conf.rename(newcomer.folder / "away")
    second = newcomer.vidjobs("rerun", first).strip()
    while not (pods := newcomer.pods(second)):
        time.sleep(0.5)
    (newcomer.folder / "away").rename(conf)
    assert _told(pods[0], second) == _told(before, first)
    told = newcomer.json("diff", first, second)
    assert (told["conf"], told["code"]) == ([], [])


def test_a_rerun_avoids_the_node_that_failed_every_attempt(newcomer: Researcher) -> None:
    """It says so; where no other node is, `status` says why it waits; `--set job.avoid_nodes=[]` undoes it. Also when the Job has gone."""
    (node,) = (each["metadata"]["name"] for each in get("nodes")["items"])
    (newcomer.folder / "crash.py").write_text(
        "import os\nos._exit(139)  # as a segmentation fault ends\n"
    )
    newcomer.vidjobs("push", "crash.py", "runs:lib/trainer/__main__.py")
    crashes = ("--set", "job.retries=1", "--set", "job.env.PYTHONPATH=/runs/lib")
    first = newcomer.vidjobs("submit", "train", "exp.yaml", *crashes).strip()
    status = _until(newcomer, first, lambda status: status["phase"] == "failed")
    assert status["blamed"] == {node: 2}
    assert f"rerun     avoids node {node}, which failed 2 attempts" in newcomer.vidjobs(
        "status", first
    )
    newcomer.vidjobs("delete", first)

    started = newcomer.start("rerun", first)
    second, said = started.communicate()
    assert (
        f"avoids node {node}, which failed 2 attempts of {first}; `--set job.avoid_nodes=[]` takes any node"
        in said
    )
    status = _until(newcomer, second.strip(), lambda status: bool(status["fix"]))
    assert status["phase"] == "pending"
    assert f"(avoids {node})" in status["cause"]
    assert f"vidjobs rerun {second.strip()} --set job.avoid_nodes=[]" in status["fix"]

    started = newcomer.start("rerun", second.strip(), "--set", "job.avoid_nodes=[]")
    third, said = started.communicate()
    assert "avoids" not in said
    _until(
        newcomer,
        third.strip(),
        lambda status: bool(status["pods"]) and status["pods"][0]["node"] == node,
    )


def _told(pod: Any, run: str) -> str:
    """What a pod was told to be, but for the run's name, and what the cluster adds with a random name."""
    spec = pod["spec"]
    told = [
        spec["containers"],
        spec.get("initContainers"),
        spec["securityContext"],
        pod["metadata"]["annotations"]["vidjobs/conf"],
    ]
    return json.dumps(told).replace(run, "RUN")


def test_doctor_looks_at_the_pull_secrets_of_the_profile(kube: Lab) -> None:
    """One that is not there, one that is of another kind, and one for another registry; what they hold is not shown."""
    here = f"--namespace={kube.namespace}"
    login = ("--docker-username=me", "--docker-password=secret-word")
    kubectl("create", "secret", "generic", "other", "--from-literal=a=b", here)
    kubectl(
        "create",
        "secret",
        "docker-registry",
        "good",
        "--docker-server=https://registry.example/v2/",
        *login,
        here,
    )
    kubectl(
        "create",
        "secret",
        "docker-registry",
        "elsewhere",
        "--docker-server=quay.example",
        *login,
        here,
    )
    names = ["absent", "other", "good", "elsewhere"]
    found = doctor.examine(kube.backend.client, image="registry.example/a/v:1", pull_secrets=names)
    assert [each.ok for each in found if each.what.startswith("pull secret")] == [
        False,
        False,
        True,
        False,
    ]
    assert "secret-word" not in str(found)


def test_a_shell_in_a_running_run_is_in_its_pod_and_folder(
    kube: Lab, claim: str, capfd: pytest.CaptureFixture[str]
) -> None:
    job = kube.job("mkdir -p /runs/$RUN && sleep 60", **mounted(claim))
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "RUN", "value": job["metadata"]["name"]}]
    kube.backend.submit([job])
    record = kube.record(job, claim)
    kube.wait(record, lambda status: status.phase == "running")
    time.sleep(1)
    with kube.backend.shell(record, "", ShellOptions()) as shell:
        assert "own pod" in shell.where
        assert shell.run("pwd; echo $RUN; echo oops >&2; exit 5") == 5
    told = capfd.readouterr()
    assert told.out.split() == [f"/runs/{record.run}", record.run]
    assert "oops" in told.err
    assert helpers(kube) == []

    noted = run_view.one(_saved(record)).status
    assert noted
    assert records.find(record.run).image_id, (
        "what the pod runs is written down by whoever looks first"
    )

    assert _typed(record, b"echo $((40+2)) in $PWD; tty >/dev/null && exit 3\n") == (
        3,
        f"42 in /runs/{record.run}",
    )
    kube.backend.delete(record)


def _saved(record: RunRecord) -> RunRecord:
    """A record that `vidjobs` finds, of the test cluster's profile."""
    known = dataclasses.replace(record, cluster="kube-one")
    records.save(known)
    return known


def _typed(record: RunRecord, keys: bytes) -> tuple[int, str]:
    """`vidjobs shell RUN` on a terminal: its exit code, and the answer that it showed."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvp(sys.executable, [sys.executable, "-m", "launcher", "shell", record.run])
    time.sleep(4)
    os.write(terminal, keys)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while data := os.read(terminal, 4096):
            shown += data
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    lines = shown.decode().replace("\r", "").splitlines()
    return os.waitstatus_to_exitcode(status), next(
        (line[line.index("42 in") :] for line in lines if "42 in" in line), "\n".join(lines)
    )


def test_a_shell_beside_an_ended_run_is_a_pod_that_ends(
    kube: Lab, claim: str, capfd: pytest.CaptureFixture[str]
) -> None:
    record = dataclasses.replace(
        kube.submit("mkdir -p /runs/x", **mounted(claim)), runs_claim=claim
    )
    kube.wait(record, lambda status: status.phase == "succeeded")
    with kube.backend.shell(
        record, "", ShellOptions(seconds=900, cpu="200m", memory="64Mi")
    ) as shell:
        (helper,) = helpers(kube)
        assert (
            get("pod", helper, f"--namespace={kube.namespace}")["spec"]["activeDeadlineSeconds"]
            == 900
        )
        assert helper in shell.where
        assert shell.run("id -u; pwd; touch written; echo $HOME") == 0
    assert capfd.readouterr().out.split() == ["1000", "/runs", "/tmp"]
    with kube.backend.shell(None, claim, ShellOptions(cpu="200m", memory="64Mi")) as shell:
        assert shell.run("ls written") == 0
    assert helpers(kube) == []
