"""One training on several pods of a real Kubernetes: they meet by a headless Service, lose one, come back, and end as if nothing was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from researcher import evict, get
from service_names import answered
from training_lab import Lab, cpu, more_than_half_the_memory, same

pytestmark = pytest.mark.cluster

INDEX = "batch.kubernetes.io/job-completion-index"
# in three epochs; each batch leaves two clips or more to each node, which BatchNorm needs
STEPS = 18


def _conf(lab: Lab, name: str, **job: Any) -> str:
    """A few epochs, and the checkpoint that a stop asks for; the cache is one for all runs, and no GPU: nothing here needs one."""
    resources = {
        "cpu": cpu(pods=int(job["nodes"])),
        "memory": "2Gi",
        "shm": "64Mi",
        "scratch": "1Gi",
    }
    return lab.conf(
        name,
        data={
            "name": "tinyvirat",
            "root": "${data}/TinyVIRAT",
            "frames": 16,
            "size": 48,
            "cache": "${runs}/nodes-cache",
        },
        model={"name": "squeezenet_3d"},
        train={
            "epochs": 9,
            "max_steps": STEPS,
            "batch": 6,
            "optimizer": "sgd",
            "lr": 1e-3,
            "checkpoint_steps": 1,
            "keep_weights": "last:1",
        },
        compute={"threads": 1, "workers": 0, "processes": 1},
        job={"resources": resources, "join_timeout": "3m"} | job,
    )


@pytest.fixture(scope="module", autouse=True)
def _names(lab: Lab) -> Iterator[None]:
    """Pods find each other by the names of a headless Service, so the cluster's DNS must know Services."""
    with answered(lab) as found:
        if not found:
            pytest.skip(
                "this cluster's DNS does not know its Services: pods cannot find each other by name"
            )
        yield


@pytest.mark.parametrize("nodes", [2, 3])
def test_pods_train_lose_one_and_come_back_to_the_same_weights(lab: Lab, nodes: int) -> None:
    """The evicted pod checkpoints with the others, all end with 75, all come back and resume; the end is the uninterrupted run's."""
    place = f"--namespace={lab.researcher.namespace}"
    broken = lab.submit("train", _conf(lab, f"broken-{nodes}", nodes=nodes))
    lab.says(broken, r"step=2\b")
    lost = _of_node(lab, broken, nodes - 1)
    evict(lab.researcher.namespace, lost)
    lab.wait_for(broken, lambda status: status["phase"] == "succeeded")
    # not before: two groups could wait for each other's places
    whole = lab.submit("train", _conf(lab, f"whole-{nodes}", nodes=nodes))

    job = get("job", broken, place)
    assert (job["spec"]["completions"], job["spec"]["backoffLimit"]) == (nodes, 2 * nodes)
    pods = {pod["metadata"]["name"]: pod for pod in lab.researcher.pods(broken)}
    states = {
        name: pod["status"]["containerStatuses"][0]["state"].get("terminated")
        for name, pod in pods.items()
    }
    ended = {name: state for name, state in states.items() if state}
    assert {state["exitCode"] for state in ended.values()} == {0, 75}
    # with this the Job has succeeded; the others may be on their way out
    assert ended[_of_node(lab, broken, 0)]["exitCode"] == 0
    assert lost not in {name for name, pod in pods.items() if pod["status"]["phase"] == "Succeeded"}
    (followed, *_) = [
        json.loads(state["message"]) for state in ended.values() if state["exitCode"] == 75
    ]
    assert followed["cause"] == "stopped"
    assert followed["checkpoint"].startswith("state-")

    console = lab.researcher.vidjobs("logs", broken)
    resumed = re.search(rf"resumed at step (\d+) of {STEPS}", console)
    assert resumed
    assert 2 <= int(resumed[1]) < STEPS
    assert "node 1: " not in console
    everyone = lab.researcher.vidjobs("logs", broken, "--all-pods")
    assert all(f"node {node}: all {nodes} nodes are here" in everyone for node in range(1, nodes))
    service = get("service", broken, place)
    assert service["metadata"]["ownerReferences"][0]["name"] == broken

    lab.wait_for(whole, lambda status: status["phase"] == "succeeded")
    mine, theirs = _losses(lab, broken), _losses(lab, whole)
    assert len(mine) == STEPS
    assert mine == theirs
    assert same(lab.weights(broken), lab.weights(whole))


def test_a_pod_that_finds_no_node_is_waited_for_and_named(lab: Lab) -> None:
    """The one that runs gives up in time (75) and is tried again; `status` says what the other one lacks."""
    if len(get("nodes")["items"]) != 1:
        pytest.skip("made for one node, where the second pod finds no other")
    resources = {
        "cpu": cpu(pods=2),
        "memory": more_than_half_the_memory(),
        "shm": "64Mi",
        "scratch": "1Gi",
    }
    run = lab.submit(
        "train", _conf(lab, "alone", nodes=2, resources=resources, join_timeout="20s", retries=1)
    )
    status = lab.wait_for(run, lambda status: "1 of 2 nodes run, node" in status["cause"])
    assert "Insufficient memory" in status["cause"]
    status = lab.wait_for(run, lambda status: any(pod["exit_code"] == 75 for pod in status["pods"]))
    assert "for peers: node" in status["termination"]["message"]
    lab.researcher.vidjobs("delete", run, "--yes")


def _of_node(lab: Lab, run: str, node: int) -> str:
    """Name of the newest pod of a node."""
    return str(
        [
            pod
            for pod in lab.researcher.pods(run)
            if pod["metadata"]["annotations"][INDEX] == str(node)
        ][-1]["metadata"]["name"]
    )


def _losses(lab: Lab, run: str) -> list[float]:
    """Of each step, which must come once and in order."""
    records = [record for record in lab.metrics(run) if record["phase"] == "train"]
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    return [record["loss"] for record in records]
