"""Why a pod does not run or has failed, in one line, with the next step. Pure: from the objects' dicts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from launcher import exit_codes
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube import quotas
from launcher.backends.kube.pods import Object
from launcher.site_rules import named_by

_PROGRESS = frozenset(
    {
        "Scheduled",
        "SuccessfulAttachVolume",
        "Pulled",
        "Created",
        "Started",
        "SuccessfulCreate",
        "ProvisioningSucceeded",
    }
)
# colours, titles, jumps
_STEERING = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.")
_GPU = re.compile(r"Insufficient ([\w.-]+/[\w.-]*\w)")
_DISRUPTIONS = {
    "PreemptionByScheduler": "preempted by a pod of higher priority",
    "DeletionByTaintManager": "its node was lost or drained",
    "EvictionByEvictionAPI": "evicted, as a drained node does",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "evicted by its node",
}
_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
    }
)
# resource -> its key of job.resources
_SCARCE = {"cpu": "cpu", "memory": "memory", "ephemeral-storage": "scratch"}
_KUEUE_WAITS = frozenset(
    {
        "Pending",
        "Inadmissible",
        "Preempted",
        "QuotaReserved",
        "EvictedDueToPreempted",
        "AdmissionCheckRejected",
    }
)
_CREATE = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"}
)


class Cause(NamedTuple):
    """One line each; both empty when nothing is wrong."""

    text: str = ""
    fix: str = ""


NOTHING = Cause()


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The claims that a run mounts, as they are: None where there is no such claim."""

    found: Mapping[str, Object | None] = field(default_factory=dict)
    events: Sequence[Object] = ()


def event_time(event: Mapping[str, Any]) -> str:
    """RFC 3339; the new events API leaves first and last timestamps empty."""
    series = event.get("series") or {}
    times = (
        event.get("lastTimestamp"),
        series.get("lastObservedTime"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )
    return next((str(time) for time in times if time), "")


def current_warning(events: Sequence[Object], name: str, *, since: str = "") -> Object | None:
    """The newest warning about the object, unless progress came after it: an event outlives its cause by an hour."""
    mine = [event for event in events if event.get("involvedObject", {}).get("name") == name]
    progress = max(
        (event_time(event) for event in mine if event.get("reason") in _PROGRESS), default=""
    )
    after = max(progress, since)
    warnings = [
        event
        for event in mine
        if event.get("type") == "Warning" and _seconds(event_time(event)) >= _seconds(after)
    ]
    return max(warnings, key=event_time, default=None)


def not_created(job: Mapping[str, Any], events: Sequence[Object], newest_pod: str) -> Cause:
    """The Job has no pod: what the API server said when the controller tried to make one."""
    event = current_warning(events, str(job["metadata"]["name"]), since=newest_pod)
    if event is None or event.get("reason") != "FailedCreate":
        return NOTHING
    message = str(event.get("message", "")).removeprefix("Error creating: ")
    return refused(_without_name(message))


def refused(message: str) -> Cause:
    """An admission refusal of a pod, by what refused it; a site's rule that we know is named with its fix."""
    rule = named_by(message)
    if rule is not None:
        return Cause(f"a rule of the site refuses the pod: {message}", f"{rule.fix} [{rule.id}]")
    if "exceeded quota" in message:
        quota = quotas.refusal(message)
        return Cause(f"{quota.text}: {message}", quota.fix)
    if "violates PodSecurity" in message:
        return Cause(
            f"the namespace refuses the pod: {message}",
            "change what it names, or use another namespace",
        )
    if "must specify" in message:
        return Cause(
            f"a quota of the namespace wants more said: {message}",
            "set the resources it names in job.resources",
        )
    if "per Container" in message or "per Pod" in message:
        return Cause(
            f"a LimitRange of the namespace refuses the pod: {message}",
            "change job.resources to stay inside it",
        )
    if "admission webhook" in message or "ValidatingAdmissionPolicy" in message:
        return Cause(f"a rule of the site refuses the pod: {message}", "change what it names")
    if "no PriorityClass" in message or "priority" in message.lower():
        return Cause(
            f"the priority is refused: {message}",
            "leave out job.priority, or use one that the site allows",
        )
    return Cause(f"the pod cannot be created: {message}", "change what it names, then submit again")


def not_scheduled(pod: Mapping[str, Any], claims: Claims) -> Cause:
    """The scheduler found no node: its counted reasons, kept as they are."""
    condition = pod_of.condition(pod, "PodScheduled")
    if condition.get("status") == "True":
        return NOTHING
    volume = unbound(claims)
    message = str(condition.get("message", ""))
    if volume.text and (not message or "persistentvolumeclaim" in message.lower()):
        return volume
    if condition.get("reason") == "SchedulingGated":
        return Cause(
            "held by a scheduling gate: a queue has not admitted it yet", "wait for its turn"
        )
    if not message:
        return NOTHING
    short = message.split(" preemption:")[0].split(" no new claims to deallocate")[0].rstrip(" ,.")
    return Cause(
        f"no node can take it: {short}{_asked(pod, message)}", _scheduling_fix(message, pod)
    )


def unbound(claims: Claims) -> Cause:
    """All claims that are missing, or the first one that is not bound."""
    missing = [name for name, claim in claims.found.items() if claim is None]
    if missing:
        named = " and ".join(f'"{name}"' for name in missing)
        create = ", ".join(f"`vidjobs volume create {name} --size SIZE`" for name in missing)
        text = (
            f"volume claims {named} do not exist"
            if missing[1:]
            else f"volume claim {named} does not exist"
        )
        return Cause(text, f"{create}, or correct job.volumes")
    for name, claim in claims.found.items():
        assert claim is not None
        phase = claim.get("status", {}).get("phase")
        if phase == "Lost":
            return Cause(
                f'volume claim "{name}" has lost its volume',
                "ask the cluster's administrators; its files may be gone",
            )
        if phase != "Bound":
            said = max(
                (event for event in claims.events if event["involvedObject"].get("name") == name),
                key=event_time,
                default=None,
            )
            if said is not None and said.get("reason") == "WaitForFirstConsumer":
                continue  # bound when a pod that uses it finds a node
            storage = claim["spec"].get("storageClassName", "the default")
            why = f": {said['message']}" if said else ""
            fix = f'is "{storage}" a storage class that exists and has room? delete the claim and create it anew'
            return Cause(f'volume claim "{name}" is not bound{why}', fix)
    return NOTHING


def not_started(pod: Mapping[str, Any], events: Sequence[Object]) -> Cause:
    """The pod has a node but the trainer does not run: image, secrets, mounts, or first containers at work."""
    status = pod.get("status", {})
    for one in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = one.get("state", {}).get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _IMAGE:
            fix = "correct job.image, push it, or name its pull secret in job.pull_secrets"
            return Cause(
                f'image "{one.get("image", "")}" cannot be pulled ({reason}): {_one_line(message)}',
                fix,
            )
        if reason == "CrashLoopBackOff":
            return _crash_loop(one)
        if reason in _CREATE:
            fix = _missing(message) or "change what it names"
            return Cause(
                f'container "{one["name"]}" cannot be created ({reason}): {_one_line(message)}', fix
            )
        if "running" in one.get("state", {}) and one["name"] != pod_of.main_container(pod):
            return Cause(_INIT_WORK.get(one["name"], f'container "{one["name"]}" runs first'))
    return _mount_trouble(pod, events)


def _crash_loop(one: Mapping[str, Any]) -> Cause:
    """A container that its node starts again and again (pods of vidjobs are not restarted in place; those of others' Jobs may be)."""
    ended = one.get("lastState", {}).get("terminated", {})
    code, why = int(ended.get("exitCode", 0)), str(ended.get("reason", ""))
    said = _one_line(ended.get("message", ""), last=True)
    killed = " (OOMKilled)" if why == "OOMKilled" else ""
    text = f'container "{one["name"]}" fails again and again ({one.get("restartCount", 0)} restarts), the last time with exit code {code}'
    fix = "raise job.resources.memory" if killed else "`vidjobs logs` shows what it said"
    return Cause(text + killed + (f": {said}" if said else ""), fix)


def queued(queue: str, workload: str, events: Sequence[Object]) -> Cause:
    """A Job that Kueue holds back: what Kueue said last of its workload (which quota is short of how much)."""
    said = max(
        (event for event in events if workload and event["involvedObject"].get("name") == workload),
        key=event_time,
        default=None,
    )
    if said is None or said.get("reason") not in _KUEUE_WAITS:
        return Cause(f'waits in the queue "{queue}" to be admitted', "wait for its turn")
    words = _one_line(said.get("message", ""))
    if "exist" in words or "inactive" in words.lower() or "stopped" in words.lower():
        return Cause(
            f'the queue "{queue}" takes nothing: {words}',
            "correct job.queue: `kubectl get localqueues` lists them",
        )
    wait = "wait for its turn, or ask for less in job.resources"
    return Cause(f'waits in the queue "{queue}": {words}', wait)


def workload_of(job: Mapping[str, Any], events: Sequence[Object]) -> str:
    """The name of the workload that Kueue made for the Job, from its event on the Job; "" when it made none."""
    mine = [
        event for event in events if event["involvedObject"].get("name") == job["metadata"]["name"]
    ]
    made = max(
        (event for event in mine if event.get("reason") == "CreatedWorkload"),
        key=event_time,
        default=None,
    )
    return str(made.get("message", "")).rpartition("/")[2].strip() if made else ""


def disrupted(pod: Mapping[str, Any]) -> str:
    """What took the pod away from outside: "preempted by a pod of higher priority"; "" when nothing did."""
    disruption = pod_of.condition(pod, "DisruptionTarget")
    return (
        _DISRUPTIONS.get(str(disruption.get("reason")), "evicted")
        if disruption.get("status") == "True"
        else ""
    )


def failure(pod: Mapping[str, Any], run: str) -> Cause:
    """Why a pod that is over has failed."""
    status = pod.get("status", {})
    disruption = pod_of.condition(pod, "DisruptionTarget")
    if (why := disrupted(pod)) or status.get("reason") == "Evicted":
        said = _one_line(str(status.get("message") or disruption.get("message", "")))
        return Cause(f"{why or 'evicted'}: {said}", _eviction_fix(said))
    init = pod_of.failed_init(pod)
    if init:
        ended = init["state"]["terminated"]
        words = _one_line(ended.get("message", ""), last=True)
        text = (
            f'first container "{init["name"]}" failed with exit code {ended["exitCode"]}: {words}'
        )
        return Cause(text, f"`vidjobs logs {run}` shows all it said")
    ended = (
        pod_of.container_status(pod, pod_of.main_container(pod))
        .get("state", {})
        .get("terminated", {})
    )
    if ended:
        return _ended(pod, ended, run)
    return Cause(
        f"{status.get('reason') or 'failed'}: {_one_line(status.get('message', ''))}",
        f"`vidjobs resume {run}` tries again",
    )


def termination(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's last message, when it is the JSON it writes at its end: a flat object."""
    ended = (
        pod_of.container_status(pod, pod_of.main_container(pod))
        .get("state", {})
        .get("terminated", {})
    )
    try:
        said = json.loads(ended.get("message", ""))
    except (ValueError, RecursionError):  # any program may have written it
        return {}
    flat = said.items() if isinstance(said, dict) else ()
    return {
        key: value
        for key, value in flat
        if isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
    }


_INIT_WORK = {"code": "checking out the code", "stage": "copying the volumes that say stage_to"}


def _ended(pod: Mapping[str, Any], ended: Mapping[str, Any], run: str) -> Cause:
    code, reason = int(ended.get("exitCode", 0)), str(ended.get("reason", ""))
    if reason == "OOMKilled":
        limit = _limits(pod).get("memory", "its limit")
        fix = "raise job.resources.memory, or lower train.batch or the number of data workers"
        return Cause(f"out of memory: it used more than {limit} (shm included)", fix)
    if reason == "ContainerStatusUnknown":
        return Cause(
            "its node lost track of it", f"`vidjobs resume {run}` goes on from the last checkpoint"
        )
    said = termination(pod)
    words = said or (ended if exit_codes.log_tells(code) else {})
    detail = _one_line(str(words.get("message") or ""), last=not said)
    return Cause(
        exit_codes.meaning(code) + (f": {detail}" if detail else ""),
        exit_codes.next_step(code, run),
    )


def _mount_trouble(pod: Mapping[str, Any], events: Sequence[Object]) -> Cause:
    event = current_warning(events, pod_of.name(pod))
    if event is None or event.get("reason") not in (
        "FailedMount",
        "FailedAttachVolume",
        "FailedCreatePodSandBox",
        "FailedMapVolume",
    ):
        return NOTHING
    node = pod.get("spec", {}).get("nodeName", "its node")
    if event["reason"] == "FailedCreatePodSandBox":
        return Cause(
            f"{node} cannot start the pod: {_one_line(event['message'])}",
            "wait, or delete the pod if it stays so",
        )
    return Cause(
        f"a volume cannot be mounted on {node}: {_one_line(event['message'])}",
        _mount_fix(str(event["message"])),
    )


def _mount_fix(message: str) -> str:
    if missing := _missing(message):
        return missing
    if "Multi-Attach" in message:
        return "a pod on another node holds this one-node (RWO) volume: cancel that run, or wait"
    if "timed out" in message or "deadline" in message.lower():
        return "wait; if it stays so, the storage has a problem: ask the cluster's administrators"
    return "wait; the node tries again"


def _missing(message: str) -> str:
    """What to do about a secret or config map that is named and not there; "" when that is not the trouble."""
    missing = re.search(r'(secret|configmap)s? "([^"]+)" not found', message)
    return (
        f"create the {missing[1]} {missing[2]}, or correct its name: the node tries again by itself"
        if missing
        else ""
    )


def _scheduling_fix(message: str, pod: Mapping[str, Any]) -> str:
    gpu = _GPU.search(message)
    if gpu:
        return f"wait until {gpu[1]} is free, or ask for fewer or another type (`vidjobs doctor` shows what is free)"
    if "affinity/selector" in message or "didn't match" in message:
        return _selector_fix(pod)
    scarce = [
        f"job.resources.{key}"
        for resource, key in _SCARCE.items()
        if f"Insufficient {resource}" in message
    ]
    if scarce:
        return f"ask for less in {' and '.join(scarce)}, or wait"
    if "volume node affinity conflict" in message:
        return "the volume lies where no fitting node is: change job.resources.gpu_type or use a volume there"
    if "untolerated taint" in message:
        return "add the taint to job.tolerations if the site allows it"
    return "wait, or ask for less"


def _selector_fix(pod: Mapping[str, Any]) -> str:
    label = "no free node has that label: choose other types in job.resources.gpu_type, or change job.node_selector"
    if not any(_terms(pod, "matchFields")):
        return label
    if pod["spec"].get("nodeSelector") or any(_terms(pod, "matchExpressions")):
        return f"{label}; job.avoid_nodes leaves fewer"
    run = pod["metadata"].get("labels", {}).get(pod_of.RUN_LABEL, "RUN")
    return f"job.avoid_nodes leaves no free node: wait, or `vidjobs delete {run}` and `vidjobs rerun {run} --set job.avoid_nodes=[]`"


def _asked(pod: Mapping[str, Any], message: str) -> str:
    """What the pod asks of the scarce things and, where nodes did not match, of labels and names: ` (asks for 9, avoids gpu-7)`."""
    gpu, limits = _GPU.search(message), _limits(pod)
    if gpu and gpu[1] in limits:
        return f" (asks for {limits[gpu[1]]})"
    asked = [
        f"{resource} {limits[resource]}"
        for resource in _SCARCE
        if f"Insufficient {resource}" in message and resource in limits
    ]
    avoided: list[str] = []
    if "affinity/selector" in message:
        wanted = dict(pod["spec"].get("nodeSelector") or {})
        wanted |= {
            one["key"]: " or ".join(one.get("values", []))
            for one in _terms(pod, "matchExpressions")
        }
        asked += [f"{key}={value}" for key, value in wanted.items()]
        avoided = [name for one in _terms(pod, "matchFields") for name in one.get("values", [])]
    told = [
        f"{verb} {', '.join(names)}"
        for verb, names in (("asks for", asked), ("avoids", avoided))
        if names
    ]
    return f" ({', '.join(told)})" if told else ""


def _terms(pod: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    """What the pod requires of its node: `matchExpressions` of labels, or `matchFields` (of vidjobs: names to avoid)."""
    required = (
        pod["spec"]
        .get("affinity", {})
        .get("nodeAffinity", {})
        .get("requiredDuringSchedulingIgnoredDuringExecution", {})
    )
    for term in required.get("nodeSelectorTerms", []):
        yield from term.get(kind, [])


def _limits(pod: Mapping[str, Any]) -> dict[str, str]:
    main = pod_of.main_container(pod)
    for one in pod["spec"]["containers"]:
        if one["name"] == main:
            return dict(one.get("resources", {}).get("limits") or {})
    return {}


def _eviction_fix(message: str) -> str:
    if "ephemeral" in message:
        return "raise job.resources.scratch: the pod wrote more than it asked for"
    return "nothing to do: a retry goes on from the last checkpoint"


def _without_name(message: str) -> str:
    """`pods "x-abc" is forbidden: exceeded quota…` -> `exceeded quota…`."""
    return re.sub(r'^pods "[^"]*" is forbidden: ', "", message)


def _one_line(text: str, *, last: bool = False) -> str:
    """The first (or last) line that is not blank, at most 300 characters, without what would steer a terminal."""
    plain = _STEERING.sub("", str(text or ""))
    lines = [line.strip() for line in plain.splitlines() if line.strip()] or [""]
    return "".join(
        letter if letter.isprintable() else " " for letter in lines[-1 if last else 0][:300]
    )


def _seconds(time: str) -> str:
    """To the second: events carry microseconds or none."""
    return time[:19]
