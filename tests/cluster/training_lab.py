"""What a researcher has before the first job, on a real Kubernetes: a namespace, the job image, a git server, data on a volume.

Everything goes through the `vidjobs` command, with the rights that `vidjobs rbac` asks for and in a namespace that enforces
Pod Security `restricted`. kubectl only plays the cluster's owner.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import git_server
import images
import yaml
from git_server import GitServer
from researcher import Researcher, arrive, get, kubectl

CLASSES = 26  # of TinyVIRAT
CLIPS = 48  # of training; 12 more to test
EPOCHS = 2


@dataclass(frozen=True)
class Lab:
    """What a researcher has before the first job: a namespace, an image, a git server, data on a volume."""

    researcher: Researcher
    image: str
    git: GitServer
    commit: str  # of main, when the lab was opened
    folder: Path

    def conf(self, name: str, **changes: Any) -> str:
        """Write `<name>.yaml`; keyword arguments are whole sections, `job` is merged. Returns the file's name."""
        job = {
            "image": self.image,
            "code": {"repo": self.git.url("vidjobs"), "ref": "main"},
            "resources": {
                "gpus": 1,
                "gpu_type": ["NVIDIA-GeForce-GTX-1080-Ti"],
                "cpu": cpu(),
                "memory": "3Gi",
                "shm": "256Mi",
                "scratch": "2Gi",
            },
            "volumes": [
                {"claim": "runs", "mount": "/runs", "as": "runs"},
                {"claim": "data", "mount": "/data", "as": "data"},
            ],
            "retries": 2,
            "grace": "30s",
        }
        conf = {
            "name": name,
            "data": {"name": "tinyvirat", "root": "${data}/TinyVIRAT", "frames": 8, "size": 32},
            "model": {"name": "i3d", "mode": "8x32", "bn_momentum": 0.1},
            "train": {"epochs": EPOCHS, "batch": 4, "accumulate": 2, "lr": 1e-3},
            "compute": {"threads": 2, "workers": 0},
            **changes,
            "job": job | changes.get("job", {}),
        }
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(conf))
        return f"{name}.yaml"

    def submit(self, *arguments: str) -> str:
        """`vidjobs submit ...`: the new run's name."""
        (run,) = self.researcher.vidjobs("submit", *arguments).split()
        return run

    def wait_for(self, run: str, wanted: Callable[[Any], bool], *, seconds: float = 240) -> Any:
        """The run's status once `wanted` holds of it. What has ended stays so: there is nothing to wait for any more."""
        end = time.monotonic() + seconds
        while not wanted(status := self.researcher.json("status", run)):
            over = status["phase"] in ("succeeded", "failed") or time.monotonic() > end
            assert not over, f"{run}: {json.dumps(status, indent=1)}"
            time.sleep(1)
        return status

    def says(self, run: str, pattern: str, *, seconds: float = 240) -> str:
        """The first line of the run's log that matches, at the moment when it comes."""
        process = self.researcher.start("logs", run, "--follow")
        watchdog = threading.Timer(seconds, process.kill)
        watchdog.start()
        lines = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if re.search(pattern, line):
                    return line
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()
        raise AssertionError(f"{run} never said {pattern}: {''.join(lines)}")

    def weights(self, run: str) -> dict[str, Any]:
        """Tensors of the run's last checkpoint, by name."""
        import torch

        out = self.folder / f"{run}-weights"
        self.researcher.vidjobs("fetch", "checkpoints", run, "--last", "--out", str(out))
        (path,) = (out / "checkpoints").glob("epoch-*.pt")
        found: dict[str, Any] = torch.load(path, weights_only=True)["state_dict"]
        return found

    def metrics(self, run: str) -> list[dict[str, Any]]:
        """Records of the run's steps and validations, in order; not the lines of what it used, one a minute."""
        out = self.folder / f"{run}-metrics"
        self.researcher.vidjobs("fetch", "metrics", run, "--out", str(out))
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [record for record in records if "phase" in record]


def cpu(pods: int = 1) -> str:
    """What each of so many pods asks for, so that all files that run side by side find room on a node of two cores; a pod gets no more."""
    files = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return f"{max(1500 // files // pods, 300)}m"


def more_than_half_the_memory() -> str:
    """A request that the (only) node can keep once and not twice; what else runs here needs less than the other half."""
    amount = get("nodes")["items"][0]["status"]["allocatable"]["memory"]
    assert amount.endswith("Ki"), amount
    return f"{int(amount.removesuffix('Ki')) * 11 // 20}Ki"


def same(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether two sets of tensors are equal, bit for bit."""
    import torch

    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[key], value) for key, value in theirs.items()
    )


@contextmanager
def opened(folder: Path, repositories: Path) -> Iterator[Lab]:
    """A lab with TinyVIRAT-shaped data on its volume and the project's code on its git server; its namespace goes with the block."""
    image = images.job_image()
    namespace = f"lab-{secrets.token_hex(3)}"
    with git_server.serve(repositories) as git:
        commit = git.publish("vidjobs", images.PROJECT)
        try:
            researcher = arrive(folder, namespace)
            researcher.vidjobs("volume", "create", "runs", "--size", "4Gi")
            researcher.vidjobs("volume", "create", "data", "--size", "512Mi")
            lab = Lab(researcher, image, git, commit, folder)
            _put_data(lab)
            yield lab
        finally:
            kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found")


def _put_data(lab: Lab) -> None:
    """Make the dataset where a person would copy it: in a pod of the job image that mounts the claim."""
    make = f"python -m trainer.synthetic --out /data/TinyVIRAT --train {CLIPS} --test 12 --seed 1"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "put-data"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "put",
                    "image": lab.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": [
                        "sh",
                        "-c",
                        f"git clone --quiet {lab.git.url('vidjobs')} /tmp/code && cd /tmp/code && {make}",
                    ],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    }
    place = f"--namespace={lab.researcher.namespace}"
    kubectl("apply", place, "--filename=-", text=json.dumps(pod))
    ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated.reason}"
    kubectl("wait", place, "pod/put-data", ended, "--timeout=120s")
    (container,) = get("pod", "put-data", place)["status"]["containerStatuses"]
    assert container["state"]["terminated"]["exitCode"] == 0, kubectl("logs", place, "put-data")
    kubectl("delete", place, "pod", "put-data", "--now")
