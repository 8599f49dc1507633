"""One training on two pods of a real Kubernetes: they meet by a headless Service, lose one, come back, and end as if nothing had been."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import torch
from researcher import evict, get, kubectl
from test_end_to_end import Lab, lab  # noqa: F401  the same lab, opened for this module

pytestmark = pytest.mark.cluster

INDEX = "batch.kubernetes.io/job-completion-index"
NODES = 2
STEPS = 8


def _conf(lab: Lab, name: str, **job: Any) -> str:  # noqa: F811
    """A few steps over all clips, a checkpoint after each; the cache is one for both runs, and no GPU: nothing here needs one."""
    resources = {"cpu": "300m", "memory": "2Gi", "shm": "64Mi", "scratch": "1Gi"}
    return lab.conf(
        name,
        data={"name": "tinyvirat", "root": "${data}/TinyVIRAT", "frames": 16, "size": 32, "cache": "${runs}/nodes-cache"},
        model={"name": "squeezenet_3d"},
        train={"epochs": 9, "max_steps": STEPS, "batch": 4, "lr": 1e-3, "checkpoint_steps": 1, "keep_weights": "last:1"},
        compute={"threads": 1, "workers": 0, "processes": 1},
        job={"resources": resources, "nodes": NODES, "join_timeout": "3m"} | job,
    )


def _of_node(lab: Lab, run: str, node: int) -> str:  # noqa: F811
    """Name of the newest pod of a node."""
    return str([pod for pod in lab.researcher.pods(run) if pod["metadata"]["annotations"][INDEX] == str(node)][-1]["metadata"]["name"])


def _log_holds(lab: Lab, run: str, pattern: str, *, seconds: float = 150) -> str:  # noqa: F811
    end = time.monotonic() + seconds
    while not re.search(pattern, log := lab.researcher.vidjobs("logs", run)):
        assert time.monotonic() < end, f"{run} never said {pattern}: {log}"
        time.sleep(1)
    return log


@pytest.fixture(scope="module", autouse=True)
def _names(lab: Lab) -> None:  # noqa: F811
    """Pods find each other by the names of a headless Service, so the cluster's DNS must know Services."""
    ask = "import socket, sys\ntry: socket.gethostbyname('kubernetes.default')\nexcept OSError: sys.exit(1)"
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    ids = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": "ask",
        "image": lab.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", ask],
        "securityContext": security,
    }
    spec = {"restartPolicy": "Never", "securityContext": ids, "containers": [container]}
    place = f"--namespace={lab.researcher.namespace}"
    kubectl("apply", place, "--filename=-", text=json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ask"}, "spec": spec}))
    kubectl("wait", place, "pod/ask", "--for=jsonpath={.status.containerStatuses[0].state.terminated.reason}", "--timeout=60s")
    (asked,) = get("pod", "ask", place)["status"]["containerStatuses"]
    if asked["state"]["terminated"]["exitCode"]:
        pytest.skip("this cluster's DNS does not know its Services: pods cannot find each other by name")


def test_two_pods_train_lose_one_and_come_back_to_the_same_weights(lab: Lab) -> None:  # noqa: F811
    """The evicted pod checkpoints with the other, both end with 75, both come back and resume; the end is the uninterrupted run's."""
    place = f"--namespace={lab.researcher.namespace}"
    broken = lab.submit("train", _conf(lab, "broken"))
    _log_holds(lab, broken, r"step=2\b")
    lost = _of_node(lab, broken, 1)
    evict(lab.researcher.namespace, lost)
    whole = lab.submit("train", _conf(lab, "whole"))

    lab.wait_for(broken, lambda status: status["phase"] == "succeeded", seconds=240)
    job = get("job", broken, place)
    assert (job["spec"]["completions"], job["spec"]["backoffLimit"]) == (NODES, 2 * NODES)
    pods = {pod["metadata"]["name"]: pod for pod in lab.researcher.pods(broken)}
    ended = [pod["status"]["containerStatuses"][0]["state"]["terminated"] for pod in pods.values()]
    codes = sorted(each["exitCode"] for each in ended)
    assert codes in ([0, 0, 75], [0, 0, 75, 75]), codes  # an evicted pod may be gone already
    assert lost not in {name for name, pod in pods.items() if pod["status"]["phase"] == "Succeeded"}
    (followed, *_) = [json.loads(each["message"]) for each in ended if each["exitCode"] == 75]
    assert followed["cause"] == "stopped"
    assert followed["checkpoint"].startswith("state-")

    console = lab.researcher.vidjobs("logs", broken)
    assert re.search(r"resumed at step [2-9]", console)
    assert "node 1: " not in console
    assert "node 1: all 2 nodes are here" in lab.researcher.vidjobs("logs", broken, "--all-pods")
    service = get("service", broken, place)
    assert service["metadata"]["ownerReferences"][0]["name"] == broken

    lab.wait_for(whole, lambda status: status["phase"] == "succeeded", seconds=240)
    mine, theirs = (_weights(lab, run) for run in (broken, whole))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], value) for key, value in theirs.items())
    assert _steps(lab, broken) == list(range(1, STEPS + 1))


def test_a_pod_that_finds_no_node_is_waited_for_and_named(lab: Lab) -> None:  # noqa: F811
    """The one that runs gives up in time (75) and is tried again; `status` says what the other one lacks."""
    resources = {"cpu": "1100m", "memory": "2Gi", "shm": "64Mi", "scratch": "1Gi"}
    free = get("nodes")["items"][0]["status"]["allocatable"]["cpu"]
    if free != "2":
        pytest.skip(f"made for a node of 2 CPUs, this one has {free}")
    run = lab.submit("train", _conf(lab, "alone", resources=resources, join_timeout="20s", retries=1))
    status = lab.wait_for(run, lambda status: "1 of 2 nodes run, node" in status["cause"], seconds=90)
    assert "Insufficient cpu" in status["cause"]
    status = lab.wait_for(run, lambda status: any(pod["exit_code"] == 75 for pod in status["pods"]), seconds=120)
    assert "for peers: node" in status["termination"]["message"]
    lab.researcher.vidjobs("delete", run, "--yes")


def _weights(lab: Lab, run: str) -> dict[str, torch.Tensor]:  # noqa: F811
    out = lab.folder / f"{run}-weights"
    lab.researcher.vidjobs("fetch", "checkpoints", run, "--last", "--out", str(out))
    (path,) = (out / "checkpoints").glob("epoch-*.pt")
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


def _steps(lab: Lab, run: str) -> list[int]:  # noqa: F811
    out = lab.folder / f"{run}-metrics"
    lab.researcher.vidjobs("fetch", "metrics", run, "--out", str(out))
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if record["phase"] == "train"]
