"""More of why a run does not run or has failed, each made for real: limits, mounts, evictions, crash loops, queues, policies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import Lab
from researcher import evict, kubectl

from launcher.backend_base import Phase, RunStatus
from launcher.errors import AdmissionError

pytestmark = pytest.mark.cluster


def has_cause(status: RunStatus) -> bool:
    return bool(status.fix)


@pytest.fixture
def limit_range(kube: Lab) -> Iterator[None]:
    limits = [{"type": "Container", "max": {"memory": "128Mi"}}]
    thing = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "small"},
        "spec": {"limits": limits},
    }
    kubectl("create", f"--namespace={kube.namespace}", "--filename=-", text=json.dumps(thing))
    time.sleep(1)
    yield
    kubectl("delete", "limitrange", "small", f"--namespace={kube.namespace}")


def test_more_than_a_limit_range_allows(kube: Lab, limit_range: None) -> None:
    """`submit` is refused before the Job is made; a Job made by other means says it in `status`."""
    job = kube.job("true", container={"resources": {"limits": {"memory": "1Gi", "cpu": "1"}}})
    with pytest.raises(
        AdmissionError, match="maximum memory usage per Container is 128Mi"
    ) as refusal:
        kube.backend.submit([job])
    assert "job.resources" in refusal.value.hint
    kubectl("create", f"--namespace={kube.namespace}", "--filename=-", text=json.dumps(job))
    status = kube.wait(kube.record(job), has_cause)
    assert status.phase is Phase.PENDING
    assert status.cause.startswith(
        "a LimitRange of the namespace refuses the pod: maximum memory usage per Container is 128Mi"
    )


def test_a_volume_that_cannot_be_mounted(kube: Lab) -> None:
    """The kubelet's sentence; and when what was missing is there, the old warning is forgotten."""
    volumes = [{"name": "keys", "secret": {"secretName": "absent"}}]
    container = {"volumeMounts": [{"name": "keys", "mountPath": "/keys"}]}
    record = kube.submit("sleep 30", container=container, volumes=volumes)
    status = kube.wait(record, has_cause)
    assert status.phase is Phase.STARTING
    assert 'secret "absent" not found' in status.cause
    assert status.fix.startswith("create the secret absent")
    kubectl(
        "create",
        "secret",
        "generic",
        "absent",
        "--from-literal=a=b",
        f"--namespace={kube.namespace}",
    )
    status = kube.wait(record, lambda status: status.phase is Phase.RUNNING, seconds=180)
    assert status.cause == ""
    kube.backend.delete(record)


def test_evicted_as_a_drained_node_does(kube: Lab) -> None:
    """By the eviction API: said while the trainer writes its checkpoint; then the next attempt runs."""
    job = kube.job("trap 'sleep 3; exit 75' TERM; while :; do sleep 0.2; done", retries=1)
    ignore = {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    job["spec"]["podFailurePolicy"] = {"rules": [ignore]}
    kube.backend.submit([job])
    record = kube.record(job)
    first = kube.wait(record, lambda status: status.phase is Phase.RUNNING).pods[0].name
    evict(kube.namespace, first)
    status = kube.wait(record, lambda status: bool(status.cause), seconds=5)
    assert status.cause == "evicted, as a drained node does: the trainer writes its checkpoint"
    kube.wait(
        record, lambda status: status.phase is Phase.RUNNING and status.pods[-1].name != first
    )
    kube.backend.delete(record)


def test_evicted_for_its_disk(kube: Lab) -> None:
    """More local disk than its limit: the node evicts it; the fix names the key."""
    container = {
        "resources": {"limits": {"ephemeral-storage": "1Mi", "memory": "64Mi", "cpu": "500m"}}
    }
    mount = {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    script = "head -c 20000000 /dev/zero > /tmp/x; sleep 120"
    record = kube.submit(
        script, container=container | mount, volumes=[{"name": "tmp", "emptyDir": {}}]
    )
    status = kube.wait(record, lambda status: status.phase.ended, seconds=120)
    assert status.phase is Phase.FAILED
    assert status.cause.startswith(
        "evicted: Pod ephemeral local storage usage exceeds the total limit of containers 1Mi"
    )
    assert "job.resources.scratch" in status.fix


def test_a_crash_loop(kube: Lab) -> None:
    """Of a Job whose pods are restarted in place."""
    job = kube.job("echo no such file; exit 3", retries=6, restartPolicy="OnFailure")
    kube.backend.submit([job])
    record = kube.record(job)
    status = kube.wait(record, lambda status: "again and again" in status.cause)
    assert "exit code 3: no such file" in status.cause
    kube.backend.delete(record)


def test_held_in_a_queue(kube: Lab) -> None:
    """Kueue keeps the Job suspended and says why in events: those are written by hand here, since it is not installed."""
    job = kube.job("true")
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "lab"
    job["spec"]["suspend"] = True
    kube.backend.submit([job])
    record = kube.record(job)
    assert kube.backend.status(record).cause == 'waits in the queue "lab" to be admitted'
    name, workload = job["metadata"]["name"], f"job-{job['metadata']['name']}-1a2b3"
    short = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor default, 2 more needed"
    _event(
        kube,
        "Job",
        name,
        reason="CreatedWorkload",
        message=f"Created Workload: {kube.namespace}/{workload}",
    )
    _event(kube, "Workload", workload, reason="Pending", message=short)
    status = kube.wait(record, lambda status: "insufficient" in status.cause, seconds=10)
    assert status.phase is Phase.PENDING
    assert status.cause == f'waits in the queue "lab": {short}'
    kube.backend.cancel(record)
    assert kube.backend.status(record).phase is Phase.CANCELLED


def _event(kube: Lab, kind: str, name: str, *, reason: str, message: str) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    what = {"kind": kind, "name": name, "namespace": kube.namespace}
    event = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "kueue-"}, "involvedObject": what, "reason": reason,
        "message": message, "type": "Normal", "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        "source": {"component": "batch/job-kueue-controller"},
    }  # fmt: skip
    kubectl("create", f"--namespace={kube.namespace}", "--filename=-", text=json.dumps(event))


@pytest.fixture
def no_busybox(kube: Lab) -> Iterator[str]:
    """A policy of this namespace's pods, as a site has."""
    name = f"{kube.namespace}-owner"
    selector = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kube.namespace}}
    }
    matched = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }
    rule = {
        "expression": "'owner' in object.metadata.?labels.orValue({})",
        "message": "label your pods with an owner",
    }
    spec: dict[str, Any] = {
        "matchConstraints": {"resourceRules": [matched], **selector},
        "validations": [rule],
    }
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
    bound = {"policyName": name, "validationActions": ["Deny"]}
    binding = policy | {"kind": "ValidatingAdmissionPolicyBinding", "spec": bound}
    for thing in (policy, binding):
        kubectl("create", "--filename=-", text=json.dumps(thing))
    time.sleep(2)
    yield name
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        kubectl("delete", kind, name)


def test_a_policy_of_the_site(kube: Lab, no_busybox: str) -> None:
    """Its name and its message, in `submit` and in `status`."""
    job = kube.job("true")
    with pytest.raises(AdmissionError, match="label your pods with an owner"):
        kube.backend.submit([job])
    kubectl("create", f"--namespace={kube.namespace}", "--filename=-", text=json.dumps(job))
    status = kube.wait(kube.record(job), has_cause)
    assert status.phase is Phase.PENDING
    assert status.cause.startswith("a rule of the site refuses the pod: ")
    assert no_busybox in status.cause
    assert "label your pods with an owner" in status.cause
    kubectl("delete", "job", job["metadata"]["name"], f"--namespace={kube.namespace}")
