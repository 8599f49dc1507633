"""A sweep on a real Kubernetes: one Indexed Job, each trial by itself; its table, results, one trial's log and files; a thousand at once.

The pods run the project's own trainer up to the verb, which is a stand-in of a second: torch would take a 7 GB image.
"""

from __future__ import annotations

import csv
import io
import json
import resource
import secrets
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from researcher import Researcher, arrive, get, kubectl

import trainer

pytestmark = pytest.mark.cluster

# trainer/train.py of the pods: two epochs with their files; some learning rates end it otherwise.
TRAIN = '''
"""A training of a second."""
import json, os, signal, sys, time
from trainer.errors import Diverged, TryAgain

def stop(*_):
    raise TryAgain("stopped by SIGTERM")

def run(config, folder):
    signal.signal(signal.SIGTERM, stop)
    folder.require_writable()
    lr, metrics, files = config.train.lr, [], {}
    if lr == 0.3:
        raise Diverged("the loss is nan at step 3")
    if lr == 0.4 and not (folder.root / "crashed").exists():
        folder.write_text(folder.root / "crashed", "once")
        os._exit(70)
    while lr == 0.9 and not (folder.runs / "go").exists():
        time.sleep(0.1)
    for epoch in (1, 2):
        time.sleep(0.3)
        print(f"train Loss: {lr / epoch:.4f} epoch={epoch} step={5 * epoch} trial={folder.trial}", flush=True)
        metrics.append({"phase": "train", "loss": lr / epoch, "epoch": epoch, "step": 5 * epoch})
        folder.write_text(folder.weights(epoch), "weights of %s" % lr)
        entry = {"kind": "weights", "epoch": epoch, "step": 5 * epoch, "size": 1, "sha256": ""}
        files[folder.weights(epoch).name] = {**entry, "metrics": {"loss": 1 - lr, "f1_macro": lr / epoch}}
        best = folder.weights(1).name
        folder.write_text(folder.metrics, "".join(json.dumps(line) + chr(10) for line in metrics))
        manifest = {"format": 1, "last": folder.weights(epoch).name, "best": best, "select": "f1_macro", "files": files}
        folder.write_text(folder.manifest, json.dumps(manifest))
'''


@dataclass(frozen=True)
class Lab:
    """A researcher with a claim that holds the pods' code and all runs."""

    researcher: Researcher
    image: str
    folder: Path

    def conf(self, name: str, sweep: dict[str, Any], **job: Any) -> str:
        """Write `<name>.yaml`; returns its name."""
        resources = {"cpu": "100m", "memory": "96Mi", "shm": "8Mi", "scratch": "64Mi"}
        own = {
            "image": self.image,
            "code": "image",
            "resources": resources,
            "env": {"PYTHONPATH": "/runs/lib"},
            "retries": 1,
            "grace": "10s",
        }
        conf = {
            "name": name,
            "data": {"name": "tinyvirat", "root": "/nowhere", "frames": 16, "size": 32},
            "model": {"name": "i3d", "mode": "16x32"},
            "job": {**own, "volumes": [{"claim": "runs", "mount": "/runs", "as": "runs"}], **job},
            "sweep": sweep,
        }
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(conf))
        return f"{name}.yaml"

    def submit(self, name: str, sweep: dict[str, Any], **job: Any) -> str:
        (run,) = self.researcher.vidjobs(
            "sweep", "submit", "train", self.conf(name, sweep, **job)
        ).split()
        return run

    def wait(self, run: str, wanted: Callable[[Any], bool], *, seconds: float = 120) -> Any:
        """The run's status once `wanted` holds of it."""
        end = time.monotonic() + seconds
        while not wanted(status := self.researcher.json("status", run)):
            assert time.monotonic() < end, json.dumps(status, indent=1)
            time.sleep(0.5)
        return status

    def job(self, run: str) -> Any:
        return get("job", run, f"--namespace={self.researcher.namespace}")

    def put(self, archive: bytes) -> None:
        """Unpack a tar file on the claim, in a pod that also makes room for it."""
        place = f"--namespace={self.researcher.namespace}"
        ids = {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        container = {
            "name": "put",
            "image": self.image,
            "command": ["sleep", "600"],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "runs", "mountPath": "/runs"}],
        }
        volumes = [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}]
        spec = {
            "securityContext": ids,
            "containers": [container],
            "volumes": volumes,
            "terminationGracePeriodSeconds": 0,
        }
        kubectl(
            "apply",
            place,
            "--filename=-",
            text=json.dumps(
                {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "put"}, "spec": spec}
            ),
        )
        kubectl("wait", place, "pod/put", "--for=condition=Ready", "--timeout=60s")
        command = [
            "kubectl",
            "exec",
            "--stdin",
            place,
            "put",
            "--",
            "tar",
            "-x",
            "-C",
            "/runs",
            "-f",
            "-",
        ]
        subprocess.run(command, input=archive, check=True, capture_output=True)
        kubectl("delete", place, "pod", "put", "--now")


def _library() -> bytes:
    """lib/trainer with the stand-in for `train`, and PyYAML, which the image has not."""
    sink = io.BytesIO()
    packages = [Path(trainer.__path__[0]), Path(yaml.__path__[0])]
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for package in packages:
            for path in sorted(package.rglob("*.py")):
                data = TRAIN.encode() if path == packages[0] / "train.py" else path.read_bytes()
                entry = tarfile.TarInfo(f"lib/{package.name}/{path.relative_to(package)}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


@pytest.fixture(scope="module")
def lab(small: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A namespace with Pod Security `restricted`, a researcher with the printed rights, code on the claim."""
    folder, namespace = tmp_path_factory.mktemp("sweeps"), f"sweeps-{secrets.token_hex(3)}"
    try:
        researcher = arrive(folder, namespace)
        researcher.vidjobs("volume", "create", "runs", "--size", "256Mi")
        lab = Lab(researcher, small, folder)
        lab.put(_library())
        yield lab
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found")


def test_trials_run_and_fail_each_by_itself(lab: Lab) -> None:
    """At most `parallelism` at a time; one diverges and is not tried again, one crashes once, all others are done."""
    conf = lab.conf("grid", {"grid": {"train.lr": [0.1, 0.2, 0.3, 0.4, 0.5]}, "parallelism": 2})
    watched = lab.researcher.start("sweep", "submit", "train", conf, "--watch")
    assert watched.stdout
    run = watched.stdout.readline().strip()
    most = 0
    while (status := lab.researcher.json("status", run))["phase"] not in ("succeeded", "failed"):
        most = max(most, int(lab.job(run)["status"].get("active", 0)))
        time.sleep(0.3)
    assert status["phase"] == "failed"
    assert status["cause"].startswith("1 of 5 trials failed (2), the last: ")
    assert "the loss is nan at step 3" in status["cause"]
    assert most == 2
    job = lab.job(run)["status"]
    assert (job["completedIndexes"], job["failedIndexes"]) == ("0,1,3,4", "2")
    attempts = [
        pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
        for pod in lab.researcher.pods(run)
    ]
    assert sorted(attempts) == ["0", "1", "2", "3", "3", "4"]

    told, said = watched.communicate(timeout=30)
    assert (
        watched.returncode,
        "trial 4 succeeded (train.lr=0.5), f1_macro 0.5" in told.splitlines(),
    ) == (4, True), told + said
    assert f"{run} failed: 1 of 5 trials failed (2)" in said
    _look(lab, run)
    lab.researcher.vidjobs("delete", run, "--yes")
    rows = list(
        csv.DictReader(
            io.StringIO(lab.researcher.vidjobs("sweep", "results", run, "--by", "f1_macro"))
        )
    )
    assert [row["trial"] for row in rows] == ["4", "3", "1", "0", "2"]
    assert (rows[4]["phase"], rows[4]["cause"]) == ("failed", "the loss is nan at step 3")


def _look(lab: Lab, run: str) -> None:
    """The table, one trial's log, one trial's files, while the Job is there."""
    table = lab.researcher.json("sweep", "status", run)
    assert table["counts"] == {"succeeded": 4, "failed": 1}
    assert [trial["scores"].get("f1_macro") for trial in table["trials"]] == [
        0.1,
        0.2,
        None,
        0.4,
        0.5,
    ]
    assert table["trials"][2]["cause"].endswith("the loss is nan at step 3")
    assert table["trials"][4]["changes"] == {"train.lr": 0.5}
    log = lab.researcher.vidjobs("logs", run, "--trial", "4").splitlines()
    assert log[0] == "trial 4 of 5: train.lr=0.5"
    assert log[1:] == [
        "train Loss: 0.5000 epoch=1 step=5 trial=4",
        "train Loss: 0.2500 epoch=2 step=10 trial=4",
    ]
    lab.researcher.vidjobs("fetch", "checkpoints", run, "--trial", "4", "--best", "-o", "four")
    assert (lab.folder / "four/checkpoints/epoch-000001.pt").read_text() == "weights of 0.5"
    would = lab.researcher.vidjobs(
        "submit", "eval", "grid.yaml", "--from", f"{run}@best", "--dry-run"
    )
    assert f"/runs/{run}/trials/0004/checkpoints/epoch-000001.pt" in would


def test_a_sweep_is_followed_cancelled_and_resumed(lab: Lab) -> None:
    """What is done stays done; what was stopped begins again."""
    run = lab.submit("pause", {"grid": {"train.lr": [0.1, 0.9, 0.9001]}, "parallelism": 3})
    status = lab.wait(run, lambda status: status["cause"].startswith("2 of 3 trials done, 1 run"))
    table = lab.researcher.json("sweep", "status", run)
    assert [trial["phase"] for trial in table["trials"]] == ["succeeded", "running", "succeeded"], (
        status
    )
    lab.researcher.vidjobs("cancel", run)
    lab.wait(run, lambda status: status["phase"] == "cancelled" and not status["cause"])
    table = lab.researcher.json("sweep", "status", run)
    assert [trial["phase"] for trial in table["trials"]] == ["succeeded", "stopped", "succeeded"]
    (lab.folder / "go").write_text("")
    with io.BytesIO() as sink:
        with tarfile.open(fileobj=sink, mode="w") as tar:
            tar.add(lab.folder / "go", "go")
        lab.put(sink.getvalue())
    lab.researcher.vidjobs("resume", run)
    followed = lab.researcher.start("logs", run, "--trial", "1", "--follow")
    out, err = followed.communicate(timeout=90)
    assert followed.returncode == 0, err
    assert out.splitlines()[-1] == "train Loss: 0.4500 epoch=2 step=10 trial=1"
    lab.wait(run, lambda status: status["phase"] == "succeeded")
    assert (
        sum(
            pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "0"
            for pod in lab.researcher.pods(run)
        )
        == 1
    )


def test_a_thousand_trials_are_one_object_within_two_seconds(lab: Lab) -> None:
    """Expanded, each checked by the trainer, admitted and created."""
    sweep = {
        "grid": {
            "train.lr": [round(0.001 * n, 3) for n in range(1, 101)],
            "train.seed": list(range(10)),
        },
        "parallelism": 1,
    }
    conf = lab.conf("many", sweep, priority="")
    before = {
        one["metadata"]["name"]
        for one in get("jobs,configmaps", f"--namespace={lab.researcher.namespace}")["items"]
    }
    began, used = time.perf_counter(), _cpu()
    (run,) = lab.researcher.vidjobs("sweep", "submit", "train", conf).split()
    took, used = time.perf_counter() - began, _cpu() - used
    after = {
        one["metadata"]["name"]
        for one in get("jobs,configmaps", f"--namespace={lab.researcher.namespace}")["items"]
    }
    assert after - before == {run}
    assert lab.job(run)["spec"]["completions"] == 1000
    lab.researcher.vidjobs("cancel", run)
    table = lab.researcher.json("sweep", "status", run)
    assert len(table["trials"]) == 1000
    lab.researcher.vidjobs("delete", run, "--yes")
    print(f"a sweep of 1,000 trials was submitted in {took:.2f} s, of which {used:.2f} s of work")
    assert used < 2.0  # tests/bench measures the whole time, on a machine that does nothing else


def _cpu() -> float:
    """Seconds that processes of ours which have ended have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
