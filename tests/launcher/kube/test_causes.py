"""Why a run waits, from recorded events of things that the test cluster has not: Kueue, webhooks, attached disks, preemption."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.backends.kube import causes
from launcher.backends.kube.status import Facts, run_status

RUN = "tiny-train-abc123"


def event(name: str, reason: str, message: str, at: str, kind: str = "Warning") -> dict[str, Any]:
    return {
        "metadata": {},
        "involvedObject": {"name": name},
        "type": kind,
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
    }


def held(**metadata: Any) -> dict[str, Any]:
    labels = {"kueue.x-k8s.io/queue-name": "lab"}
    return {
        "metadata": {"name": RUN, "labels": labels, "annotations": {}, **metadata},
        "spec": {"suspend": True},
        "status": {},
    }


@pytest.mark.parametrize(
    ("reason", "message", "cause", "fix"),
    [
        (
            "Pending",
            "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor default, 2 more needed",
            "2 more needed",
            "ask for less",
        ),
        (
            "Inadmissible",
            "LocalQueue lab doesn't exist",
            "takes nothing: LocalQueue lab doesn't exist",
            "job.queue",
        ),
        ("Inadmissible", "ClusterQueue gpus is inactive", "takes nothing", "job.queue"),
        ("Started", "whatever", 'waits in the queue "lab" to be admitted', "wait for its turn"),
    ],
)
def test_kueue_s_own_word_is_shown(reason: str, message: str, cause: str, fix: str) -> None:
    """Of the newest event of the workload that it made for the Job."""
    events = [
        event(
            RUN,
            "CreatedWorkload",
            "Created Workload: ns/job-tiny-12ab3",
            "2026-11-21T10:00:00Z",
            "Normal",
        ),
        event("job-tiny-12ab3", "Pending", "an older reason", "2026-11-21T10:00:01Z", "Normal"),
        event("job-tiny-12ab3", reason, message, "2026-11-21T10:05:00Z", "Normal"),
    ]
    status = run_status(RUN, Facts(job=held(), events=events))
    assert cause in status.cause
    assert fix in status.fix


@pytest.mark.parametrize(
    ("message", "cause", "fix"),
    [
        (
            "exceeded quota: high-priority-ban, requested: pods=1, used: pods=0, limited: pods=0",
            "high-priority-ban",
            "nrp-priority",
        ),
        (
            "exceeded quota: gpus, requested: requests.nvidia.com/gpu=2",
            "quota is used up",
            "ask for less",
        ),
        (
            'admission webhook "job.nrp-nautilus.io" denied the request: Your pods resources utilization is too low for account',
            "a rule of the site refuses the pod",
            "nrp-cpu-band",
        ),
        (
            'admission webhook "x.example" denied the request: no priority today',
            "a rule of the site refuses the pod",
            "change what it names",
        ),
        ("no PriorityClass with name high was found", "the priority is refused", "job.priority"),
        ("maximum cpu usage per Container is 2, but limit is 4", "LimitRange", "job.resources"),
        (
            "failed quota: q: must specify limits.memory for: trainer",
            "wants more said",
            "job.resources",
        ),
    ],
)
def test_a_refusal_says_who_refused_and_what_helps(message: str, cause: str, fix: str) -> None:
    """Site rules that we know come with our rule's id."""
    found = causes.refused(message)
    assert cause in found.text
    assert fix in found.fix


USED = (
    "exceeded quota: q, requested: limits.cpu=200m,pods=1, used: limits.cpu=2900m,pods=3, limited:"
)
ALONE = "exceeded quota: q, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=0"


@pytest.mark.parametrize(
    ("message", "text", "fix"),
    [
        (f"{USED} limits.cpu=3,pods=9", "the namespace's quota is used up", "wait until"),
        (f"{USED} limits.cpu=200m,pods=3", "the namespace's quota is used up", "wait until"),
        (
            f"{USED} limits.cpu=199m,pods=3",
            "the namespace's quota never allows it (limits.cpu=200m of 199m)",
            "waiting is in vain",
        ),
        (ALONE, "never allows it (requests.nvidia.com/gpu=1 of 0)", "larger quota"),
        ("exceeded quota: told otherwise", "the namespace's quota is used up", "wait until"),
    ],
)
def test_a_quota_that_no_wait_will_satisfy_is_told_apart(message: str, text: str, fix: str) -> None:
    found = causes.refused(message)
    assert text in found.text
    assert message in found.text
    assert fix in found.fix


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        (
            'MountVolume.SetUp failed for volume "keys" : secret "git" not found',
            "create the secret git",
        ),
        (
            'MountVolume.SetUp failed for volume "c" : configmap "x-code" not found',
            "create the configmap x-code",
        ),
        (
            'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) other-train',
            "one-node (RWO)",
        ),
        (
            "Unable to attach or mount volumes: unmounted volumes=[runs]: timed out waiting for the condition",
            "administrators",
        ),
        ("rpc error: code = Internal desc = rbd map failed", "tries again"),
    ],
)
def test_a_failed_mount_has_a_fix_of_its_own(message: str, fix: str) -> None:
    """By what the kubelet says."""
    pod = {
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [{"name": "trainer"}]},
        "status": {"phase": "Pending"},
    }
    found = causes.not_started(pod, [event("p", "FailedMount", message, "2026-11-21T10:00:00Z")])
    assert found.text.startswith("a volume cannot be mounted on n1: ")
    assert fix in found.fix


def test_a_crash_loop_by_memory() -> None:
    """The last end of the container is what counts."""
    last = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    one = {
        "name": "trainer",
        "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": last,
    }
    pod = {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "trainer"}]},
        "status": {"containerStatuses": [one]},
    }
    found = causes.not_started(pod, [])
    assert "4 restarts" in found.text
    assert "OOMKilled" in found.text
    assert "memory" in found.fix
