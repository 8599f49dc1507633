"""What a pod's dict says: pure look-ups shared by status, logs and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.render import TRIALS_ANNOTATION

Object = dict[str, Any]

TRAINER = "trainer"
RUN_LABEL = "vidjobs/run"
INDEX = "batch.kubernetes.io/job-completion-index"


def of_job(run: str, index: int | None = None) -> str:
    """Label selector of the pods that the Job controller made for a run (not of helper pods), or for one of its indexes."""
    return f"batch.kubernetes.io/job-name={run}" + ("" if index is None else f",{INDEX}={index}")


def name(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def uid(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["uid"])


def oldest_first(pods: Sequence[Object]) -> list[Object]:
    """By creation; pods of one second by completion index, the lowest last: "the newest pod" of an Indexed Job is index 0's."""
    return sorted(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), -index(pod)))


def over(pod: Mapping[str, Any]) -> bool:
    """The pod will not run any more."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def live(pods: Sequence[Object]) -> list[Object]:
    return [pod for pod in pods if not over(pod)]


def container_status(pod: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    """The status entry of a container, init containers included; empty before the kubelet wrote one."""
    status = pod.get("status", {})
    for one in [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]:
        if one["name"] == container:
            return dict(one)
    return {}


def container_state(pod: Mapping[str, Any], container: str) -> str:
    """ "waiting", "running", "terminated", or "absent" when the pod ended before the container began."""
    state = container_status(pod, container).get("state", {})
    if "terminated" in state:
        return "terminated" if state["terminated"].get("startedAt") else "absent"
    if over(pod):
        return "terminated" if "running" in state else "absent"
    return "running" if "running" in state else "waiting"


def main_container(pod: Mapping[str, Any]) -> str:
    """The trainer's container; of a pod without one the first."""
    names = [str(one["name"]) for one in pod["spec"]["containers"]]
    return TRAINER if TRAINER in names else names[0]


def failed_init(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """The status of the first init container that ended with an error; empty when none did."""
    for one in pod.get("status", {}).get("initContainerStatuses", []):
        if one.get("state", {}).get("terminated", {}).get("exitCode", 0) != 0:
            return dict(one)
    return {}


def begun(pod: Mapping[str, Any]) -> bool:
    """It has a log: its trainer runs or has run, or a container before it has failed."""
    return bool(failed_init(pod)) or container_state(pod, main_container(pod)) in (
        "running",
        "terminated",
    )


def from_newest_begun(pods: Sequence[Object]) -> list[Object]:
    """Of pods, oldest first, the newest that has a log, and those after it, which may have one soon; where none has one the newest."""
    first = max((number for number, pod in enumerate(pods) if begun(pod)), default=len(pods) - 1)
    return list(pods[first:])


def claims(pod: Mapping[str, Any]) -> set[str]:
    """Names of the claims that the pod mounts."""
    volumes = pod.get("spec", {}).get("volumes", [])
    return {
        str(one["persistentVolumeClaim"]["claimName"])
        for one in volumes
        if "persistentVolumeClaim" in one
    }


def condition(thing: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The condition of that type when its status is True or False; empty when there is none."""
    for one in thing.get("status", {}).get("conditions") or []:
        if one.get("type") == kind:
            return dict(one)
    return {}


def holds(thing: Mapping[str, Any], kind: str) -> bool:
    return condition(thing, kind).get("status") == "True"


def job_ended(job: Mapping[str, Any] | None) -> str:
    """ "succeeded", "failed", "gone", "suspended", or "" while the Job goes on by itself.

    SuccessCriteriaMet and FailureTarget come first: Complete and Failed wait for the last pod, which a lost node can hold for a day.
    """
    if job is None:
        return "gone"
    if holds(job, "Complete") or holds(job, "SuccessCriteriaMet"):
        return "succeeded"
    if holds(job, "Failed") or holds(job, "FailureTarget"):
        return "failed"
    return "suspended" if job.get("spec", {}).get("suspend") else ""


def indexed(job: Mapping[str, Any] | None) -> bool:
    """Whether its pods are trials or shards: each has an index of its own, and is tried again by itself."""
    return "backoffLimitPerIndex" in (job or {}).get("spec", {})


def nodes(job: Mapping[str, Any] | None) -> int:
    """Pods that train together, and are tried again together; 1 for nearly all Jobs."""
    spec = (job or {}).get("spec", {})
    return (
        int(spec.get("completions") or 1)
        if spec.get("completionMode") == "Indexed" and not indexed(job)
        else 1
    )


def word(job: Mapping[str, Any]) -> str:
    """What they are."""
    return (
        "trials"
        if TRIALS_ANNOTATION
        in job["spec"].get("template", {}).get("metadata", {}).get("annotations", {})
        else "shards"
    )


def index(pod: Mapping[str, Any]) -> int:
    text = pod["metadata"].get("annotations", {}).get(INDEX, "0")
    return int(text) if text.isdigit() else 0
