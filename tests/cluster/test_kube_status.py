"""`status` says why a run does not run, or why it failed, and what to do: each cause made for real."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from conftest import Lab
from researcher import kubectl

from launcher.backend_base import Phase, RunStatus
from launcher.errors import AdmissionError

pytestmark = pytest.mark.cluster


def has_cause(status: RunStatus) -> bool:
    return bool(status.fix)


def test_too_many_gpus(kube: Lab) -> None:
    """The scheduler's counted reason, how many were asked for, and the way out."""
    record = kube.submit("true", container={"resources": {"limits": {"nvidia.com/gpu": "9"}}})
    status = kube.wait(record, has_cause)
    assert status.phase is Phase.PENDING
    assert "Insufficient nvidia.com/gpu (asks for 9)" in status.cause
    assert "fewer" in status.fix


def test_a_gpu_type_that_no_node_has(kube: Lab) -> None:
    """The label that was asked for is named."""
    term = {
        "matchExpressions": [
            {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["Tesla-K80"]}
        ]
    }
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}
        }
    }
    status = kube.wait(kube.submit("true", affinity=affinity), has_cause)
    assert "nvidia.com/gpu.product=Tesla-K80" in status.cause
    assert "gpu_type" in status.fix


@pytest.mark.parametrize(
    ("claim", "storage_class", "expected"),
    [("slow", "no-such-class", "not bound"), ("absent", None, "does not exist")],
)
def test_a_claim_that_is_not_bound_or_not_there(
    kube: Lab, claim: str, storage_class: str | None, expected: str
) -> None:
    """The claim is named, and how to get one."""
    if storage_class:
        kube.backend.create_volume(
            claim, size="1Gi", access="ReadWriteOnce", storage_class=storage_class
        )
    volumes = [{"name": "runs", "persistentVolumeClaim": {"claimName": claim}}]
    status = kube.wait(kube.submit("true", volumes=volumes), has_cause)
    assert status.phase is Phase.PENDING
    assert f'"{claim}"' in status.cause
    assert expected in status.cause


def test_an_image_that_is_nowhere(kube: Lab) -> None:
    """Named, with the runtime's reason."""
    status = kube.wait(
        kube.submit("true", container={"image": "registry.invalid/lab/x:1"}), has_cause
    )
    assert status.phase is Phase.STARTING
    assert 'image "registry.invalid/lab/x:1" cannot be pulled' in status.cause
    assert "pull_secrets" in status.fix


def test_a_secret_that_is_not_there(kube: Lab) -> None:
    """The kubelet's own sentence names it."""
    env = [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "git", "key": "token"}}}]
    status = kube.wait(kube.submit("true", container={"env": env}), has_cause)
    assert 'secret "git" not found' in status.cause


@pytest.fixture
def quota(kube: Lab) -> Iterator[None]:
    kubectl(
        "create",
        "quota",
        "gpus",
        "--hard=requests.nvidia.com/gpu=1",
        f"--namespace={kube.namespace}",
    )
    time.sleep(1)
    yield
    kubectl("delete", "quota", "gpus", f"--namespace={kube.namespace}")


def test_a_used_up_quota(kube: Lab, quota: None) -> None:
    """The Job is accepted and waits: the refusal of its pod is an event. A server dry run says it at once."""
    gpus = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
    status = kube.wait(kube.submit("true", container=gpus), has_cause)
    assert status.phase is Phase.PENDING
    assert "exceeded quota: gpus, requested: requests.nvidia.com/gpu=2" in status.cause
    with pytest.raises(AdmissionError, match="exceeded quota: gpus"):
        kube.backend.submit([kube.job("true", container=gpus)], dry_run=True)


@pytest.fixture
def restricted(kube: Lab) -> Iterator[None]:
    label = "pod-security.kubernetes.io/enforce"
    kubectl("label", "namespace", kube.namespace, f"{label}=restricted")
    time.sleep(1)  # the API server hears of it a moment later
    yield
    kubectl("label", "namespace", kube.namespace, f"{label}-")


def test_a_root_pod_in_a_restricted_namespace(kube: Lab, restricted: None) -> None:
    """`submit` refuses it with the server's whole message; a Job made by other means says so in `status`."""
    job = kube.job("true", securityContext={"runAsUser": 0})
    with pytest.raises(
        AdmissionError, match=r'violates PodSecurity "restricted:latest".*seccompProfile'
    ) as refusal:
        kube.backend.submit([job])
    assert "runAsNonRoot != true" in refusal.value.message
    kubectl("create", f"--namespace={kube.namespace}", "--filename=-", text=json.dumps(job))
    status = kube.wait(kube.record(job), has_cause)
    assert "violates PodSecurity" in status.cause


def test_a_data_error_tells_the_trainers_own_words(kube: Lab) -> None:
    """Exit code and termination message; the Job's podFailurePolicy fails it at once."""
    message = json.dumps(
        {
            "cause": "data",
            "message": "clips/a.mp4 is empty",
            "exit_code": 65,
            "step": 12,
            "checkpoint": "state-000001.pt",
        }
    )
    job = kube.job(f"echo '{message}' > /dev/termination-log; exit 65", retries=3)
    rule = {
        "action": "FailJob",
        "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [64, 65, 73, 76]},
    }
    job["spec"]["podFailurePolicy"] = {"rules": [rule]}
    kube.backend.submit([job])
    status = kube.wait(kube.record(job), lambda status: status.phase.ended)
    assert status.phase is Phase.FAILED
    assert "exit code 65" in status.cause
    assert "clips/a.mp4 is empty" in status.cause
    assert status.termination["step"] == 12
    assert [pod.exit_code for pod in status.pods] == [65]


def test_out_of_memory(kube: Lab) -> None:
    """The limit it went over is named."""
    container = {
        "command": ["python", "-c", "x = bytearray(200 << 20)"],
        "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
    }
    status = kube.wait(kube.submit("", container=container), lambda status: status.phase.ended)
    assert status.phase is Phase.FAILED
    assert "64Mi" in status.cause
    assert status.pods[0].reason == "OOMKilled"
    assert "job.resources.memory" in status.fix


def test_a_deadline(kube: Lab) -> None:
    """Stopped by its own deadline, not by a fault."""
    job = kube.job("sleep 60")
    job["spec"]["activeDeadlineSeconds"] = 3
    kube.backend.submit([job])
    status = kube.wait(kube.record(job), lambda status: status.phase.ended)
    assert status.phase is Phase.FAILED
    assert "job.deadline (3 s)" in status.cause


def test_a_failed_checkout(kube: Lab) -> None:
    """The first container is named, with its last words."""
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    # one stream: two may change places
    script = "echo cloning >&2; echo no such commit >&2; exit 65"
    first = {
        "name": "code",
        "image": kube.image,
        "command": ["sh", "-c", script],
        "securityContext": restricted,
    }
    record = kube.submit(
        "true", initContainers=[first | {"terminationMessagePolicy": "FallbackToLogsOnError"}]
    )
    status = kube.wait(record, lambda status: status.phase.ended)
    assert 'first container "code" failed with exit code 65: no such commit' in status.cause


def test_between_two_attempts_and_when_all_have_failed(kube: Lab) -> None:
    """RETRYING says which attempt failed why; FAILED counts them."""
    record = kube.submit("exit 70", retries=1)
    status = kube.wait(record, lambda status: status.phase is Phase.RETRYING)
    assert "attempt 1 of 2 failed (exit code 70" in status.cause
    status = kube.wait(record, lambda status: status.phase.ended)
    assert status.cause.startswith("2 attempts failed, the last: exit code 70")


def test_a_run_whose_job_is_gone(kube: Lab) -> None:
    """Deleted by hand or by its ttl: the files may still be there."""
    record = kube.record(kube.job("true"))
    status = kube.backend.status(record)
    assert status.phase is Phase.GONE
    assert "fetch" in status.fix
