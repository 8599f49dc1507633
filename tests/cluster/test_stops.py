"""Trainings on a real Kubernetes that are stopped from outside: deleted, preempted, cancelled. What goes on ends as if nothing had been."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from researcher import get, kubectl, watched
from training_lab import Lab, cpu, more_than_half_the_memory, same

pytestmark = pytest.mark.cluster

EPOCHS = 3
Weights = Callable[[], dict[str, Any]]


def _conf(lab: Lab, name: str, **job: Any) -> str:
    """Steps enough to be stopped between them; no checkpoint but those of epochs, and the one that a stop asks for."""
    resources = {"cpu": cpu(), "memory": "2Gi", "shm": "64Mi", "scratch": "1Gi"}
    return lab.conf(
        name,
        data={
            "name": "tinyvirat",
            "root": "${data}/TinyVIRAT",
            "frames": 16,
            "size": 48,
            "cache": "${runs}/stops-cache",
        },
        model={"name": "squeezenet_3d"},
        train={"epochs": EPOCHS, "batch": 6, "lr": 1e-3, "keep_weights": "last:1"},
        compute={"threads": 1, "workers": 0},
        job={"resources": resources} | job,
    )


@pytest.fixture(scope="module")
def expected(lab: Lab) -> Weights:
    """The last weights of a run that nobody stopped; it trains meanwhile."""
    run = lab.submit("train", _conf(lab, "whole"))

    @cache
    def weights() -> dict[str, Any]:
        lab.wait_for(run, lambda status: status["phase"] == "succeeded")
        return lab.weights(run)

    return weights


@pytest.fixture
def urgent() -> Iterator[str]:
    """A PriorityClass above that of trainings."""
    name = f"urgent-{secrets.token_hex(3)}"
    kubectl("create", "priorityclass", name, "--value=1000")
    yield name
    kubectl("delete", "priorityclass", name)


def test_a_deleted_pod_is_replaced_and_its_training_goes_on(lab: Lab, expected: Weights) -> None:
    """The retry resumes: no step is lost or done twice in the run's records, and the last epoch is whole."""
    run = lab.submit("train", _conf(lab, "deleted"))
    lab.says(run, r"step=3\b")
    (first,) = (pod["metadata"]["name"] for pod in lab.researcher.pods(run))

    kubectl("delete", "pod", first, f"--namespace={lab.researcher.namespace}", "--wait=false")
    lines = lab.researcher.vidjobs("logs", run, "--follow", "--all-pods", seconds=240).splitlines()

    lab.wait_for(run, lambda status: status["phase"] == "succeeded")
    assert [pod["metadata"]["name"] for pod in lab.researcher.pods(run)] != [first]
    assert any("resumed at step" in line for line in lines)
    # the kubelet's words, not the trainer's
    assert not any("unable to retrieve container logs" in line for line in lines)
    _assert_as_if_nothing_had_been(lab, run, expected)


def test_a_preempted_pod_saves_and_its_training_goes_on(
    lab: Lab, expected: Weights, urgent: str
) -> None:
    """More than half of the node twice is too much: the scheduler takes the trainer's pod away for an urgent one. No retry is spent."""
    if len(get("nodes")["items"]) != 1:
        pytest.skip("made for one node: elsewhere the urgent pod goes to another")
    memory, place = more_than_half_the_memory(), f"--namespace={lab.researcher.namespace}"
    resources = {"cpu": cpu(), "memory": memory, "shm": "64Mi", "scratch": "1Gi"}
    run = lab.submit("train", _conf(lab, "preempted", resources=resources, retries=0))
    lab.says(run, r"step=3\b")
    (first,) = (pod["metadata"]["name"] for pod in lab.researcher.pods(run))

    with watched(lab.researcher.namespace, first) as newest:
        kubectl("apply", place, "--filename=-", text=json.dumps(_short_pod(lab, memory, urgent)))
        kubectl(
            "wait",
            place,
            "pod/urgent",
            "--for=jsonpath={.status.phase}=Succeeded",
            "--timeout=120s",
        )
        taken = newest()
    kubectl("delete", place, "pod", "urgent", "--wait=false")

    (why,) = (each for each in taken["status"]["conditions"] if each["type"] == "DisruptionTarget")
    assert (why["status"], why["reason"]) == ("True", "PreemptionByScheduler")
    ended = taken["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 75
    said = json.loads(ended["message"])
    assert said["cause"] == "stopped"
    assert said["checkpoint"].startswith("state-")

    lab.wait_for(run, lambda status: status["phase"] == "succeeded")
    assert first not in {
        pod["metadata"]["name"]
        for pod in lab.researcher.pods(run)
        if pod["status"]["phase"] == "Succeeded"
    }
    assert f"resumed at step {said['step']} " in lab.researcher.vidjobs("logs", run)
    _assert_as_if_nothing_had_been(lab, run, expected)


def test_cancel_keeps_the_state_and_resume_goes_on(lab: Lab, expected: Weights) -> None:
    """A cancelled training has stopped after a step and given its place back; resumed, it ends as if nothing had been."""
    run = lab.submit("train", _conf(lab, "cancelled"))
    lab.says(run, r"step=3\b")

    lab.researcher.vidjobs("cancel", run)
    lab.wait_for(
        run, lambda status: status["phase"] == "cancelled" and not lab.researcher.pods(run)
    )
    lab.researcher.vidjobs("resume", run)

    lines = lab.researcher.vidjobs("logs", run, "--follow", seconds=240).splitlines()
    lab.wait_for(run, lambda status: status["phase"] == "succeeded")
    assert any("resumed at step" in line for line in lines)
    _assert_as_if_nothing_had_been(lab, run, expected)


def _assert_as_if_nothing_had_been(lab: Lab, run: str, expected: Weights) -> None:
    """metrics.jsonl has each step and each epoch once, in order, and the weights are those of the run that was left alone."""
    records = lab.metrics(run)
    steps = [record["step"] for record in records if record["phase"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert [record["epoch"] for record in records if record["phase"] == "val"] == list(
        range(1, EPOCHS + 1)
    )
    assert same(lab.weights(run), expected())


def _short_pod(lab: Lab, memory: str, priority: str) -> dict[str, Any]:
    """A pod that asks for the memory, uses none of it, and ends at once."""
    container = {
        "name": "main",
        "image": lab.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["true"],
        "resources": {"requests": {"memory": memory}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    ids = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "restartPolicy": "Never",
        "priorityClassName": priority,
        "securityContext": ids,
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "urgent"}, "spec": spec}
