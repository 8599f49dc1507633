"""Status from the objects' dicts alone: states that a one-node cluster cannot be brought into, and stale events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launcher.backend_base import Phase
from launcher.backends.kube.causes import Claims
from launcher.backends.kube.status import CANCELLED, Facts, run_status

RUN = "tiny-train-abc123"
NOW = "2026-11-21T11:00:"


def job(
    *,
    conditions: list[dict[str, Any]] | None = None,
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    metadata = {"name": RUN, "labels": labels or {}, "annotations": {}}
    return {
        "metadata": metadata,
        "spec": {"backoffLimit": 5, **spec},
        "status": {"conditions": conditions or []},
    }


def pod(
    name: str = "p1",
    phase: str = "Running",
    *,
    state: dict[str, Any] | None = None,
    node: str = "n1",
    created: str = "00",
    **more: Any,
) -> dict[str, Any]:
    containers = [{"name": "trainer", "state": state}] if state else []
    status = {"phase": phase, "containerStatuses": containers, **more}
    metadata = {"name": name, "uid": name, "creationTimestamp": f"{NOW}{created}Z"}
    limits = {"limits": {"nvidia.com/gpu": "2", "memory": "32Gi"}}
    spec = {
        "containers": [{"name": "trainer", "resources": limits}],
        **({"nodeName": node} if node else {}),
    }
    return {"metadata": metadata, "spec": spec, "status": status}


def condition(kind: str, value: str = "True", **more: str) -> dict[str, str]:
    return {"type": kind, "status": value, **more}


def event(name: str, kind: str, reason: str, message: str, at: str, **more: Any) -> dict[str, Any]:
    return {
        "metadata": {},
        "involvedObject": {"name": name},
        "type": kind,
        "reason": reason,
        "message": message,
        "lastTimestamp": f"{NOW}{at}Z",
        **more,
    }


RUNNING = {"running": {"startedAt": f"{NOW}05Z"}}


def ended(code: int, **more: str) -> dict[str, Any]:
    return {
        "terminated": {
            "exitCode": code,
            "startedAt": f"{NOW}05Z",
            "finishedAt": f"{NOW}09Z",
            **more,
        }
    }


def test_a_node_that_is_lost_is_waited_for() -> None:
    """The pod still says Running, but nobody hears of it."""
    lost = pod(state=RUNNING, node="gpu-7", conditions=[condition("Ready", "False")])
    status = run_status(RUN, Facts(job=job(), pods=[lost]))
    assert (status.phase, status.cause) == (Phase.RUNNING, "node gpu-7 lost, waiting")
    assert "retry" in status.fix


def test_a_container_beside_the_trainer_that_is_not_ready_is_no_lost_node() -> None:
    """Of a lost node's pod Kubernetes changes Ready alone; a node that lives says which of its containers are not ready."""
    conditions = [
        condition("Ready", "False", reason="ContainersNotReady"),
        condition("ContainersReady", "False"),
    ]
    status = run_status(
        RUN, Facts(job=job(), pods=[pod(state=RUNNING, node="gpu-7", conditions=conditions)])
    )
    assert (status.phase, status.cause) == (Phase.RUNNING, "")
    conditions = [condition("Ready", "False"), condition("ContainersReady")]
    status = run_status(
        RUN, Facts(job=job(), pods=[pod(state=RUNNING, node="gpu-7", conditions=conditions)])
    )
    assert status.cause == "node gpu-7 lost, waiting"


def test_a_pod_that_is_being_preempted_says_so_afterwards() -> None:
    """Preemption is not the run's fault: the retry resumes."""
    gone = pod(
        phase="Failed",
        state=ended(75),
        conditions=[
            condition("DisruptionTarget", reason="PreemptionByScheduler", message="by a/b")
        ],
    )
    status = run_status(RUN, Facts(job=job(), pods=[gone]))
    assert status.phase is Phase.RETRYING
    assert "preempted by a pod of higher priority" in status.cause
    assert status.pods[0].reason == "PreemptionByScheduler"


def test_what_was_taken_from_outside_is_no_attempt_that_counts() -> None:
    """The Job ignores it: with no retry allowed another pod comes all the same."""
    evicted = pod(
        phase="Failed",
        state=ended(75),
        conditions=[condition("DisruptionTarget", reason="EvictionByEvictionAPI")],
    )
    status = run_status(RUN, Facts(job=job(backoffLimit=0), pods=[evicted]))
    assert status.phase is Phase.RETRYING
    assert "attempt 1 of 1" not in status.cause
    assert "evicted" in status.cause
    crashed = pod("p2", "Failed", state=ended(70))
    crashed["metadata"]["creationTimestamp"] = "2027-01-01T00:00:00Z"
    assert (
        "attempt 1 of 3 failed"
        in run_status(RUN, Facts(job=job(backoffLimit=2), pods=[evicted, crashed])).cause
    )
    assert run_status(RUN, Facts(job=job(backoffLimit=0), pods=[crashed])).cause.endswith(
        "; none is left"
    )


def test_an_eviction_for_scratch_space_names_the_key_to_raise() -> None:
    """The kubelet's message is kept."""
    message = "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi."
    gone = pod(phase="Failed", reason="Evicted", message=message)
    status = run_status(
        RUN,
        Facts(
            job=job(conditions=[condition("Failed", reason="BackoffLimitExceeded")]), pods=[gone]
        ),
    )
    assert status.phase is Phase.FAILED
    assert message in status.cause
    assert "job.resources.scratch" in status.fix


def test_success_counts_before_the_last_pod_is_wound_up() -> None:
    """A pod stuck in Terminating held `Complete` for 23 hours; SuccessCriteriaMet came at once."""
    stuck = pod(phase="Running", state=ended(0))
    assert (
        run_status(
            RUN, Facts(job=job(conditions=[condition("SuccessCriteriaMet")]), pods=[stuck])
        ).phase
        is Phase.SUCCEEDED
    )
    assert (
        run_status(RUN, Facts(job=job(conditions=[condition("FailureTarget")]), pods=[stuck])).phase
        is Phase.FAILED
    )


def test_a_refusal_that_has_been_overcome_is_not_told_any_more() -> None:
    """Events live for an hour: a FailedCreate older than the pod it finally got is history."""
    refusal = event(
        RUN,
        "Warning",
        "FailedCreate",
        'Error creating: pods "x" is forbidden: exceeded quota: q, requested: cpu=4',
        "10",
    )
    status = run_status(RUN, Facts(job=job(), events=[refusal]))
    assert status.cause == "the namespace's quota is used up: exceeded quota: q, requested: cpu=4"
    created = event(RUN, "Normal", "SuccessfulCreate", "Created pod: p1", "20")
    assert "quota" not in run_status(RUN, Facts(job=job(), events=[refusal, created])).cause
    failed = pod(phase="Failed", state=ended(70), created="15")
    assert "quota" not in run_status(RUN, Facts(job=job(), pods=[failed], events=[refusal])).cause


def test_a_mount_that_failed_is_told_until_it_succeeds() -> None:
    """Multi-Attach: another node holds the volume."""
    waiting = pod(
        phase="Pending",
        state={"waiting": {"reason": "ContainerCreating"}},
        conditions=[condition("PodScheduled")],
    )
    scheduled = event("p1", "Normal", "Scheduled", "", "01")
    trouble = event(
        "p1",
        "Warning",
        "FailedAttachVolume",
        "Multi-Attach error for volume pvc-1: already used by pod x",
        "05",
    )
    status = run_status(RUN, Facts(job=job(), pods=[waiting], events=[scheduled, trouble]))
    assert status.phase is Phase.STARTING
    assert "Multi-Attach" in status.cause
    assert "RWO" in status.fix
    attached = event("p1", "Normal", "SuccessfulAttachVolume", "", "09")
    assert (
        "Multi-Attach"
        not in run_status(RUN, Facts(job=job(), pods=[waiting], events=[trouble, attached])).cause
    )


def test_events_of_the_new_api_have_no_first_or_last_timestamp() -> None:
    """The scheduler's events carry eventTime or a series instead."""
    waiting = pod(
        phase="Pending",
        state={"waiting": {"reason": "ContainerCreating"}},
        conditions=[condition("PodScheduled")],
    )
    trouble = event(
        "p1",
        "Warning",
        "FailedMount",
        "MountVolume.SetUp failed",
        "05",
        series={"lastObservedTime": f"{NOW}30.000000Z"},
    )
    trouble["lastTimestamp"] = None
    pulled = event("p1", "Normal", "Pulled", "", "20")
    assert (
        "MountVolume.SetUp failed"
        in run_status(RUN, Facts(job=job(), pods=[waiting], events=[trouble, pulled])).cause
    )


@pytest.mark.parametrize(
    ("message", "cause", "fix"),
    [
        (
            "0/9 nodes are available: 4 Insufficient nvidia.com/gpu, 5 node(s) had untolerated taint {x: }. preemption: 0/9",
            "(asks for 2)",
            "nvidia.com/gpu",
        ),
        (
            "0/9 nodes are available: 9 Insufficient memory. no new claims to deallocate",
            "9 Insufficient memory",
            "job.resources.memory",
        ),
        (
            "0/9 nodes are available: 9 Insufficient cpu, 9 Insufficient memory.",
            "(asks for memory 32Gi)",
            "less in job.resources.cpu and job.resources.memory",
        ),
        (
            "0/9 nodes are available: 9 Insufficient ephemeral-storage.",
            "ephemeral-storage",
            "job.resources.scratch",
        ),
        (
            "0/9 nodes are available: 9 node(s) had untolerated taint {a: b}.",
            "untolerated taint {a: b}",
            "job.tolerations",
        ),
        (
            "0/9 nodes are available: 9 node(s) had volume node affinity conflict.",
            "volume node affinity",
            "volume",
        ),
    ],
)
def test_the_schedulers_counted_reasons_are_kept_and_each_has_its_fix(
    message: str, cause: str, fix: str
) -> None:
    """Without the talk about preemption."""
    waiting = pod(
        phase="Pending",
        node="",
        conditions=[condition("PodScheduled", "False", reason="Unschedulable", message=message)],
    )
    status = run_status(RUN, Facts(job=job(), pods=[waiting]))
    assert status.phase is Phase.PENDING
    assert cause in status.cause
    assert fix in status.fix
    assert "preemption" not in status.cause


def test_nodes_that_are_avoided_are_named_and_how_to_undo_it() -> None:
    """Where labels are asked for too, both may be why."""
    message = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    waiting = pod(
        phase="Pending",
        node="",
        conditions=[condition("PodScheduled", "False", reason="Unschedulable", message=message)],
    )
    term: dict[str, Any] = {
        "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]
    }
    waiting["spec"]["affinity"] = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}
        }
    }
    waiting["metadata"]["labels"] = {"vidjobs/run": RUN}
    status = run_status(RUN, Facts(job=job(), pods=[waiting]))
    assert status.cause.endswith("(avoids n1)")
    assert status.fix.endswith(
        f"`vidjobs delete {RUN}` and `vidjobs rerun {RUN} --set job.avoid_nodes=[]`"
    )
    term["matchExpressions"] = [{"key": "gpu", "operator": "In", "values": ["a", "b"]}]
    status = run_status(RUN, Facts(job=job(), pods=[waiting]))
    assert status.cause.endswith("(asks for gpu=a or b, avoids n1)")
    assert "gpu_type" in status.fix


def test_what_a_failed_job_kept_of_its_pods_is_told_when_they_have_gone() -> None:
    message = "Container trainer for pod ns/r-abc failed with exit code 73 matching FailJob rule at index 1"
    failed = job()
    failed["status"]["conditions"] = [
        {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": message}
    ]
    status = run_status(RUN, Facts(job=failed))
    assert (status.phase, status.cause) == (
        Phase.FAILED,
        "exit code 73: the run folder could not be written",
    )
    assert f"vidjobs resume {RUN}" in status.fix


def test_after_a_pod_that_was_deleted_the_run_is_tried_again() -> None:
    before = job()
    assert run_status(RUN, Facts(job=before)).phase is Phase.PENDING
    before["status"]["failed"] = 1
    status = run_status(RUN, Facts(job=before))
    assert (status.phase, status.cause) == (
        Phase.RETRYING,
        "its last pod is gone, the next is about to be created",
    )


def test_a_pod_that_is_deleted_before_it_began_is_told() -> None:
    waiting = pod(
        phase="Pending",
        state={"waiting": {"reason": "ContainerCreating"}},
        conditions=[condition("PodScheduled")],
    )
    waiting["metadata"]["deletionTimestamp"] = "2026-11-21T11:00:00Z"
    status = run_status(RUN, Facts(job=job(), pods=[waiting]))
    assert status.cause == "its pod was deleted before the trainer began; the next one follows"


def test_a_secret_that_is_not_there_is_named_with_what_to_do() -> None:
    state = {
        "waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}
    }
    status = run_status(
        RUN,
        Facts(
            job=job(),
            pods=[pod(phase="Pending", state=state, conditions=[condition("PodScheduled")])],
        ),
    )
    assert (
        status.fix == "create the secret hub, or correct its name: the node tries again by itself"
    )


def test_all_claims_that_are_missing_are_named() -> None:
    waiting = pod(
        phase="Pending",
        node="",
        conditions=[condition("PodScheduled", "False", message="persistentvolumeclaim not found")],
    )
    status = run_status(
        RUN, Facts(job=job(), pods=[waiting], claims=Claims(found={"data": None, "runs": None}))
    )
    assert status.cause == 'volume claims "data" and "runs" do not exist'
    assert (
        "`vidjobs volume create data --size SIZE`, `vidjobs volume create runs --size SIZE`"
        in status.fix
    )


def test_a_claim_that_waits_for_its_first_pod_is_no_cause() -> None:
    """WaitForFirstConsumer is how some storage classes work."""
    claim = {"metadata": {"name": "runs"}, "spec": {}, "status": {"phase": "Pending"}}
    waits = event("runs", "Normal", "WaitForFirstConsumer", "waiting for first consumer", "01")
    message = "0/1 nodes are available: 1 Insufficient cpu."
    waiting = pod(
        phase="Pending",
        node="",
        conditions=[condition("PodScheduled", "False", reason="Unschedulable", message=message)],
    )
    status = run_status(
        RUN, Facts(job=job(), pods=[waiting], claims=Claims(found={"runs": claim}, events=[waits]))
    )
    assert "Insufficient cpu" in status.cause


def test_a_queue_holds_a_job_and_a_person_cancels_it() -> None:
    """Both are suspended; only the person's is CANCELLED."""
    queued = job(suspend=True, labels={"kueue.x-k8s.io/queue-name": "gpu"})
    status = run_status(RUN, Facts(job=queued))
    assert status.phase is Phase.PENDING
    assert '"gpu"' in status.cause
    queued["metadata"]["annotations"][CANCELLED] = "2026-11-21T11:00:00Z"
    assert run_status(RUN, Facts(job=queued)).phase is Phase.CANCELLED
    assert run_status(RUN, Facts(job=job(suspend=True))).phase is Phase.CANCELLED


def test_a_trial_that_cancel_stopped_is_not_said_to_be_tried_again() -> None:
    """In the moment between its end and the pod's removal: the trainer's own record says that it was stopped."""
    stopped = pod(phase="Failed", state=ended(75))
    stopped["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": "1"}
    sweep = job(completionMode="Indexed", completions=3, backoffLimitPerIndex=2)
    assert run_status(RUN, Facts(job=sweep, pods=[stopped])).indexes[1].phase is Phase.RETRYING
    sweep["spec"]["suspend"] = True
    assert 1 not in run_status(RUN, Facts(job=sweep, pods=[stopped])).indexes


def test_a_retry_that_waits_for_a_node_is_retrying() -> None:
    """The first pod failed, the second has no node yet: why it waits is told."""
    failed = pod("p1", "Failed", state=ended(75))
    conditions = [
        condition(
            "PodScheduled",
            "False",
            reason="Unschedulable",
            message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        )
    ]
    second = pod("p2", "Pending", node="", created="30", conditions=conditions)
    status = run_status(RUN, Facts(job=job(), pods=[second, failed]))
    assert status.phase is Phase.RETRYING
    assert "Insufficient" in status.cause
    assert [one.name for one in status.pods] == ["p1", "p2"]


def test_a_termination_message_that_is_no_json_is_shown_by_its_last_line() -> None:
    """A crash before the trainer could write one: FallbackToLogsOnError gives the log's tail."""
    crashed = pod(
        phase="Failed", state=ended(139, message="loading\nSegmentation fault (core dumped)\n")
    )
    status = run_status(
        RUN,
        Facts(
            job=job(conditions=[condition("Failed", reason="BackoffLimitExceeded")]), pods=[crashed]
        ),
    )
    assert "Segmentation fault (core dumped)" in status.cause
    assert status.termination == {}


def test_the_last_line_of_what_was_killed_is_not_told_as_its_cause() -> None:
    """The kubelet gives the log's tail here, too; SIGKILL has nothing to do with it."""
    killed = pod(phase="Failed", state=ended(137, message="train Loss: 0.1 epoch=1\n"))
    status = run_status(
        RUN,
        Facts(
            job=job(conditions=[condition("Failed", reason="BackoffLimitExceeded")]), pods=[killed]
        ),
    )
    assert "SIGKILL" in status.cause
    assert "Loss" not in status.cause


@pytest.mark.parametrize(
    ("message", "cause", "told"),
    [
        ("[" * 4000, "exit code 1: [[[[", {}),
        ('{"a":' * 600 + "1" + "}" * 600, "exit code 1", {}),
        ("9" * 4096, "exit code 1: 9999", {}),
        (
            '{"message": null, "step": NaN, "epoch": 3, "checkpoint": [1]}',
            "exit code 1",
            {"epoch": 3},
        ),
        (
            "\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m \x00\x9b2Jend\r\n",
            "exit code 1: red   2Jend",
            {},
        ),
        (
            '{"message": "\\u001b[2Jall is well\\nnode lost"}',
            "exit code 1: all is well",
            {"message": "\x1b[2Jall is well\nnode lost"},
        ),
    ],
    ids=["deep list", "deep object", "huge number", "odd values", "terminal", "terminal in json"],
)
def test_whatever_a_container_says_at_its_end_is_inert(
    message: str, cause: str, told: dict[str, Any]
) -> None:
    failed = pod("p1", "Failed", state=ended(1, message=message))
    status = run_status(
        RUN,
        Facts(
            job=job(conditions=[condition("Failed", reason="BackoffLimitExceeded")]), pods=[failed]
        ),
    )
    assert status.cause.startswith(cause)
    assert status.cause.isprintable()
    assert status.termination == told
    json.dumps(dict(status.termination), allow_nan=False)
