"""What a run does, from the dicts of its Job, pods, events and claims. Pure, so that every state can be tested without a cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher import exit_codes
from launcher.backend_base import IndexStatus, Phase, PodStatus, RunStatus
from launcher.backends.kube import causes
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.causes import NOTHING, Cause, Claims
from launcher.backends.kube.pods import Object
from launcher.indexes import failure, parse_ranges, summary

CANCELLED = "vidjobs/cancelled"  # annotation of the Job: when `vidjobs cancel` was typed
_FOLLOWED = 75  # exit code of a node that lost another one
# the Job controller's words about a podFailurePolicy
_EXIT_CODE = re.compile(r"failed with exit code (\d+) matching")
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the cluster says about one run. Without events and claims the cause is less precise, never wrong."""

    job: Object | None
    pods: Sequence[Object] = ()
    events: Sequence[Object] = ()
    claims: Claims = field(default_factory=Claims)


def run_status(run: str, facts: Facts) -> RunStatus:
    """Phase, cause and next step of one run."""
    pods = pod_of.oldest_first(facts.pods)
    phase, cause = _phase(run, facts, pods)
    said = next((message for message in map(causes.termination, reversed(pods)) if message), {})
    return RunStatus(
        run=run,
        phase=phase,
        cause=cause.text,
        fix=cause.fix,
        pods=tuple(map(_pod, pods)),
        termination=said,
        created=str((facts.job or {}).get("metadata", {}).get("creationTimestamp") or ""),
        indexes=indexes_of(run, facts),
    )


def indexes_of(run: str, facts: Facts) -> dict[int, IndexStatus]:
    """What each trial or shard does, as far as it has begun: the Job knows those that are done, their pods tell of the others."""
    job = facts.job
    if job is None or not pod_of.indexed(job):
        return {}
    said = job.get("status", {})
    done, failed = (
        set(parse_ranges(said.get(key, ""))) for key in ("completedIndexes", "failedIndexes")
    )
    found = {number: IndexStatus(phase=Phase.FAILED) for number in failed}
    found |= {number: IndexStatus(phase=Phase.SUCCEEDED) for number in done}
    for pod in pod_of.oldest_first(facts.pods):
        number, phase = pod_of.index(pod), _pod_phase(pod)
        if number in done:
            continue  # an earlier attempt
        if phase is Phase.FAILED:
            if number not in failed and pod_of.job_ended(job) == "suspended":
                # stopped by `cancel`, in the moment before its pod is taken away: nothing tries it
                # again
                continue
            phase = (
                Phase.FAILED
                if number in failed or pod_of.job_ended(job) == "failed"
                else Phase.RETRYING
            )
            found[number] = IndexStatus(phase=phase, cause=causes.failure(pod, run).text)
        elif phase is Phase.PENDING:
            found[number] = IndexStatus(
                phase=phase, cause=causes.not_scheduled(pod, facts.claims).text
            )
        elif number not in failed:
            found[number] = IndexStatus(phase=phase)
    return dict(sorted(found.items()))


def _phase(run: str, facts: Facts, pods: list[Object]) -> tuple[Phase, Cause]:
    job = facts.job
    ended = pod_of.job_ended(job)
    if job is None or ended == "gone":
        fix = f"what it wrote is still on its volume: `vidjobs fetch all {run}`"
        return Phase.GONE, Cause(
            "its Job is no longer in the cluster (deleted, or past its ttl)", fix
        )
    if ended == "succeeded":
        return Phase.SUCCEEDED, NOTHING
    if ended == "failed":
        return Phase.FAILED, _job_failure(run, facts, pods)
    if ended == "suspended":
        return _suspended(run, job, facts, pods)
    live = pod_of.live(pods)
    if live and pod_of.nodes(job) > 1:
        return _group(live, facts, retry=len(live) < len(pods))
    if live:
        running = [
            pod
            for pod in live
            if pod_of.container_state(pod, pod_of.main_container(pod)) == "running"
        ]
        # of shards, one that works: the others may wait for their turn
        shown = (running or live)[-1]
        failed = any(pod.get("status", {}).get("phase") == "Failed" for pod in pods)
        return _live(shown, facts, retry=failed)
    return _between(run, job, facts, pods)


def _group(live: list[Object], facts: Facts, *, retry: bool) -> tuple[Phase, Cause]:
    """Nodes that train together: the first that keeps the others waiting, or is in trouble."""
    total = pod_of.nodes(facts.job or {})
    by_index = sorted(live, key=pod_of.index)
    waiting = [
        pod
        for pod in by_index
        if pod_of.container_state(pod, pod_of.main_container(pod)) != "running"
    ]
    run = f"{len(live) - len(waiting)} of {total} nodes run"
    for pod in waiting or by_index:
        phase, cause = _live(pod, facts, retry=retry)
        if waiting or cause.text:
            return phase, Cause(f"{run}, node {pod_of.index(pod)}: {cause.text}", cause.fix)
    if len(live) < total:
        return Phase.RETRYING, Cause(f"{run}; the others are to be started again within minutes")
    return Phase.RUNNING, NOTHING


def _telling(job: Mapping[str, Any], failed: list[Object]) -> Object:
    """The failed pod to speak of: the last; of nodes that ended together one that did not only follow another (75)."""
    together = failed[-pod_of.nodes(job) :]
    own = [pod for pod in together if _pod(pod).exit_code != _FOLLOWED]
    return (own or together)[-1]


def in_queue(job: Mapping[str, Any]) -> str:
    """The queue that holds the Job back; "" when none does, as after `vidjobs cancel`."""
    cancelled = CANCELLED in job["metadata"].get("annotations", {})
    held = pod_of.job_ended(job) == "suspended" and not cancelled
    return str(job["metadata"].get("labels", {}).get(_QUEUE_LABEL, "")) if held else ""


def _suspended(
    run: str, job: Mapping[str, Any], facts: Facts, pods: list[Object]
) -> tuple[Phase, Cause]:
    if queue := in_queue(job):
        return Phase.PENDING, causes.queued(
            queue, causes.workload_of(job, facts.events), facts.events
        )
    if pod_of.live(pods):
        return Phase.CANCELLED, Cause("stopping: the trainer writes its checkpoint", "")
    return Phase.CANCELLED, Cause("", f"`vidjobs resume {run}` goes on from its last checkpoint")


def _live(pod: Object, facts: Facts, *, retry: bool) -> tuple[Phase, Cause]:
    waiting = Phase.RETRYING if retry else Phase.PENDING
    node = pod.get("spec", {}).get("nodeName", "")
    state = pod_of.container_state(pod, pod_of.main_container(pod))
    if state == "running":
        trouble = _node_trouble(pod, node)
        return Phase.RUNNING, trouble if trouble.text else _together(facts)
    if not node:
        cause = causes.not_scheduled(pod, facts.claims)
        return waiting, cause if cause.text else Cause("waits for a node")
    if state == "terminated":
        return Phase.RUNNING, Cause("the trainer has ended; its pod is being wound up")
    if pod["metadata"].get("deletionTimestamp"):
        return Phase.STARTING, Cause(
            f"{causes.disrupted(pod) or 'its pod was deleted'} before the trainer began; the next one follows"
        )
    cause = causes.not_started(pod, facts.events)
    return Phase.STARTING, cause if cause.text else Cause(
        f"node {node} prepares it (image, volumes)"
    )


def _together(facts: Facts) -> Cause:
    """How far the trials or shards of a run are; nothing for a run of one pod."""
    job = facts.job
    if job is None or not pod_of.indexed(job):
        return NOTHING
    name = str(job["metadata"]["name"])
    return Cause(
        summary(pod_of.word(job), int(job["spec"]["completions"]), indexes_of(name, facts))
    )


def _node_trouble(pod: Object, node: str) -> Cause:
    """A running pod that is no longer ready: nobody hears of its node, or it is being stopped."""
    disruption = pod_of.condition(pod, "DisruptionTarget")
    stopping = pod["metadata"].get("deletionTimestamp")
    unready = pod_of.condition(pod, "Ready").get("status") == "False"
    # the node itself says so: a container beside the trainer
    beside = pod_of.condition(pod, "ContainersReady").get("status") == "False"
    lost = unready and not beside and not stopping
    if lost or disruption.get("reason") == "DeletionByTaintManager":
        run = str(pod["metadata"].get("labels", {}).get(pod_of.RUN_LABEL) or "RUN")
        fix = f"when Kubernetes gives the node up, a retry goes on from the last checkpoint; `vidjobs rerun {run}` does not wait for that"
        return Cause(f"node {node} lost, waiting", fix)
    if stopping:
        return Cause(
            f"{causes.disrupted(pod) or 'being stopped'}: the trainer writes its checkpoint"
        )
    return NOTHING


def _between(run: str, job: Object, facts: Facts, pods: list[Object]) -> tuple[Phase, Cause]:
    """No pod is alive and the Job goes on: not created yet, refused, or between two attempts."""
    newest = max((pod["metadata"].get("creationTimestamp", "") for pod in pods), default="")
    refusal = causes.not_created(job, facts.events, newest)
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    if not failed:
        # a pod that was deleted leaves only this number
        again = bool(job.get("status", {}).get("failed"))
        what = (
            "its last pod is gone, the next is about to be created"
            if again
            else "its pod is about to be created"
        )
        return Phase.RETRYING if again else Phase.PENDING, refusal if refusal.text else Cause(what)
    if refusal.text:
        return Phase.RETRYING, refusal
    last = causes.failure(_telling(job, failed), run)
    limit = job["spec"].get("backoffLimitPerIndex", job["spec"].get("backoffLimit", 6))
    attempts = int(limit) + 1
    if pod_of.indexed(job):
        far = _together(facts).text
        return Phase.RETRYING, Cause(
            f"{far}; the last that failed: {last.text}; its next attempt starts within minutes",
            last.fix,
        )
    # the Job does not count what was taken from outside
    counted = [pod for pod in failed if not causes.disrupted(pod)]
    if len(counted) < len(failed) and causes.disrupted(_telling(job, failed)):
        return Phase.RETRYING, Cause(
            f"{last.text}; the next attempt starts within minutes", last.fix
        )
    if pod_of.nodes(job) > 1:
        then = (
            "all nodes start again within minutes"
            if len(counted) < attempts
            else "that was the last time"
        )
        return Phase.RETRYING, Cause(
            f"{len(counted)} pods have failed, and {limit} may ({last.text}); {then}", last.fix
        )
    then = "the next starts within minutes" if len(counted) < attempts else "none is left"
    return Phase.RETRYING, Cause(
        f"attempt {len(counted)} of {attempts} failed ({last.text}); {then}", last.fix
    )


def _job_failure(run: str, facts: Facts, pods: list[Object]) -> Cause:
    """The Job's own reason, and the last pod's."""
    job = facts.job or {}
    condition = pod_of.condition(job, "Failed") or pod_of.condition(job, "FailureTarget")
    reason = condition.get("reason", "")
    if reason == "DeadlineExceeded":
        seconds = job["spec"].get("activeDeadlineSeconds", "")
        return Cause(
            f"stopped after job.deadline ({seconds} s)",
            f"raise job.deadline; `--from {run}@last` starts from its checkpoint",
        )
    failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"]
    # its pods have gone; of a failure that is not tried again the Job kept the exit code
    if not failed:
        said = str(condition.get("message") or reason or "failed")
        code = _EXIT_CODE.search(said)
        if code:
            return Cause(exit_codes.meaning(int(code[1])), exit_codes.next_step(int(code[1]), run))
        return Cause(said, f"`vidjobs logs {run}` shows what is left of its log")
    last = causes.failure(_telling(job, failed), run)
    if reason in ("FailedIndexes", "MaxFailedIndexesExceeded"):
        many = ", more than sweep.max_failed allows" if reason == "MaxFailedIndexesExceeded" else ""
        text = failure(pod_of.word(job), int(job["spec"]["completions"]), indexes_of(run, facts))
        return Cause(
            f"{text}{many}",
            f"`vidjobs sweep status {run}` says why each"
            if pod_of.word(job) == "trials"
            else last.fix,
        )
    if reason == "BackoffLimitExceeded" and len(failed) > 1:
        # of several nodes each attempt has several
        what = "attempts" if pod_of.nodes(job) == 1 else "pods"
        return Cause(f"{len(failed)} {what} failed, the last: {last.text}", last.fix)
    return last


def _pod(pod: Object) -> PodStatus:
    status = pod.get("status", {})
    container = pod_of.container_status(pod, pod_of.main_container(pod))
    main = container.get("state", {})
    ended = main.get("terminated", {})
    started = main.get("running", ended).get("startedAt") or status.get("startTime") or ""
    return PodStatus(
        name=pod_of.name(pod),
        phase=_pod_phase(pod),
        node=pod.get("spec", {}).get("nodeName", ""),
        exit_code=ended.get("exitCode"),
        reason=_pod_reason(pod, ended),
        started=started,
        finished=ended.get("finishedAt") or "",
        image=str(container.get("imageID") or ""),
    )


def _pod_reason(pod: Object, ended: Mapping[str, Any]) -> str:
    """One word: "OOMKilled", "Evicted", "Completed", "PreemptionByScheduler"; of a failed first container its name."""
    if pod["status"].get("phase") == "Failed":
        disruption = pod_of.condition(pod, "DisruptionTarget")
        init = pod_of.failed_init(pod)
        reason = pod["status"].get("reason") or disruption.get("reason") or ended.get("reason")
        return str(reason or (f"Init:{init['name']}" if init else ""))
    return str(ended.get("reason") or "")


def _pod_phase(pod: Object) -> Phase:
    phase = pod.get("status", {}).get("phase")
    if phase == "Succeeded":
        return Phase.SUCCEEDED
    if phase == "Failed":
        return Phase.FAILED
    if pod_of.container_state(pod, pod_of.main_container(pod)) in ("running", "terminated"):
        return Phase.RUNNING
    return Phase.STARTING if pod.get("spec", {}).get("nodeName") else Phase.PENDING
