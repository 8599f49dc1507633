"""Several nodes of one training: what may ask for them, which volumes they can share, and which nodes a run should stay away from. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from launcher.backend_base import Phase, PodStatus, RunStatus, Volume
from launcher.conf.schema import JobConf
from launcher.errors import Fault
from launcher.records import RunRecord

VERBS = ("train", "test", "eval")  # whose processes work together
PORT = 29400  # where node 0 waits for the others; each pod has its own network
_ONE_NODE = {"ReadWriteOnce": "one node at a time", "ReadWriteOncePod": "one pod at a time"}
# Exit codes that say why: the conf, the data, the volume, a wish to stop, the loss; of Python and
# the shell (1, 2, 126, 127) that
# the image lacks what was to be run. They would be the same on every node.
_OF_THE_RUN = frozenset({0, 1, 2, 64, 65, 73, 75, 76, 126, 127})
# Endings that Kubernetes gives when the node could not hold or start the pod.
_OF_THE_NODE = frozenset(
    {
        "UnexpectedAdmissionError",
        "ContainerStatusUnknown",
        "NodeLost",
        "NodeShutdown",
        "StartError",
        "ContainerCannotRun",
    }
)
_OF_OTHERS = frozenset(
    {
        "PreemptionByScheduler",
        "EvictionByEvictionAPI",
        "DeletionByTaintManager",
        "Preempting",
        "Evicted",
        "OOMKilled",
    }
)


def faults(verb: str, job: JobConf) -> list[Fault]:
    """Nodes for a verb whose work is one process's."""
    if job.nodes == 1 or verb in VERBS:
        return []
    share = (
        f"`--shards {job.nodes}` shares it among pods" if verb == "prepare" else "one pod does it"
    )
    message = (
        f"is {job.nodes}, and `{verb}` runs on one node: only {', '.join(VERBS)} run on several"
    )
    return [Fault(path="job.nodes", message=message, hint=f"--set job.nodes=1; {share}")]


def volume_warnings(job: JobConf, volumes: Iterable[Volume]) -> list[str]:
    """Claims that pods on several nodes cannot mount."""
    known = {volume.claim: volume.access.split(",") for volume in volumes}
    warnings = []
    for claim in dict.fromkeys(volume.claim for volume in job.volumes) if job.nodes > 1 else ():
        modes = known.get(claim, [])
        if modes and all(mode in _ONE_NODE for mode in modes):
            why = f'job.nodes is {job.nodes}, and the claim "{claim}" is {modes[0]}: mounted by {_ONE_NODE[modes[0]]}'
            warnings.append(
                f"{why}; pods elsewhere wait for it for ever (take a ReadWriteMany claim, or job.nodes: 1)"
            )
    return warnings


def console(record: RunRecord) -> int | None:
    """The index whose log is the run's: 0 of a training on several nodes, whose others only repeat or add to it. None: no such run."""
    for manifest in record.manifests:
        spec = manifest.get("spec", {})
        if (
            manifest.get("kind") == "Job"
            and spec.get("completionMode") == "Indexed"
            and "backoffLimitPerIndex" not in spec
        ):
            return 0
    return None


def failed_repeatedly(pods: Sequence[PodStatus], *, least: int = 2) -> dict[str, int]:
    """Nodes that failed the run's pods `least` times or more, and how often each did, for `job.avoid_nodes` of a run that is tried again.

    What ends a pod on any node does not count: the run's own exit codes, too little memory, a preemption. A crash (70, a signal)
    counts while all crashes are one node's; on two nodes it is the run's own.
    """
    ended = [
        pod
        for pod in pods
        if pod.phase is Phase.FAILED and pod.node and pod.reason not in _OF_OTHERS
    ]
    refused = [pod for pod in ended if pod.reason in _OF_THE_NODE or pod.exit_code == 128]
    crashed = [
        pod
        for pod in ended
        if pod not in refused and pod.exit_code is not None and pod.exit_code not in _OF_THE_RUN
    ]
    blamed = refused + (crashed if len({pod.node for pod in crashed}) == 1 else [])
    return {
        node: times
        for node, times in sorted(Counter(pod.node for pod in blamed).items())
        if times >= least
    }


def blamed(record: RunRecord, status: RunStatus) -> dict[str, int]:
    """The same for a run: by its pods while they are there, then by what was noted of them. This machine has no other node to go to."""
    if record.backend == "local":
        return {}
    return (
        failed_repeatedly(status.pods)
        if any(pod.phase is Phase.FAILED for pod in status.pods)
        else record.blamed
    )


def told(blamed: dict[str, int]) -> str:
    """`node gpu-7, which failed 3 attempts`"""
    return ", ".join(
        f"node {node}, which failed {times} attempts" for node, times in blamed.items()
    )
